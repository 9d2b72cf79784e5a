"""When a tenant's password is replaced, and how that is done without a moment at which no password works."""
