"""What an ended rule was used for, counted in the audit store."""
