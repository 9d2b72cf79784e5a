"""The gate in the database, by numbered migrations: installed, repaired, and taken away again."""

import psycopg
from psycopg import sql

from vaultbrix.api.conditions import Reason
from vaultbrix.postgres.migrations import Ledger, Migration, migrate_database, read_migrations
from vaultbrix.runtime.errors import Blocked

_LEDGER = Ledger(
    table=("vaultbrix", "migration"),
    # Two operators at once, one after the other. Any tenant could hold an advisory lock; this needs a superuser.
    lock="LOCK TABLE pg_catalog.pg_event_trigger IN SHARE ROW EXCLUSIVE MODE",
    create=(
        "CREATE SCHEMA IF NOT EXISTS vaultbrix",
        "CREATE TABLE IF NOT EXISTS vaultbrix.migration(version int PRIMARY KEY, name text NOT NULL,"
        " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())",
    ),
    note="INSERT INTO vaultbrix.migration(version, name, sha256) VALUES (%(version)s, %(name)s, %(sha256)s)",
)


def migrations() -> list[Migration]:
    """The gate's scripts, in order."""
    return read_migrations("vaultbrix.ddl.gate")


async def install(connection: psycopg.AsyncConnection) -> int:
    """Apply the migrations that are missing, all or none, and repair the gate; returns the version in force.

    Raises Blocked when the database was migrated by a newer version of this program.
    """
    known = migrations()
    version = await migrate_database(connection, _LEDGER, known)
    if version > known[-1].version:
        raise Blocked(
            Reason.UNSUPPORTED_VERSION,
            f"the database is at migration {version}, this operator knows {known[-1].version}; upgrade the operator",
        )
    await connection.execute("SELECT vaultbrix.repair()")
    return version


async def tidy(connection: psycopg.AsyncConnection) -> None:
    """Forget what transactions made that have ended; what a lock stands in the way of is left to the next time."""
    await connection.execute("SELECT vaultbrix.tidy()")


async def uninstall(connection: psycopg.AsyncConnection) -> None:
    """Take the gate away: event triggers, guards, passes, claims and its owner, in one transaction.

    Tenants keep roles, data and the right to empty their own tables; a comment on each role says whose it is, for a
    later installation. Group roles and pgaudit stay: pg_hba.conf and the agent refer to them. Nothing where there is
    no gate. Raises psycopg.Error and changes nothing while a table is locked, or when somebody built on what is in
    schema vaultbrix (a column of one of its types, say): the error's detail names what.
    """
    async with connection.transaction():
        await connection.execute("SELECT set_config('lock_timeout', '5s', true)")
        # Also those of others that build on the gate.
        cursor = await connection.execute(
            "SELECT evtname FROM pg_event_trigger WHERE evtowner = to_regrole('vaultbrix_gate')"
        )
        for (name,) in await cursor.fetchall():
            await connection.execute(sql.SQL("DROP EVENT TRIGGER {}").format(sql.Identifier(name)))
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


_CLAIMS = "SELECT role_name, namespace, name FROM vaultbrix.tenant JOIN pg_roles ON rolname = role_name"
_CLAIMS_WITH_UID = (
    "SELECT t.role_name, t.namespace, t.name, CASE WHEN u.bound_at IS NOT NULL THEN u.uid END FROM vaultbrix.tenant t"
    " JOIN pg_roles ON rolname = t.role_name LEFT JOIN vaultbrix.tenant_uid u USING (role_name)"
)


async def _note_claims(connection: psycopg.AsyncConnection) -> None:
    if not await _has_schema(connection):
        return
    # An older gate knows no uids; one that stands for an object that is not known yet means nothing to another gate.
    cursor = await connection.execute("SELECT to_regclass('vaultbrix.tenant_uid') IS NOT NULL")
    has_uids = await cursor.fetchone() == (True,)
    cursor = await connection.execute(_CLAIMS_WITH_UID if has_uids else _CLAIMS)
    for role, *whose in await cursor.fetchall():
        owner = "/".join(part for part in whose if part)
        await connection.execute(
            sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(role), sql.Literal(f"vaultbrix Tenant {owner}"))
        )


async def _has_schema(connection: psycopg.AsyncConnection) -> bool:
    cursor = await connection.execute("SELECT to_regclass('vaultbrix.tenant') IS NOT NULL")
    row = await cursor.fetchone()
    return bool(row and row[0])
