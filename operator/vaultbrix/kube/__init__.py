"""The Kubernetes API: one client, one cache of objects, Leases, events, and the one way to write a status."""
