"""The Kubernetes API: one client, one cache, leases, events, and the one way to write a status."""
