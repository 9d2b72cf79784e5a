"""The gate in the database: numbered migrations, passes and the ledger of runs."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

import psycopg
from psycopg import sql

from vaultbrix.adapters import roles
from vaultbrix.api.conditions import Reason
from vaultbrix.domain.ddlplan import Plan
from vaultbrix.runtime.errors import Blocked

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
        await connection.execute("CREATE SCHEMA IF NOT EXISTS vaultbrix")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS vaultbrix.migration(version int PRIMARY KEY, name text NOT NULL,"
            " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        # Two operators during an upgrade, one after the other. No advisory lock: any tenant could hold it.
        await connection.execute("LOCK TABLE vaultbrix.migration IN SHARE ROW EXCLUSIVE MODE")
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


async def issue_pass(
    connection: psycopg.AsyncConnection,
    *,
    pass_id: str,
    role: str,
    login: str,
    approved_by: str,
    expires_at: datetime,
    plan: Plan,
) -> None:
    """Store the pass of an approval; one that is stored already stays as it is."""
    async with connection.transaction():
        cursor = await connection.execute(
            "INSERT INTO vaultbrix.ddl_pass(pass_id, role_name, login, approved_by, expires_at, gated, lexer_safe)"
            " VALUES (%s, %s, %s, %s, %s, %s, true) ON CONFLICT DO NOTHING",
            [pass_id, role, login, approved_by, expires_at, plan.gated],
        )
        if cursor.rowcount:
            async with connection.cursor() as many:
                await many.executemany(
                    "INSERT INTO vaultbrix.ddl_pass_text(pass_id, from_stmt, to_stmt, sha256) VALUES (%s, %s, %s, %s)",
                    [(pass_id, run.first, run.last, run.sha256) for run in plan.runs],
                )


async def revoke_pass(connection: psycopg.AsyncConnection, pass_id: str) -> None:
    """End the pass; it stays as a record."""
    await connection.execute(
        "UPDATE vaultbrix.ddl_pass SET revoked_at = clock_timestamp() WHERE pass_id = %s AND revoked_at IS NULL",
        [pass_id],
    )


async def committed(connection: psycopg.AsyncConnection, pass_id: str) -> bool:
    """Whether the text of that pass ran: its ledger row is written in the DDL's own transaction."""
    cursor = await connection.execute("SELECT 1 FROM vaultbrix.ddl_run WHERE pass_id = %s", [pass_id])
    return await cursor.fetchone() is not None


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
        for group in (tenant, sql.Identifier("vaultbrix_jobs")):
            await connection.execute(sql.SQL("GRANT {} TO {}").format(group, name))
        await connection.execute(sql.SQL("ALTER ROLE {} SET search_path = {}").format(name, tenant))
        await connection.execute(sql.SQL("ALTER ROLE {} SET pgaudit.log = 'all'").format(name))


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
