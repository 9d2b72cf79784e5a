"""Tenants: role and schema in PostgreSQL, credentials in a Secret, and the logins that their rules may have."""
