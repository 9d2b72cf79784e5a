"""A tenant's schema with tables and functions of every kind, and what its callers may do with them."""

from pathlib import Path

from psycopg import sql
from tests.harness.database import Database

_TABLES = Path(__file__).with_suffix(".sql")

_GRANTS = (
    "GRANT USAGE ON SCHEMA {schema} TO {anon}, {authenticated}",
    "GRANT SELECT ON films, directors, roles, actors TO {anon}, {authenticated}",
    "GRANT SELECT (id, note), INSERT (code, n) ON counters TO {authenticated}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON diary TO {authenticated}",
    "REVOKE EXECUTE ON FUNCTION add(int, int) FROM PUBLIC",
)


def make_films(database: Database, role: str) -> None:
    """Make the tables of ``films.sql`` in a tenant's schema, as the tenant does."""
    names = {
        "schema": sql.Identifier(role),
        "anon": sql.Identifier(f"{role}_anon"),
        "authenticated": sql.Identifier(f"{role}_authenticated"),
    }
    # ENABLE ROW LEVEL SECURITY waits for an approval elsewhere.
    database.set_gate(enabled=False)
    with database.login(role) as session:
        session.execute(_TABLES.read_bytes())
        for grant in _GRANTS:
            session.execute(sql.SQL(grant).format(**names))
    database.set_gate(enabled=True)
    # What count=planned counts.
    database.postgres.query("ANALYZE")
