"""A tenant's role and schema in PostgreSQL. Idempotent: reads what is there, changes what differs."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from vaultbrix.api.conditions import Reason
from vaultbrix.postgres import roles
from vaultbrix.runtime.errors import Blocked


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
        await roles.ensure(connection, _login_role(wanted))
        await _schema(connection, wanted, name)
        await roles.ensure_password(connection, wanted.role, password, salt)
    if not wanted.login:
        await roles.end_sessions(connection, wanted.role)


async def lock(connection: psycopg.AsyncConnection, role: str, owner: tuple[str, str]) -> None:
    """Retain: nobody logs in any more, the data stays, the slug stays with its owner."""
    if not await owned(connection, role, owner):
        return
    await roles.lock(connection, role)


async def drop(connection: psycopg.AsyncConnection, role: str, owner: tuple[str, str]) -> None:
    """Delete: schema and role go, with everything the role owns, and the slug is free."""
    if not await owned(connection, role, owner):
        return
    name = sql.Identifier(role)
    await roles.lock(connection, role)
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


def _login_role(wanted: TenantRole) -> roles.LoginRole:
    return roles.LoginRole(
        name=wanted.role,
        login=wanted.login,
        connection_limit=wanted.connection_limit,
        mark="vaultbrix_tenants",
        search_path=wanted.role,
        settings=wanted.settings,
    )


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
