"""Direct access beside PostgreSQL: watch, decide, enforce, report."""
