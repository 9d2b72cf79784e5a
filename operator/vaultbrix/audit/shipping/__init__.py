"""PostgreSQL's log on disk → sealed batches in the store."""
