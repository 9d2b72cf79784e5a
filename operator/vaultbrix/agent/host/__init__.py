"""What the agent changes on its machine: firewall, sockets, pg_hba.conf, and PostgreSQL's sessions."""
