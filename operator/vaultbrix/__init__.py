"""Secure, time-bound, audited access to PostgreSQL as Kubernetes resources."""
