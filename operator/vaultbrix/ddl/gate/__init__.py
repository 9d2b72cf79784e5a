"""The gate inside the database: its schema, its passes, and what goes around it."""
