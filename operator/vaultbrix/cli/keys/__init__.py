"""Commands for APIKeys: keys create, list, rotate, revoke."""
