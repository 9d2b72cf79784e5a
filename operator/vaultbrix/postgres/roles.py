"""Our roles that log in: creates them, mends what drifted, drops them without a trace."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from vaultbrix.postgres import scram

# Every setting that a Tenant can have; one that its spec no longer names is reset.
MANAGED_SETTINGS = frozenset({"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "work_mem"})


@dataclass(frozen=True)
class LoginRole:
    """A role as it should be. ``valid_until`` None means for ever.

    It is a member of these groups alone: ``mark``, by which pg_hba.conf knows it, and ``acts_as``, the roles that it
    may take on. It inherits from none: REASSIGN OWNED fires no event trigger, and could give away to a role whose
    rights it inherits. A role that nobody logs in as needs no mark.
    """

    name: str
    login: bool
    connection_limit: int
    mark: str | None
    search_path: str
    settings: Mapping[str, str]
    acts_as: tuple[str, ...] = ()
    valid_until: datetime | None = None


@dataclass(frozen=True)
class Membership:
    """A role's membership in a group.

    ``more`` says that the role inherits from the group or may let others in. ``may_become`` says that it may take the
    group on by SET ROLE; None before PostgreSQL 16, where every member may.
    """

    group: str
    more: bool
    may_become: bool | None


@dataclass(frozen=True)
class SeenRole:
    """A role as the catalogue has it. ``privileged`` says that it has an attribute that no login of ours has.

    ``valid_until`` is in seconds since 1970, None for ever. ``keeps_truncate`` says that it may truncate tables that it
    creates.
    """

    login: bool
    connection_limit: int
    inherits: bool
    privileged: bool
    valid_until: float | None
    verifier: str | None
    memberships: Sequence[Membership]
    settings: Mapping[str, str]
    keeps_truncate: bool


# Before PostgreSQL 16 a membership had no options of its own; the columns are missing.
_READ = (
    "SELECT r.rolcanlogin, r.rolconnlimit, r.rolinherit,"
    " r.rolsuper OR r.rolcreatedb OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls,"
    " extract(epoch FROM nullif(r.rolvaliduntil, 'infinity')), r.rolpassword,"
    " ARRAY(SELECT jsonb_build_array(g.rolname, m.admin_option"
    "   OR coalesce((to_jsonb(m)->>'inherit_option')::boolean, false), (to_jsonb(m)->>'set_option')::boolean)"
    "  FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid),"
    " ARRAY(SELECT unnest(s.setconfig) FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0),"
    " NOT EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a WHERE d.defaclrole = r.oid"
    "  AND d.defaclnamespace = 0 AND d.defaclobjtype = 'r' AND a.grantee = r.oid"
    "  GROUP BY d.oid HAVING NOT bool_or(a.privilege_type = 'TRUNCATE'))"
    " FROM pg_authid r WHERE r.rolname = %s"
)


async def read(connection: psycopg.AsyncConnection, name: str) -> SeenRole | None:
    """The role as it is; None where there is none."""
    row = await (await connection.execute(_READ, [name])).fetchone()
    if row is None:
        return None
    login, limit, inherits, privileged, until, verifier, memberships, settings, keeps_truncate = row
    return SeenRole(
        login=login,
        connection_limit=limit,
        inherits=inherits,
        privileged=privileged,
        valid_until=float(until) if until is not None else None,
        verifier=verifier,
        memberships=[Membership(*each) for each in memberships],
        settings=dict(setting.split("=", 1) for setting in settings),
        keeps_truncate=keeps_truncate,
    )


def changes(desired: LoginRole, seen: SeenRole | None, server_version: int) -> list[sql.Composable]:
    """The statements that make attributes, memberships and settings as desired; none for what is already."""
    return [
        *_attributes(desired, seen),
        *_memberships(desired, seen, server_version),
        *_settings(desired, seen),
        *_no_truncate(desired, seen),
    ]


async def apply(
    connection: psycopg.AsyncConnection,
    statements: Sequence[sql.Composable],
    role: str,
    stored_verifier: str | None,
    password: str,
    salt: bytes,
) -> None:
    """Run the statements in one message, and set the role's verifier unless it is that of the password already.

    Call within a transaction, as its last part: what follows is not logged by the server.
    """
    sets_password = not scram.matches(password, stored_verifier)
    first = [*statements, *(_quieting() if sets_password else ())]
    if first:
        await connection.execute(sql.SQL("; ").join(first))
    if sets_password:
        # In a message of its own: PostgreSQL logs a message by the settings that it began with.
        await connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(role), sql.Literal(scram.verifier(password, salt))
            )
        )


async def ensure(connection: psycopg.AsyncConnection, desired: LoginRole, password: str, salt: bytes) -> None:
    """Make a role's attributes, memberships, settings and verifier as desired.

    Call within a transaction, as its last part: what follows is not logged by the server.
    """
    seen = await read(connection, desired.name)
    statements = changes(desired, seen, connection.info.server_version)
    await apply(connection, statements, desired.name, seen.verifier if seen else None, password, salt)


async def lock(connection: psycopg.AsyncConnection, role: str) -> None:
    """Let nobody log in as the role any more, and end its sessions. The role must exist."""
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
    # A session that was just logging in has no name of a role any more, only its oid.
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = %s", [row[0]])


async def end_sessions(connection: psycopg.AsyncConnection, role: str) -> None:
    """Terminate all sessions of a login role and wait until they are gone, 2 s at most."""
    await connection.execute(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE usename = %s AND pid <> pg_backend_pid()",
        [role],
    )


async def quiet(connection: psycopg.AsyncConnection) -> None:
    """Keep the statements of this transaction, which hold a verifier, out of the server's log."""
    await connection.execute(sql.SQL("; ").join(_quieting()))


