"""Roles of ours that log in: made, mended when they drift, dropped without a trace."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from vaultbrix.postgres import scram

# Every name a Tenant can set; one that is no longer wanted is reset.
MANAGED_SETTINGS = frozenset({"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "work_mem"})


@dataclass(frozen=True)
class LoginRole:
    """What should hold. ``valid_until`` None means for ever.

    All its memberships: ``mark`` says in pg_hba.conf what it is, ``acts_as`` is the role that it may take on. It
    inherits from neither: REASSIGN OWNED fires no event trigger, and gives to roles whose rights are one's own.
    """

    name: str
    login: bool
    connection_limit: int
    mark: str
    search_path: str
    settings: Mapping[str, str]
    acts_as: str | None = None
    valid_until: datetime | None = None


async def ensure(connection: psycopg.AsyncConnection, wanted: LoginRole) -> None:
    """Make attributes, memberships and settings as wanted; call within a transaction."""
    name = sql.Identifier(wanted.name)
    await _attributes(connection, wanted, name)
    await _memberships(connection, wanted, name)
    await _settings(connection, wanted, name)
    await _no_truncate(connection, wanted.name, name)


async def ensure_password(connection: psycopg.AsyncConnection, role: str, password: str, salt: bytes) -> None:
    """Make the verifier that of the password, unless it is already; call within a transaction, as its last part."""
    cursor = await connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role])
    row = await cursor.fetchone()
    if row is None or not scram.matches(password, row[0]):
        await quiet(connection)
        await connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(role), sql.Literal(scram.verifier(password, salt))
            )
        )


async def lock(connection: psycopg.AsyncConnection, role: str) -> None:
    """Nobody logs in any more, and whoever is there goes; the role must exist."""
    await connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role)))
    await end_sessions(connection, role)


async def drop(connection: psycopg.AsyncConnection, role: str, heirs: Collection[str]) -> None:
    """End the role's sessions and drop it, with whatever rights somebody has granted to it.

    What it made goes to the first of the heirs, so that dropping it loses nothing; without any, it goes too.
    """
    cursor = await connection.execute("SELECT oid FROM pg_roles WHERE rolname = %s", [role])
    row = await cursor.fetchone()
    if row is None:
        return
    await lock(connection, role)
    name = sql.Identifier(role)
    async with connection.transaction():
        for heir in heirs:
            await connection.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(name, sql.Identifier(heir)))
        await connection.execute(sql.SQL("DROP OWNED BY {} {}").format(name, sql.SQL("" if heirs else "CASCADE")))
        await connection.execute(sql.SQL("DROP ROLE {}").format(name))
    # One that was logging in meanwhile is found by the oid only.
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = %s", [row[0]])


async def end_sessions(connection: psycopg.AsyncConnection, role: str) -> None:
    """Terminate all sessions of a login role and wait until they are gone, 2 s at most."""
    await connection.execute(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE usename = %s AND pid <> pg_backend_pid()",
        [role],
    )


async def quiet(connection: psycopg.AsyncConnection) -> None:
    """Keep the statements of this transaction, which hold a verifier, out of the server's log."""
    for name, value in _QUIET:
        await connection.execute("SELECT set_config(%s, %s, true)", [name, value])


# Every statement goes on record before it runs, with every table and view that it touches. pgaudit.log_rows stays off:
# it would have them written when they end, and those that fail not at all.
AUDITED: Mapping[str, str] = {"pgaudit.log": "all", "pgaudit.log_relation": "on"}

_QUIET: Sequence[tuple[str, str]] = (
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("log_min_error_statement", "panic"),
    ("pgaudit.log", "none"),
)


