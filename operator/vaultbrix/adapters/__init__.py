"""Side effects: the Kubernetes API, PostgreSQL, pg_hba.conf, the kernel's firewall."""
