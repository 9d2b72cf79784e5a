"""What a text of SQL is and does, from PostgreSQL's own parser; ``domain.ddlplan.plan`` puts it together."""
