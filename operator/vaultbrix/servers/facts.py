"""Asks a PostgreSQL server for its version and whether the operator can use it."""

import psycopg

from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Blocked
from vaultbrix.servers.decisions import ServerFacts

OLDEST_VERSION = 15


async def read_facts(connection: psycopg.AsyncConnection) -> ServerFacts:
    """What the server is. Raises Blocked for a server that cannot be used."""
    cursor = await connection.execute(
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,"
        " (SELECT system_identifier::text FROM pg_control_system()),"
        " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery(),"
        " current_setting('shared_preload_libraries'),"
        " (SELECT default_version FROM pg_available_extensions WHERE name = 'pgaudit')"
    )
    row = await cursor.fetchone()
    assert row is not None
    version, major, identifier, superuser, recovery, preloaded, pgaudit = row
    if major < OLDEST_VERSION:
        raise Blocked(
            Reason.UNSUPPORTED_VERSION,
            f"PostgreSQL {version} is too old; {OLDEST_VERSION} or later is needed",
        )
    if not superuser:
        raise Blocked(
            Reason.INSUFFICIENT_PRIVILEGE,
            "the user of spec.adminSecretRef is no superuser; event triggers need one",
        )
    if recovery:
        raise Blocked(Reason.UNREACHABLE, "the server is in recovery; spec.host must lead to the primary")
    if "pgaudit" not in [name.strip() for name in preloaded.split(",")]:
        raise Blocked(
            Reason.UNSUPPORTED_VERSION,
            "pgaudit is not loaded; add it to shared_preload_libraries and restart PostgreSQL",
        )
    return ServerFacts(version, identifier, major, pgaudit or "")
