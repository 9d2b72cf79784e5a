"""Commands for Tenants: rotate."""
