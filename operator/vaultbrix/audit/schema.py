"""The store's schema and logins, made by its owner; and whether a store has the schema that this release works with."""

from collections.abc import Sequence

import psycopg
from psycopg import errors, sql

from vaultbrix.postgres.migrations import Ledger, Migration, migrate_database, read_migrations

# Two installs at once would race for the same roles.
_LOCK = f"SELECT pg_advisory_xact_lock({0x7662_7802})"
LEDGER = Ledger(
    table=("public", "audit_migration"),
    lock=_LOCK,
    create=(
        "CREATE TABLE IF NOT EXISTS public.audit_migration(version int PRIMARY KEY,"
        " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())",
        # Everybody who works with the store asks first whether they know its schema.
        "GRANT SELECT ON public.audit_migration TO PUBLIC",
    ),
    note="INSERT INTO public.audit_migration(version, name) VALUES (%(version)s, %(file_name)s)",
)
_VERSION = "SELECT coalesce(max(version), 0) FROM public.audit_migration"
# COPY FROM is not allowed under row security; these may insert only, and see no record.
_BYPASS = frozenset({"audit_append"})


class OtherSchema(Exception):
    """The store's schema, ``stored``, is not the one that this release works with, ``known``: numbers of migrations."""

    def __init__(self, stored: int, known: int) -> None:
        super().__init__(f"schema {stored} is not this release's {known}")
        self.stored = stored
        self.known = known

    @property
    def newer(self) -> bool:
        """Whether the store is of a later release, and not of an earlier one."""
        return self.stored > self.known


def migrations() -> list[Migration]:
    """The store's scripts, in order."""
    return read_migrations("vaultbrix.audit")


async def migrate(connection: psycopg.AsyncConnection) -> int:
    """Apply the migrations that are missing, as the store's owner; returns the version in force.

    A store of a newer release is left as it is, and its version returned. Raises psycopg.Error.
    """
    return await migrate_database(connection, LEDGER, migrations())


async def check_schema(connection: psycopg.AsyncConnection) -> None:
    """Raises OtherSchema where the store is of another release, psycopg.Error where it cannot be asked."""
    try:
        row = await (await connection.execute(_VERSION)).fetchone()
    except errors.InsufficientPrivilege:
        row = None
    _compare(row)


def check_schema_sync(connection: psycopg.Connection) -> None:
    """The same for a connection that blocks."""
    try:
        row = connection.execute(_VERSION).fetchone()
    except errors.InsufficientPrivilege:
        row = None
    _compare(row)


def _compare(row: tuple[int] | None) -> None:
    # The first release kept its version from all but the owner.
    stored, known = row[0] if row else 1, migrations()[-1].version
    if stored != known:
        raise OtherSchema(stored, known)


async def ensure_login(
    connection: psycopg.AsyncConnection, *, name: str, group: str, verifier: str, servers: Sequence[str] = ()
) -> None:
    """A login that is a member of one of the store's groups, and nothing else.

    ``servers`` are what a shipper's login ships; no other login does that any more.
    """
    async with connection.transaction():
        await connection.execute(_LOCK)
        cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name])
        login = sql.Identifier(name)
        if await cursor.fetchone() is None:
            await connection.execute(sql.SQL("CREATE ROLE {}").format(login))
        await connection.execute(
            sql.SQL("ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE {} PASSWORD {}").format(
                login, sql.SQL("BYPASSRLS" if group in _BYPASS else "NOBYPASSRLS"), sql.Literal(verifier)
            )
        )
        await connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), login))
        for server in servers:
            await connection.execute("DELETE FROM audit.shipper WHERE server = %s AND login <> %s", [server, name])
            await connection.execute(
                "INSERT INTO audit.shipper(login, server) VALUES (%s, %s) ON CONFLICT DO NOTHING", [name, server]
            )
