"""What a text of SQL is and does, from PostgreSQL's own parser; ``ddl.plan`` puts it together."""
