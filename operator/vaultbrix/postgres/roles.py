"""Our roles that log in: creates them, mends what drifted, drops them without a trace."""

import asyncio
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from vaultbrix.postgres import scram
from vaultbrix.postgres.fingerprints import FINGERPRINT


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

    ``valid_until`` is in seconds since 1970, None for ever. ``databases_with_settings`` are those in which it has
    settings of its own. ``keeps_truncate`` says that it may truncate tables that it creates, ``connects`` and
    ``creates_schemas`` what it may do in this database.
    """

    login: bool
    connection_limit: int
    inherits: bool
    privileged: bool
    valid_until: float | None
    verifier: str | None
    memberships: Sequence[Membership]
    settings: Mapping[str, str]
    databases_with_settings: Sequence[str]
    keeps_truncate: bool
    connects: bool
    creates_schemas: bool
    fingerprint: str


@dataclass(frozen=True)
class Change:
    """A statement that makes a role as it should be, and what of the role it puts right, for a person.

    ``what`` is empty for what is noted beside the role.
    """

    what: str
    statement: sql.Composable


@dataclass(frozen=True)
class KeptVerifier:
    """In place of a password that is not known any more: the verifier that the role has, if its SHA-256 is this one.

    Otherwise the role has none, and nobody logs in with a password.
    """

    sha256: str


NO_VERIFIER = KeptVerifier("")


@dataclass(frozen=True)
class Outcome:
    """What was done to a role: ``changed`` names what was not as it should be, nothing where the role is new.

    ``fingerprint`` is that of the role as it should be; None where it was not looked at after a change.
    """

    fingerprint: str | None
    changed: tuple[str, ...] = ()


_READ_FINGERPRINT = sql.SQL("SELECT {} FROM pg_authid r WHERE r.rolname = %s").format(FINGERPRINT)

# Before PostgreSQL 16 a membership had no options of its own; the columns are missing.
_READ = sql.SQL(
    "SELECT r.rolcanlogin, r.rolconnlimit, r.rolinherit,"
    " r.rolsuper OR r.rolcreatedb OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls,"
    " extract(epoch FROM nullif(r.rolvaliduntil, 'infinity')), r.rolpassword,"
    " ARRAY(SELECT jsonb_build_array(g.rolname, m.admin_option"
    "   OR coalesce((to_jsonb(m)->>'inherit_option')::boolean, false), (to_jsonb(m)->>'set_option')::boolean)"
    "  FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid),"
    " ARRAY(SELECT unnest(s.setconfig) FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0),"
    " ARRAY(SELECT d.datname::text FROM pg_database d"
    "  JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = r.oid),"
    " NOT EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a WHERE d.defaclrole = r.oid"
    "  AND d.defaclnamespace = 0 AND d.defaclobjtype = 'r' AND a.grantee = r.oid"
    "  GROUP BY d.oid HAVING NOT bool_or(a.privilege_type = 'TRUNCATE')),"
    " has_database_privilege(r.oid, current_database(), 'CONNECT'),"
    " EXISTS (SELECT FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database()"
    "  AND a.grantee = r.oid AND a.privilege_type = 'CREATE'),"
    " {fingerprint} FROM pg_authid r WHERE r.rolname = %s"
).format(fingerprint=FINGERPRINT)


async def read(connection: psycopg.AsyncConnection, name: str) -> SeenRole | None:
    """The role as it is; None where there is none."""
    row = await (await connection.execute(_READ, [name])).fetchone()
    if row is None:
        return None
    login, limit, inherits, privileged, until, verifier, memberships, settings, databases, *rights, fingerprint = row
    keeps_truncate, connects, creates_schemas = rights
    return SeenRole(
        login=login,
        connection_limit=limit,
        inherits=inherits,
        privileged=privileged,
        valid_until=float(until) if until is not None else None,
        verifier=verifier,
        memberships=[Membership(*each) for each in memberships],
        settings=dict(setting.split("=", 1) for setting in settings),
        databases_with_settings=databases,
        keeps_truncate=keeps_truncate,
        connects=connects,
        creates_schemas=creates_schemas,
        fingerprint=fingerprint,
    )


def changes(desired: LoginRole, seen: SeenRole | None, server_version: int, database: str) -> list[Change]:
    """What makes attributes, memberships, settings and rights as desired in a database; nothing for what is already."""
    return [
        *_attributes(desired, seen),
        *_memberships(desired, seen, server_version),
        *_settings(desired, seen),
        *_no_truncate(desired, seen),
        *_rights(desired, seen, database),
    ]


async def apply(
    connection: psycopg.AsyncConnection,
    needed: Sequence[Change],
    role: str,
    seen: SeenRole | None,
    password: str | KeptVerifier,
    salt: bytes,
) -> Outcome:
    """Make the changes in one message, and set the role's verifier unless it is that of the password already.

    Call within a transaction, as its last part: what follows is not logged by the server.
    """
    present = seen.verifier if seen else None
    if isinstance(password, KeptVerifier):
        sets_password, verifier = present is not None and sha256_of(present) != password.sha256, None
    else:
        # A millisecond each, for which the event loop need not stand still.
        sets_password = not await asyncio.to_thread(scram.matches, password, present)
        verifier = await asyncio.to_thread(scram.verifier, password, salt) if sets_password else None
    first = [*(change.statement for change in needed), *(_quieting() if sets_password else ())]
    if first:
        await connection.execute(sql.SQL("; ").join(first))
    if sets_password:
        # In a message of its own: PostgreSQL logs a message by the settings that it began with.
        await connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier))
        )
    if seen is None:
        # Nobody else could change it yet.
        cursor = await connection.execute(_READ_FINGERPRINT, [role])
        row = await cursor.fetchone()
        assert row is not None
        return Outcome(row[0])
    changed = (*(change.what for change in needed if change.what), *(("password",) if sets_password else ()))
    return Outcome(None if changed else seen.fingerprint, changed)


async def ensure(
    connection: psycopg.AsyncConnection, desired: LoginRole, password: str | KeptVerifier, salt: bytes
) -> Outcome:
    """Make a role's attributes, memberships, settings, rights and verifier as desired.

    Call within a transaction, as its last part: what follows is not logged by the server.
    """
    seen = await read(connection, desired.name)
    needed = changes(desired, seen, connection.info.server_version, connection.info.dbname)
    return await apply(connection, needed, desired.name, seen, password, salt)


def sha256_of(verifier: str) -> str:
    """By which a verifier is known again."""
    return hashlib.sha256(verifier.encode()).hexdigest()


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


def _attributes(desired: LoginRole, seen: SeenRole | None) -> Iterator[Change]:
    name = sql.Identifier(desired.name)
    until = desired.valid_until.timestamp() if desired.valid_until else None
    differing = [
        what
        for what, differs in (
            ("LOGIN", seen is None or seen.login != desired.login),
            ("CONNECTION LIMIT", seen is None or seen.connection_limit != desired.connection_limit),
            ("INHERIT", seen is None or seen.inherits),
            ("an attribute such as SUPERUSER or CREATEROLE", seen is None or seen.privileged),
            ("VALID UNTIL", seen is None or seen.valid_until != until),
        )
        if differs
    ]
    if not differing:
        return
    yield Change(
        ", ".join(differing),
        sql.SQL(
            "{} ROLE {} {} NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            " CONNECTION LIMIT {} VALID UNTIL {}"
        ).format(
            sql.SQL("CREATE" if seen is None else "ALTER"),
            name,
            sql.SQL("LOGIN" if desired.login else "NOLOGIN"),
            sql.Literal(desired.connection_limit),
            sql.Literal(desired.valid_until.isoformat() if desired.valid_until else "infinity"),
        ),
    )


def _memberships(desired: LoginRole, seen: SeenRole | None, server_version: int) -> Iterator[Change]:
    groups = ({desired.mark: False} if desired.mark else {}) | dict.fromkeys(desired.acts_as, True)
    kept = set()
    for membership in seen.memberships if seen else ():
        group = membership.group
        if group in groups and not membership.more and membership.may_become in (None, groups[group]):
            kept.add(group)
        else:
            yield Change(
                f"membership in {group}",
                sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(group), sql.Identifier(desired.name)),
            )
    for group in sorted(groups.keys() - kept):
        yield Change(f"membership in {group}", _join(desired.name, group, server_version, may_become=groups[group]))


def _join(role: str, group: str, server_version: int, *, may_become: bool) -> sql.Composed:
    options = f" WITH INHERIT FALSE, SET {may_become}" if server_version >= 160000 else ""
    return sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role)) + sql.SQL(options)


async def join(connection: psycopg.AsyncConnection, role: str, group: str, *, may_become: bool) -> None:
    """Make a role a member of a group from which it inherits nothing.

    ``may_become`` says whether it may take the group on by SET ROLE; before PostgreSQL 16 every member may.
    """
    await connection.execute(_join(role, group, connection.info.server_version, may_become=may_become))


def _settings(desired: LoginRole, seen: SeenRole | None) -> Iterator[Change]:
    # search_path is a list of identifiers, stored as PostgreSQL prints it; a role's name needs no quotes there.
    settings = {**desired.settings, "search_path": desired.search_path, **AUDITED}
    current = seen.settings if seen else {}
    name = sql.Identifier(desired.name)
    for key, value in sorted(settings.items()):
        if current.get(key) != value:
            shown = sql.Identifier(value) if key == "search_path" else sql.Literal(value)
            yield Change(f"setting {key}", sql.SQL("ALTER ROLE {} SET {} = {}").format(name, _parameter(key), shown))
    for key in sorted(current.keys() - settings.keys()):
        yield Change(f"setting {key}", sql.SQL("ALTER ROLE {} RESET {}").format(name, _parameter(key)))
    for database in seen.databases_with_settings if seen else ():
        yield Change(
            f"settings in database {database}",
            sql.SQL("ALTER ROLE {} IN DATABASE {} RESET ALL").format(name, sql.Identifier(database)),
        )


def _parameter(name: str) -> sql.Composed:
    return sql.SQL(".").join(map(sql.Identifier, name.split(".")))


def _no_truncate(desired: LoginRole, seen: SeenRole | None) -> Iterator[Change]:
    # EXPLAIN ANALYZE CREATE TABLE AS fires no event trigger: without this, its table could be truncated unseen.
    if seen is None or seen.keeps_truncate:
        name = sql.Identifier(desired.name)
        yield Change(
            "default privileges",
            sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} REVOKE TRUNCATE ON TABLES FROM {}").format(name, name),
        )


def _rights(desired: LoginRole, seen: SeenRole | None, database: str) -> Iterator[Change]:
    if seen is None:
        return
    names = (sql.Identifier(database), sql.Identifier(desired.name))
    if desired.login and not seen.connects:
        yield Change(f"CONNECT on database {database}", sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(*names))
    if seen.creates_schemas:
        # Whoever creates schemas may name one as somebody's search_path does.
        yield Change(f"CREATE on database {database}", sql.SQL("REVOKE CREATE ON DATABASE {} FROM {}").format(*names))
