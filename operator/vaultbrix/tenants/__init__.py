"""Tenants: role and schema, credentials, and the logins of their rules."""
