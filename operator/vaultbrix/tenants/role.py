"""Makes, locks and drops a tenant's role and schema in PostgreSQL; reads what is there and changes what differs."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from vaultbrix.api.conditions import Reason
from vaultbrix.ddl.gate.policy import IS_ADDITIVE, set_policy
from vaultbrix.postgres import roles
from vaultbrix.runtime.errors import Blocked
from vaultbrix.tenants.decisions import TenantRole


async def provision(connection: psycopg.AsyncConnection, desired: TenantRole, password: str, salt: bytes) -> None:
    """Make role, schema, memberships, settings, policy and verifier as desired, in one transaction.

    Raises Blocked(SlugTaken), changing nothing, when the role or schema belongs to somebody else.
    """
    async with connection.transaction():
        claim = await _read_claim(connection, desired)
        role = await roles.read(connection, desired.role)
        statements = [
            *_claim_statements(desired, claim, role_exists=role is not None),
            *roles.changes(_login_role(desired), role, connection.info.server_version),
            *_schema_statements(desired, claim),
        ]
        await roles.apply(connection, statements, desired.role, role.verifier if role else None, password, salt)
        if desired.additive is not None and desired.additive is not claim.additive:
            await set_policy(connection, desired.role, additive=desired.additive)
    if not desired.login:
        await roles.end_sessions(connection, desired.role)


async def lock(connection: psycopg.AsyncConnection, role: str, owner: tuple[str, str]) -> None:
    """Let nobody log in any more; the data stays, and the slug stays its owner's (deletionPolicy Retain)."""
    if not await owned(connection, role, owner):
        return
    await roles.lock(connection, role)


async def drop(connection: psycopg.AsyncConnection, role: str, owner: tuple[str, str]) -> None:
    """Drop schema and role with everything that the role owns, and free the slug (deletionPolicy Delete)."""
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


def _login_role(desired: TenantRole) -> roles.LoginRole:
    return roles.LoginRole(
        name=desired.role,
        login=desired.login,
        connection_limit=desired.connection_limit,
        mark="vaultbrix_tenants",
        search_path=desired.role,
        settings=desired.settings,
    )


async def _lock_claim(connection: psycopg.AsyncConnection, role: str) -> None:
    # A row that no tenant can lock, unlike an advisory lock. Where there is none yet, the primary key lets one win.
    await connection.execute("SELECT 1 FROM vaultbrix.tenant WHERE role_name = %s FOR UPDATE", [role])


@dataclass(frozen=True)
class _SlugClaim:
    """Who has the slug. ``owner`` is (namespace, name) of a Tenant, None while none has it.

    ``schema_owner`` is the role that owns the schema, None where there is no schema. ``additive`` says whether its
    ALTERs that only add pass without an approval, None where that was not asked.
    """

    owner: tuple[str, str] | None
    schema_owner: str | None
    additive: bool | None


_READ_CLAIM = sql.SQL(
    "WITH claim AS MATERIALIZED ("
    "  SELECT namespace, name FROM vaultbrix.tenant WHERE role_name = %(role)s FOR UPDATE)"
    " SELECT claim.namespace, claim.name, pg_get_userbyid(s.nspowner)::text, {is_additive}"
    " FROM (SELECT) one LEFT JOIN claim ON true LEFT JOIN pg_namespace s ON s.nspname = %(role)s"
)
_READ_WITH_POLICY = _READ_CLAIM.format(is_additive=IS_ADDITIVE)
_READ_WITHOUT_POLICY = _READ_CLAIM.format(is_additive=sql.SQL("NULL"))


async def _read_claim(connection: psycopg.AsyncConnection, desired: TenantRole) -> _SlugClaim:
    query = _READ_WITHOUT_POLICY if desired.additive is None else _READ_WITH_POLICY
    cursor = await connection.execute(query, {"role": desired.role})
    row = await cursor.fetchone()
    assert row is not None
    namespace, name, schema_owner, additive = row
    return _SlugClaim((namespace, name) if namespace is not None else None, schema_owner, additive)


def _claim_statements(desired: TenantRole, claim: _SlugClaim, *, role_exists: bool) -> list[sql.Composable]:
    """The statements that give the slug to the Tenant. Raises Blocked when it is somebody else's."""
    if claim.owner == desired.owner:
        return []
    if claim.owner is not None:
        taken = "/".join(claim.owner)
        raise Blocked(Reason.SLUG_TAKEN, f"{desired.role} belongs to Tenant {taken}; choose another spec.slug")
    if role_exists or claim.schema_owner is not None:
        raise Blocked(
            Reason.SLUG_TAKEN,
            f"a role or schema {desired.role} that is not managed here exists; choose another spec.slug",
        )
    return [
        sql.SQL("INSERT INTO vaultbrix.tenant(role_name, namespace, name) VALUES ({}, {}, {})").format(
            *map(sql.Literal, (desired.role, *desired.owner))
        )
    ]


def _schema_statements(desired: TenantRole, claim: _SlugClaim) -> list[sql.Composable]:
    name = sql.Identifier(desired.role)
    if claim.schema_owner is None:
        return [sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, name)]
    if claim.schema_owner != desired.role:
        return [sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(name, name)]
    return []
