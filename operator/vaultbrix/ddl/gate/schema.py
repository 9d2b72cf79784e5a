"""The gate in the database, by numbered migrations: installed, repaired, and taken away again."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

import psycopg
from psycopg import sql

from vaultbrix.api.conditions import Reason
from vaultbrix.ddl.gate.drift import EVENT_TRIGGERS
from vaultbrix.runtime.errors import Blocked


@dataclass(frozen=True)
class Migration:
    """One numbered script; applied once, in order, never edited after a release."""

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the script, kept with the record of its application."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All scripts, in order. Names are ``0001_gate.sql``."""
    found = []
    for item in files("vaultbrix.ddl.gate").joinpath("sql").iterdir():
        number, _, name = item.name.removesuffix(".sql").partition("_")
        found.append(Migration(int(number), name, item.read_text()))
    return sorted(found, key=lambda m: m.version)


async def install(connection: psycopg.AsyncConnection) -> int:
    """Apply the migrations that are missing, each in its own transaction; returns the version in force.

    Raises Blocked when the database was migrated by a newer version of this program.
    """
    known = migrations()
    async with connection.transaction():
        # Two operators at once, one after the other. Any tenant could hold an advisory lock; this needs a superuser.
        await connection.execute("LOCK TABLE pg_catalog.pg_event_trigger IN SHARE ROW EXCLUSIVE MODE")
        await connection.execute("CREATE SCHEMA IF NOT EXISTS vaultbrix")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS vaultbrix.migration(version int PRIMARY KEY, name text NOT NULL,"
            " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        cursor = await connection.execute("SELECT coalesce(max(version), 0) FROM vaultbrix.migration")
        row = await cursor.fetchone()
        assert row is not None
        current: int = row[0]
        if current > known[-1].version:
            raise Blocked(
                Reason.UNSUPPORTED_VERSION,
                f"the database is at migration {current}, this operator knows {known[-1].version}; "
                "upgrade the operator",
            )
        for migration in known:
            if migration.version > current:
                await connection.execute(migration.text)
                await connection.execute(
                    "INSERT INTO vaultbrix.migration(version, name, sha256) VALUES (%s, %s, %s)",
                    [migration.version, migration.name, migration.sha256],
                )
    await connection.execute("SELECT vaultbrix.repair()")
    return known[-1].version


async def uninstall(connection: psycopg.AsyncConnection) -> None:
    """Take the gate away: event triggers, guards, passes, claims and its owner, in one transaction.

    Tenants keep roles, data and the right to empty their own tables; a comment on each role says whose it is, for a
    later installation. Group roles and pgaudit stay: pg_hba.conf and the agent refer to them. Nothing where there is
    no gate. Raises psycopg.Error and changes nothing while a table is locked, or when somebody built on what is in
    schema vaultbrix (a column of one of its types, say): the error's detail names what.
    """
    async with connection.transaction():
        await connection.execute("SELECT set_config('lock_timeout', '5s', true)")
        for name in EVENT_TRIGGERS:
            await connection.execute(sql.SQL("DROP EVENT TRIGGER IF EXISTS {}").format(sql.Identifier(name)))
        cursor = await connection.execute(
            "SELECT n.nspname, c.relname, r.rolname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner"
            " WHERE t.tgname = 'vaultbrix_truncate_guard' AND t.tgparentid = 0"
        )
        for schema, table, _ in await cursor.fetchall():
            await connection.execute(
                sql.SQL("DROP TRIGGER vaultbrix_truncate_guard ON {}").format(sql.Identifier(schema, table))
            )
        cursor = await connection.execute(
            "SELECT n.nspname, c.relname, r.rolname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " JOIN pg_roles r ON r.oid = c.relowner JOIN vaultbrix.tenant t ON t.role_name = r.rolname"
            " WHERE c.relkind IN ('r', 'p') AND NOT has_table_privilege(r.oid, c.oid, 'TRUNCATE')"
            if await _has_schema(connection)
            else "SELECT WHERE false"
        )
        for schema, table, owner in await cursor.fetchall():
            await connection.execute(
                sql.SQL("GRANT TRUNCATE ON {} TO {}").format(sql.Identifier(schema, table), sql.Identifier(owner))
            )
        cursor = await connection.execute(
            "SELECT r.rolname FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole"
            " JOIN pg_auth_members m ON m.member = r.oid AND m.roleid = to_regrole('vaultbrix_tenants')"
            " WHERE d.defaclnamespace = 0 AND d.defaclobjtype = 'r'"
        )
        for (role,) in await cursor.fetchall():
            await connection.execute(
                sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {0} GRANT TRUNCATE ON TABLES TO {0}").format(
                    sql.Identifier(role)
                )
            )
        await _note_claims(connection)
        await _drop_schema(connection)
        cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'vaultbrix_gate'")
        if await cursor.fetchone():
            await connection.execute("DROP OWNED BY vaultbrix_gate")
            await connection.execute("DROP ROLE vaultbrix_gate")


async def _drop_schema(connection: psycopg.AsyncConnection) -> None:
    # Never CASCADE: a column of a tenant's table may have a type that is in here.
    cursor = await connection.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('vaultbrix')"
    )
    tables = [sql.Identifier("vaultbrix", name) for (name,) in await cursor.fetchall()]
    if tables:
        await connection.execute(sql.SQL("DROP TABLE {}").format(sql.SQL(", ").join(tables)))
    cursor = await connection.execute(
        "SELECT proname, pg_get_function_identity_arguments(oid) FROM pg_proc"
        " WHERE pronamespace = to_regnamespace('vaultbrix')"
    )
    functions = [
        sql.SQL("{}({})").format(sql.Identifier("vaultbrix", name), sql.SQL(arguments))
        for name, arguments in await cursor.fetchall()
    ]
    if functions:
        await connection.execute(sql.SQL("DROP FUNCTION {}").format(sql.SQL(", ").join(functions)))
    await connection.execute("DROP SCHEMA IF EXISTS vaultbrix")


async def _note_claims(connection: psycopg.AsyncConnection) -> None:
    if not await _has_schema(connection):
        return
    cursor = await connection.execute(
        "SELECT role_name, namespace, name FROM vaultbrix.tenant JOIN pg_roles ON rolname = role_name"
    )
    for role, namespace, name in await cursor.fetchall():
        await connection.execute(
            sql.SQL("COMMENT ON ROLE {} IS {}").format(
                sql.Identifier(role), sql.Literal(f"vaultbrix Tenant {namespace}/{name}")
            )
        )


async def _has_schema(connection: psycopg.AsyncConnection) -> bool:
    cursor = await connection.execute("SELECT to_regclass('vaultbrix.tenant') IS NOT NULL")
    row = await cursor.fetchone()
    return bool(row and row[0])
