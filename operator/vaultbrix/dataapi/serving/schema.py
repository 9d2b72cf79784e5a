"""What the data API needs in the tenants' database, by numbered migrations."""

import psycopg

from vaultbrix.api.conditions import Reason
from vaultbrix.postgres.migrations import Ledger, migrate_database, read_migrations
from vaultbrix.runtime.errors import Blocked

_LEDGER = Ledger(
    table=("vaultbrix", "data_api_migration"),
    # As for the gate: two operators at once, one after the other.
    lock="LOCK TABLE pg_catalog.pg_event_trigger IN SHARE ROW EXCLUSIVE MODE",
    create=(
        "CREATE TABLE IF NOT EXISTS vaultbrix.data_api_migration(version int PRIMARY KEY, name text NOT NULL,"
        " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())",
        "ALTER TABLE vaultbrix.data_api_migration OWNER TO vaultbrix_gate",
    ),
    note="INSERT INTO vaultbrix.data_api_migration(version, name, sha256) VALUES (%(version)s, %(name)s, %(sha256)s)",
)


async def install(connection: psycopg.AsyncConnection) -> int:
    """Apply the migrations that are missing, all or none; returns the version in force. The gate must be there.

    Raises Blocked when somebody else has a schema auth, and when a newer version of this program was here.
    """
    await _check_auth(connection)
    known = read_migrations("vaultbrix.dataapi.serving")
    version = await migrate_database(connection, _LEDGER, known)
    if version > known[-1].version:
        raise Blocked(
            Reason.UNSUPPORTED_VERSION,
            f"the data API of the database is at migration {version}, this operator knows {known[-1].version};"
            " upgrade the operator",
        )
    return version


async def _check_auth(connection: psycopg.AsyncConnection) -> None:
    # Whoever owned the schema or a function in it would decide what policies believe of the caller.
    cursor = await connection.execute(
        "SELECT pg_get_userbyid(o.owner)::text FROM ("
        "  SELECT nspowner AS owner FROM pg_namespace WHERE nspname = 'auth'"
        "  UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = to_regnamespace('auth')"
        "   AND proname IN ('jwt', 'role', 'uid')) o"
        " WHERE NOT (SELECT rolsuper FROM pg_roles WHERE oid = o.owner) LIMIT 1"
    )
    row = await cursor.fetchone()
    if row is not None:
        raise Blocked(
            Reason.SCHEMA_TAKEN,
            f"schema auth, or a function in it, belongs to {row[0]}; rename or drop it, or give it to the admin",
        )
