"""A tenant's role and schema in PostgreSQL. Idempotent: reads what is there, changes what differs."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from vaultbrix.api.conditions import Reason
from vaultbrix.ddl.gate.policy import set_policy
from vaultbrix.postgres import roles
from vaultbrix.runtime.errors import Blocked
from vaultbrix.tenants.decisions import TenantRole


async def provision(connection: psycopg.AsyncConnection, wanted: TenantRole, password: str, salt: bytes) -> None:
    """Make role, schema, memberships, settings, policy and verifier as wanted, in one transaction.

    Raises Blocked(SlugTaken), changing nothing, when the role or schema belongs to somebody else.
    """
    async with connection.transaction():
        claim = await _read_claim(connection, wanted.role)
        role = await roles.read(connection, wanted.role)
        statements = [
            *_claim(wanted, claim, role_exists=role is not None),
            *roles.changes(_login_role(wanted), role, connection.info.server_version),
            *_schema(wanted, claim),
        ]
        await roles.apply(connection, statements, wanted.role, role.verifier if role else None, password, salt)
        if claim.additive is not wanted.additive:
            await set_policy(connection, wanted.role, additive=wanted.additive)
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


@dataclass(frozen=True)
class _Claim:
    """Whose the slug is: ``owner`` is None while it is nobody's. ``schema_owner`` is None where there is no schema."""

    owner: tuple[str, str] | None
    schema_owner: str | None
    additive: bool


async def _read_claim(connection: psycopg.AsyncConnection, role: str) -> _Claim:
    cursor = await connection.execute(
        "WITH claim AS MATERIALIZED ("
        "  SELECT namespace, name FROM vaultbrix.tenant WHERE role_name = %(role)s FOR UPDATE)"
        " SELECT claim.namespace, claim.name, pg_get_userbyid(s.nspowner)::text,"
        " EXISTS (SELECT FROM vaultbrix.additive_role WHERE role_name = %(role)s)"
        " FROM (SELECT) one LEFT JOIN claim ON true LEFT JOIN pg_namespace s ON s.nspname = %(role)s",
        {"role": role},
    )
    row = await cursor.fetchone()
    assert row is not None
    namespace, name, schema_owner, additive = row
    return _Claim((namespace, name) if namespace is not None else None, schema_owner, additive)


def _claim(wanted: TenantRole, claim: _Claim, *, role_exists: bool) -> list[sql.Composable]:
    """What makes the slug the Tenant's. Raises Blocked when it is somebody else's."""
    if claim.owner == wanted.owner:
        return []
    if claim.owner is not None:
        taken = "/".join(claim.owner)
        raise Blocked(Reason.SLUG_TAKEN, f"{wanted.role} belongs to Tenant {taken}; choose another spec.slug")
    if role_exists or claim.schema_owner is not None:
        raise Blocked(
            Reason.SLUG_TAKEN,
            f"a role or schema {wanted.role} that is not managed here exists; choose another spec.slug",
        )
    return [
        sql.SQL("INSERT INTO vaultbrix.tenant(role_name, namespace, name) VALUES ({}, {}, {})").format(
            *map(sql.Literal, (wanted.role, *wanted.owner))
        )
    ]


def _schema(wanted: TenantRole, claim: _Claim) -> list[sql.Composable]:
    name = sql.Identifier(wanted.role)
    if claim.schema_owner is None:
        return [sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, name)]
    if claim.schema_owner != wanted.role:
        return [sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(name, name)]
    return []