def _quieting() -> list[sql.Composed]:
    return [
        sql.SQL("SET LOCAL {} = {}").format(sql.SQL(".").join(map(sql.Identifier, name.split("."))), sql.Literal(value))
        for name, value in _QUIET
    ]


# Every statement goes on record before it runs, with every table and view that it touches. pgaudit.log_rows stays off:
# it would have them written when they end, and those that fail not at all.
AUDITED: Mapping[str, str] = {"pgaudit.log": "all", "pgaudit.log_relation": "on"}

_QUIET: Sequence[tuple[str, str]] = (
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("log_min_error_statement", "panic"),
    ("pgaudit.log", "none"),
)


def _attributes(desired: LoginRole, seen: SeenRole | None) -> Iterator[sql.Composable]:
    name = sql.Identifier(desired.name)
    until = desired.valid_until.timestamp() if desired.valid_until else None
    attributes = (desired.login, desired.connection_limit, False, False, until)
    if seen is not None and attributes == (
        seen.login,
        seen.connection_limit,
        seen.inherits,
        seen.privileged,
        seen.valid_until,
    ):
        return
    yield sql.SQL(
        "{} ROLE {} {} NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
        " CONNECTION LIMIT {} VALID UNTIL {}"
    ).format(
        sql.SQL("CREATE" if seen is None else "ALTER"),
        name,
        sql.SQL("LOGIN" if desired.login else "NOLOGIN"),
        sql.Literal(desired.connection_limit),
        sql.Literal(desired.valid_until.isoformat() if desired.valid_until else "infinity"),
    )


def _memberships(desired: LoginRole, seen: SeenRole | None, server_version: int) -> Iterator[sql.Composable]:
    groups = ({desired.mark: False} if desired.mark else {}) | dict.fromkeys(desired.acts_as, True)
    kept = set()
    for membership in seen.memberships if seen else ():
        group = membership.group
        if group in groups and not membership.more and membership.may_become in (None, groups[group]):
            kept.add(group)
        else:
            yield sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(group), sql.Identifier(desired.name))
    for group in sorted(groups.keys() - kept):
        yield _join(desired.name, group, server_version, may_become=groups[group])


def _join(role: str, group: str, server_version: int, *, may_become: bool) -> sql.Composed:
    options = f" WITH INHERIT FALSE, SET {may_become}" if server_version >= 160000 else ""
    return sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role)) + sql.SQL(options)


async def join(connection: psycopg.AsyncConnection, role: str, group: str, *, may_become: bool) -> None:
    """Make a role a member of a group from which it inherits nothing.

    ``may_become`` says whether it may take the group on by SET ROLE; before PostgreSQL 16 every member may.
    """
    await connection.execute(_join(role, group, connection.info.server_version, may_become=may_become))


def _settings(desired: LoginRole, seen: SeenRole | None) -> Iterator[sql.Composable]:
    # search_path is a list of identifiers, stored as PostgreSQL prints it; a role's name needs no quotes there.
    settings = {**desired.settings, "search_path": desired.search_path, **AUDITED}
    current = seen.settings if seen else {}
    name = sql.Identifier(desired.name)
    for key, value in sorted(settings.items()):
        if current.get(key) != value:
            parameter = sql.SQL(".").join(map(sql.Identifier, key.split(".")))
            shown = sql.Identifier(value) if key == "search_path" else sql.Literal(value)
            yield sql.SQL("ALTER ROLE {} SET {} = {}").format(name, parameter, shown)
    for key in sorted(MANAGED_SETTINGS & current.keys() - settings.keys()):
        yield sql.SQL("ALTER ROLE {} RESET {}").format(name, sql.Identifier(key))


def _no_truncate(desired: LoginRole, seen: SeenRole | None) -> Iterator[sql.Composable]:
    # EXPLAIN ANALYZE CREATE TABLE AS fires no event trigger: without this, its table could be truncated unseen.
    if seen is None or seen.keeps_truncate:
        name = sql.Identifier(desired.name)
        yield sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} REVOKE TRUNCATE ON TABLES FROM {}").format(name, name)
