"""The gate in the database: numbered migrations, the policy of a tenant, one-time logins.

Passes are in ``passes`` and findings in ``gateaudit``; both can be had from here.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

import psycopg
from psycopg import sql

from vaultbrix.adapters import roles
from vaultbrix.adapters.gateaudit import EVENT_TRIGGERS, audit_gate
from vaultbrix.adapters.passes import (
    PassUse,
    committed,
    dropped,
    issue_pass,
    open_passes,
    purge,
    revoke_pass,
    steps,
    use_of,
)
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Blocked

__all__ = [
    "Migration",
    "PassUse",
    "ServerFacts",
    "audit_gate",
    "committed",
    "create_login",
    "drop_login",
    "dropped",
    "facts",
    "install",
    "issue_pass",
    "logins",
    "migrations",
    "open_passes",
    "purge",
    "revoke_pass",
    "set_policy",
    "steps",
    "uninstall",
    "use_of",
]

OLDEST_VERSION = 15


@dataclass(frozen=True)
class ServerFacts:
    """What a server says of itself."""

    version: str
    system_identifier: str


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
    for item in files("vaultbrix.sql").joinpath("migrations").iterdir():
        number, _, name = item.name.removesuffix(".sql").partition("_")
        found.append(Migration(int(number), name, item.read_text()))
    return sorted(found, key=lambda m: m.version)


async def facts(connection: psycopg.AsyncConnection) -> ServerFacts:
    """Version and system identifier. Raises Blocked for a server that cannot be used."""
    cursor = await connection.execute(
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,"
        " (SELECT system_identifier::text FROM pg_control_system()),"
        " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery(),"
        " current_setting('shared_preload_libraries')"
    )
    row = await cursor.fetchone()
    assert row is not None
    version, major, identifier, superuser, recovery, preloaded = row
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
    return ServerFacts(version, identifier)


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


async def set_policy(connection: psycopg.AsyncConnection, role: str, *, additive: bool) -> None:
    """Whether ALTERs that only add pass without an approval when they run as the tenant's role.

    Decided by effect in the database (migration 0005). Raises psycopg.errors.ForeignKeyViolation for a role that is
    no tenant's; goes with the tenant.
    """
    if additive:
        await connection.execute(
            "INSERT INTO vaultbrix.additive_role(role_name) VALUES (%s) ON CONFLICT DO NOTHING", [role]
        )
    else:
        await connection.execute("DELETE FROM vaultbrix.additive_role WHERE role_name = %s", [role])


async def create_login(
    connection: psycopg.AsyncConnection, *, login: str, role: str, verifier: str, valid_until: datetime
) -> None:
    """A one-time login that is a member of the tenant's role, or a new password for the one there is."""
    name, tenant = sql.Identifier(login), sql.Identifier(role)
    async with connection.transaction():
        await roles.quiet(connection)
        cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [login])
        if await cursor.fetchone() is None:
            await connection.execute(sql.SQL("CREATE ROLE {} NOINHERIT").format(name))
        await connection.execute(
            sql.SQL(
                "ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
                " CONNECTION LIMIT 2 VALID UNTIL {} PASSWORD {}"
            ).format(name, sql.Literal(valid_until.isoformat()), sql.Literal(verifier))
        )
        await roles.join(connection, login, role, may_become=True)
        await roles.join(connection, login, "vaultbrix_jobs", may_become=False)
        await connection.execute(sql.SQL("ALTER ROLE {} SET search_path = {}").format(name, tenant))
        for setting, value in roles.AUDITED.items():
            parameter = sql.Identifier(*setting.split("."))
            await connection.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(name, parameter, sql.Literal(value)))


async def drop_login(connection: psycopg.AsyncConnection, login: str, heir: str | None = None) -> None:
    """End the login's sessions and drop it; what a text made outside the tenant's role goes to the tenant.

    Where the tenant is not known, the heir is a tenant that the login is a member of.
    """
    cursor = await connection.execute(
        "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        " JOIN vaultbrix.tenant t ON t.role_name = g.rolname JOIN pg_roles r ON r.oid = m.member"
        " WHERE r.rolname = %(login)s AND g.rolname = coalesce(%(heir)s, g.rolname)",
        {"login": login, "heir": heir},
    )
    await roles.drop(connection, login, [str(tenant) for (tenant,) in await cursor.fetchall()])


async def logins(connection: psycopg.AsyncConnection) -> list[str]:
    """All one-time logins that there are."""
    cursor = await connection.execute(
        "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
        " WHERE m.roleid = 'vaultbrix_jobs'::regrole"
    )
    return [str(name) for (name,) in await cursor.fetchall()]
