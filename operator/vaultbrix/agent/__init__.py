"""The agent beside a PostgreSQL server: watches rules, decides what is open, enforces that, and reports it."""
