"""The authorizer of the data API: from each request's key and user to one tenant, one role and one schema."""
