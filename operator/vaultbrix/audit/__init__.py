"""From PostgreSQL's log on disk to the audit store, and back as a table."""
