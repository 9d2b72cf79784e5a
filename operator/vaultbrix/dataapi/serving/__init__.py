"""Serving a tenant's schema: what the database and the gateway need for it."""
