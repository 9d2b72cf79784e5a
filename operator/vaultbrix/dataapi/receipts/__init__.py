"""What keys were used for that have ended, counted in the audit store."""
