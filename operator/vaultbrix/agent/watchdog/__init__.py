"""Ends the sessions of a tenant that takes so much of what all tenants share that others go short."""
