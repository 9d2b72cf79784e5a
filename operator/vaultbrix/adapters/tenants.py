"""A tenant's role and schema in PostgreSQL. Idempotent: reads what is there, changes what differs."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from vaultbrix.adapters.gate import end_sessions, quiet
from vaultbrix.api.conditions import Reason
from vaultbrix.domain import scram
from vaultbrix.runtime.errors import Blocked

# Every name a Tenant can set; one that is no longer wanted is reset.
MANAGED_SETTINGS = frozenset({"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "work_mem"})


@dataclass(frozen=True)
class TenantRole:
    """What should hold in the database. ``owner`` is (namespace, name) of the Tenant."""

    role: str
    owner: tuple[str, str]
    login: bool
    connection_limit: int
    settings: dict[str, str]


async def provision(connection: psycopg.AsyncConnection, wanted: TenantRole, password: str, salt: bytes) -> None:
    """Make role, schema, memberships, settings and verifier as wanted, in one transaction.

    Raises Blocked(SlugTaken), changing nothing, when the role or schema belongs to somebody else.
    """
    name = sql.Identifier(wanted.role)
    async with connection.transaction():
        await _claim(connection, wanted)
        await _role(connection, wanted, name)
        await _schema(connection, wanted, name)
        await _settings(connection, wanted, name)
        await _password(connection, wanted.role, name, password, salt)
    if not wanted.login:
        await end_sessions(connection, wanted.role)


async def lock(connection: psycopg.AsyncConnection, role: str, owner: tuple[str, str]) -> None:
    """Retain: nobody logs in any more, the data stays, the slug stays with its owner."""
    if not await owned(connection, role, owner):
        return
    await connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role)))
    await end_sessions(connection, role)


async def drop(connection: psycopg.AsyncConnection, role: str, owner: tuple[str, str]) -> None:
    """Delete: schema and role go, with everything the role owns, and the slug is free."""
    if not await owned(connection, role, owner):
        return
    name = sql.Identifier(role)
    await connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(name))
    await end_sessions(connection, role)
    async with connection.transaction():
        await _lock_claim(connection, role)
        await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
        await connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(name))
        await connection.execute(sql.SQL("DROP ROLE {}").format(name))
        await connection.execute("DELETE FROM vaultbrix.tenant WHERE role_name = %s", [role])


async def owned(connection: psycopg.AsyncConnection, role: str, owner: tuple[str, str]) -> bool:
    """Whether the role exists and belongs to that Tenant."""
    cursor = await connection.execute(
        "SELECT 1 FROM vaultbrix.tenant t JOIN pg_roles r ON r.rolname = t.role_name"
        " WHERE t.role_name = %s AND (t.namespace, t.name) = (%s, %s)",
        [role, *owner],
    )
    return await cursor.fetchone() is not None


async def _lock_claim(connection: psycopg.AsyncConnection, role: str) -> None:
    # A row that no tenant can lock, unlike an advisory lock. Where there is none yet, the primary key lets one win.
    await connection.execute("SELECT 1 FROM vaultbrix.tenant WHERE role_name = %s FOR UPDATE", [role])


async def _claim(connection: psycopg.AsyncConnection, wanted: TenantRole) -> None:
    await _lock_claim(connection, wanted.role)
    cursor = await connection.execute(
        "SELECT t.namespace, t.name, r.oid IS NOT NULL, s.oid IS NOT NULL AND s.nspowner IS DISTINCT FROM r.oid"
        " FROM (SELECT %s::name AS wanted) w LEFT JOIN vaultbrix.tenant t ON t.role_name = w.wanted"
        " LEFT JOIN pg_roles r ON r.rolname = w.wanted LEFT JOIN pg_namespace s ON s.nspname = w.wanted",
        [wanted.role],
    )
    row = await cursor.fetchone()
    assert row is not None
    namespace, name, role_exists, schema_foreign = row
    if namespace is not None and (namespace, name) != wanted.owner:
        raise Blocked(
            Reason.SLUG_TAKEN, f"{wanted.role} belongs to Tenant {namespace}/{name}; choose another spec.slug"
        )
    if namespace is None and (role_exists or schema_foreign):
        raise Blocked(
            Reason.SLUG_TAKEN,
            f"a role or schema {wanted.role} that is not managed here exists; choose another spec.slug",
        )
    if namespace is None:
        await connection.execute(
            "INSERT INTO vaultbrix.tenant(role_name, namespace, name) VALUES (%s, %s, %s)",
            [wanted.role, *wanted.owner],
        )


async def _role(connection: psycopg.AsyncConnection, wanted: TenantRole, name: sql.Identifier) -> None:
    cursor = await connection.execute(
        "SELECT rolcanlogin, rolconnlimit, rolinherit,"
        " rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls"
        " OR coalesce(rolvaliduntil, 'infinity') <> 'infinity'"
        " FROM pg_roles WHERE rolname = %s",
        [wanted.role],
    )
    row = await cursor.fetchone()
    if row is None:
        await connection.execute(sql.SQL("CREATE ROLE {}").format(name))
    if row != (wanted.login, wanted.connection_limit, True, False):
        await connection.execute(
            sql.SQL(
                "ALTER ROLE {} {} INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
                " CONNECTION LIMIT {} VALID UNTIL 'infinity'"
            ).format(
                name,
                sql.SQL("LOGIN" if wanted.login else "NOLOGIN"),
                sql.Literal(wanted.connection_limit),
            )
        )
    cursor = await connection.execute(
        "SELECT g.rolname, m.admin_option FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        " JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = %s",
        [wanted.role],
    )
    memberships = await cursor.fetchall()
    for group, admin in memberships:
        if group != "vaultbrix_tenants" or admin:
            await connection.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(group), name))
    if ("vaultbrix_tenants", False) not in memberships:
        await connection.execute(sql.SQL("GRANT vaultbrix_tenants TO {}").format(name))


async def _schema(connection: psycopg.AsyncConnection, wanted: TenantRole, name: sql.Identifier) -> None:
    cursor = await connection.execute(
        "SELECT n.nspowner = r.oid FROM pg_namespace n, pg_roles r WHERE n.nspname = %s AND r.rolname = %s",
        [wanted.role, wanted.role],
    )
    row = await cursor.fetchone()
    if row is None:
        await connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, name))
    elif not row[0]:
        await connection.execute(sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(name, name))
    # EXPLAIN ANALYZE CREATE TABLE AS fires no event trigger: without this, its table could be truncated unseen.
    cursor = await connection.execute(
        "SELECT 1 FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole, aclexplode(d.defaclacl) a"
        " WHERE r.rolname = %s AND d.defaclnamespace = 0 AND d.defaclobjtype = 'r' AND a.grantee = r.oid"
        " GROUP BY d.oid HAVING NOT bool_or(a.privilege_type = 'TRUNCATE')",
        [wanted.role],
    )
    if await cursor.fetchone() is None:
        await connection.execute(
            sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} REVOKE TRUNCATE ON TABLES FROM {}").format(name, name)
        )


async def _settings(connection: psycopg.AsyncConnection, wanted: TenantRole, name: sql.Identifier) -> None:
    # search_path is a list of identifiers, stored as PostgreSQL prints it; a role's name needs no quotes there.
    desired = {**wanted.settings, "search_path": wanted.role, "pgaudit.log": "all"}
    cursor = await connection.execute(
        "SELECT unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole"
        " WHERE r.rolname = %s AND s.setdatabase = 0",
        [wanted.role],
    )
    current = dict(row[0].split("=", 1) for row in await cursor.fetchall())
    for key, value in sorted(desired.items()):
        if current.get(key) != value:
            parameter = sql.SQL(".").join(map(sql.Identifier, key.split(".")))
            shown = sql.Identifier(value) if key == "search_path" else sql.Literal(value)
            await connection.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(name, parameter, shown))
    for key in sorted(MANAGED_SETTINGS & current.keys() - desired.keys()):
        await connection.execute(sql.SQL("ALTER ROLE {} RESET {}").format(name, sql.Identifier(key)))


async def _password(
    connection: psycopg.AsyncConnection, role: str, name: sql.Identifier, password: str, salt: bytes
) -> None:
    cursor = await connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role])
    row = await cursor.fetchone()
    if row is None or not scram.matches(password, row[0]):
        await quiet(connection)
        await connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(scram.verifier(password, salt)))
        )
