"""Commands for the audit record."""