async def _attributes(connection: psycopg.AsyncConnection, wanted: LoginRole, name: sql.Identifier) -> None:
    until = wanted.valid_until.isoformat() if wanted.valid_until else "infinity"
    cursor = await connection.execute(
        "SELECT rolcanlogin, rolconnlimit, rolinherit,"
        " rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls"
        " OR coalesce(rolvaliduntil, 'infinity') <> %s::timestamptz"
        " FROM pg_roles WHERE rolname = %s",
        [until, wanted.name],
    )
    row = await cursor.fetchone()
    if row is None:
        await connection.execute(sql.SQL("CREATE ROLE {}").format(name))
    if row != (wanted.login, wanted.connection_limit, False, False):
        await connection.execute(
            sql.SQL(
                "ALTER ROLE {} {} NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
                " CONNECTION LIMIT {} VALID UNTIL {}"
            ).format(
                name,
                sql.SQL("LOGIN" if wanted.login else "NOLOGIN"),
                sql.Literal(wanted.connection_limit),
                sql.Literal(until),
            )
        )


async def _memberships(connection: psycopg.AsyncConnection, wanted: LoginRole, name: sql.Identifier) -> None:
    groups = {wanted.mark: False} | ({wanted.acts_as: True} if wanted.acts_as else {})
    # Before PostgreSQL 16 a membership had no options of its own; the columns are missing.
    cursor = await connection.execute(
        "SELECT g.rolname, m.admin_option OR coalesce((to_jsonb(m)->>'inherit_option')::boolean, false),"
        " (to_jsonb(m)->>'set_option')::boolean FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        " JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = %s",
        [wanted.name],
    )
    kept = set()
    for group, more, may_become in await cursor.fetchall():
        if group in groups and not more and may_become in (None, groups[group]):
            kept.add(group)
        else:
            await connection.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(group), name))
    for group in sorted(groups.keys() - kept):
        await join(connection, wanted.name, group, may_become=groups[group])


async def join(connection: psycopg.AsyncConnection, role: str, group: str, *, may_become: bool) -> None:
    """Make a role a member that inherits nothing; ``may_become``: by SET ROLE, which before PostgreSQL 16 any may."""
    options = f" WITH INHERIT FALSE, SET {may_become}" if connection.info.server_version >= 160000 else ""
    await connection.execute(
        sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role)) + sql.SQL(options)
    )


async def _settings(connection: psycopg.AsyncConnection, wanted: LoginRole, name: sql.Identifier) -> None:
    # search_path is a list of identifiers, stored as PostgreSQL prints it; a role's name needs no quotes there.
    desired = {**wanted.settings, "search_path": wanted.search_path, **AUDITED}
    cursor = await connection.execute(
        "SELECT unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole"
        " WHERE r.rolname = %s AND s.setdatabase = 0",
        [wanted.name],
    )
    current = dict(row[0].split("=", 1) for row in await cursor.fetchall())
    for key, value in sorted(desired.items()):
        if current.get(key) != value:
            parameter = sql.SQL(".").join(map(sql.Identifier, key.split(".")))
            shown = sql.Identifier(value) if key == "search_path" else sql.Literal(value)
            await connection.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(name, parameter, shown))
    for key in sorted(MANAGED_SETTINGS & current.keys() - desired.keys()):
        await connection.execute(sql.SQL("ALTER ROLE {} RESET {}").format(name, sql.Identifier(key)))


async def _no_truncate(connection: psycopg.AsyncConnection, role: str, name: sql.Identifier) -> None:
    # EXPLAIN ANALYZE CREATE TABLE AS fires no event trigger: without this, its table could be truncated unseen.
    cursor = await connection.execute(
        "SELECT 1 FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole, aclexplode(d.defaclacl) a"
        " WHERE r.rolname = %s AND d.defaclnamespace = 0 AND d.defaclobjtype = 'r' AND a.grantee = r.oid"
        " GROUP BY d.oid HAVING NOT bool_or(a.privilege_type = 'TRUNCATE')",
        [role],
    )
    if await cursor.fetchone() is None:
        await connection.execute(
            sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} REVOKE TRUNCATE ON TABLES FROM {}").format(name, name)
        )
