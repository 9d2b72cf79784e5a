"""The store's schema and logins, made by its owner."""

from importlib.resources import files

import psycopg
from psycopg import sql

_LOCK = 0x7662_7802
# COPY FROM is not allowed under row security; these may insert only, and see no record.
_BYPASS = frozenset({"audit_append"})


async def migrate(connection: psycopg.AsyncConnection) -> int:
    """Apply the migrations that are missing, as the store's owner; returns the version in force."""
    async with connection.transaction():
        await _lock(connection)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS public.audit_migration(version int PRIMARY KEY,"
            " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        current = await _version(connection)
        for version, name, script in _scripts():
            if version > current:
                await connection.execute(script.encode())
                await connection.execute(
                    "INSERT INTO public.audit_migration(version, name) VALUES (%s, %s)", [version, name]
                )
                current = version
        # Everybody who works with the store asks first whether they know its schema.
        await connection.execute("GRANT SELECT ON public.audit_migration TO PUBLIC")
    return current


async def version(connection: psycopg.AsyncConnection) -> tuple[int, int]:
    """The schema's version, and that of this release."""
    ours = release_version()
    try:
        return await _version(connection), ours
    except psycopg.errors.InsufficientPrivilege:
        # The first release kept it from all but the owner.
        return 1, ours


def release_version() -> int:
    """The version of the schema that this release knows."""
    return max(number for number, _, _ in _scripts())


async def ensure_login(connection: psycopg.AsyncConnection, *, name: str, group: str, verifier: str) -> None:
    """A login that is a member of one of the store's groups, and nothing else."""
    async with connection.transaction():
        await _lock(connection)
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


async def _lock(connection: psycopg.AsyncConnection) -> None:
    # Two installs at once would race for the same roles.
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


async def _version(connection: psycopg.AsyncConnection) -> int:
    cursor = await connection.execute("SELECT coalesce(max(version), 0) FROM public.audit_migration")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


def _scripts() -> list[tuple[int, str, str]]:
    found = sorted(files("vaultbrix.audit").joinpath("sql").iterdir(), key=lambda item: item.name)
    return [(int(item.name.split("_", 1)[0]), item.name, item.read_text()) for item in found]
