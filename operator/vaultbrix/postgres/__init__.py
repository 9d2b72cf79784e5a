"""Connections to PostgreSQL, its roles and verifiers, migrations."""
