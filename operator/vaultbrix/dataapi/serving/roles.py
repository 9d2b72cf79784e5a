"""A tenant's roles for the data API, and the login of its PostgREST, which can take on these and the tenant's alone.

One login for several tenants would let a function of one of them become another: PostgreSQL lets whoever is logged in
SET ROLE to any role that the login may take on, also from within a function (PostgreSQL, SET ROLE).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql

from vaultbrix.api.conditions import Reason
from vaultbrix.dataapi.serving.decisions import LISTENER, MARK, ApiRoles
from vaultbrix.postgres import roles
from vaultbrix.runtime.errors import Blocked


async def provision(
    connection: psycopg.AsyncConnection, desired: ApiRoles, password: str, salt: bytes
) -> dict[str, Sequence[str]]:
    """Make the three roles as desired, in one transaction; ``password`` is the login's.

    Returns what of a role that was there already was not as it should be, by its name.

    Raises Blocked(SlugTaken), changing nothing, when one of their names is somebody else's.
    """
    async with connection.transaction():
        await _claim(connection, desired)
        changed = {
            name: await _ensure_group(connection, desired, name) for name in (desired.anon, desired.authenticated)
        }
        login = roles.LoginRole(
            name=desired.rest,
            login=desired.login,
            connection_limit=desired.connection_limit,
            mark=MARK,
            search_path=desired.tenant_role,
            settings={},
            acts_as=(desired.tenant_role, desired.anon, desired.authenticated),
        )
        changed[desired.rest] = (await roles.ensure(connection, login, password, salt)).changed
    if not desired.login:
        await roles.end_sessions(connection, desired.rest)
    return {name: what for name, what in changed.items() if what}


async def withdraw(connection: psycopg.AsyncConnection, owner: tuple[str, str]) -> None:
    """Take away all roles that were made for the Tenant, with every right granted to them; nothing where none were.

    What they may have made goes to the tenant's role, as long as there is one.
    """
    async with _alone(connection, owner):
        for name, heirs in await _roles_of(connection, owner):
            await roles.drop(connection, name, heirs)
        await connection.execute("DELETE FROM vaultbrix.api_role WHERE (namespace, name) = (%s, %s)", owner)


@asynccontextmanager
async def _alone(connection: psycopg.AsyncConnection, owner: tuple[str, str]) -> AsyncIterator[None]:
    """Nobody else takes away the Tenant's roles meanwhile: a look at its server may meet one at itself."""
    key = [f"vaultbrix data API of {'/'.join(owner)}"]
    await connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", key)
    try:
        yield
    finally:
        if not connection.closed:
            await connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)


async def lock(connection: psycopg.AsyncConnection, owner: tuple[str, str]) -> None:
    """End the sessions of the Tenant's PostgREST and let it in no more; rights stay as they were granted."""
    for name, _ in await _roles_of(connection, owner):
        await roles.lock(connection, name)


async def owners(connection: psycopg.AsyncConnection) -> set[tuple[str, str]]:
    """The Tenants, as (namespace, name), for which there are roles."""
    cursor = await connection.execute("SELECT DISTINCT namespace, name FROM vaultbrix.api_role")
    return {(namespace, name) for namespace, name in await cursor.fetchall()}


async def _roles_of(connection: psycopg.AsyncConnection, owner: tuple[str, str]) -> Sequence[tuple[str, Sequence[str]]]:
    """The roles that there are, each with its heirs: the tenant's role, where that is one. The login comes first."""
    cursor = await connection.execute(
        "SELECT a.role_name::text, ARRAY(SELECT t.rolname::text FROM pg_roles t WHERE t.rolname = a.tenant_role)"
        " FROM vaultbrix.api_role a JOIN pg_roles r ON r.rolname = a.role_name"
        " WHERE (a.namespace, a.name) = (%s, %s) ORDER BY NOT r.rolcanlogin, a.role_name",
        owner,
    )
    return await cursor.fetchall()


async def _claim(connection: psycopg.AsyncConnection, desired: ApiRoles) -> None:
    names = [desired.anon, desired.authenticated, desired.rest]
    cursor = await connection.execute("SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%s)", [names])
    present = {name for (name,) in await cursor.fetchall()}
    cursor = await connection.execute(
        "SELECT role_name::text, namespace, name FROM vaultbrix.api_role WHERE role_name = ANY(%s) FOR UPDATE", [names]
    )
    claimed = {name: (namespace, owner) for name, namespace, owner in await cursor.fetchall()}
    for name in names:
        owner = claimed.get(name)
        if owner not in (None, desired.owner) or (owner is None and name in present):
            whose = f"belongs to Tenant {'/'.join(owner)}" if owner else "is not managed here"
            raise Blocked(
                Reason.SLUG_TAKEN,
                f"the data API needs role {name}, which exists and {whose}; create another Tenant with another slug",
            )
        if owner is None:
            await connection.execute(
                "INSERT INTO vaultbrix.api_role(role_name, tenant_role, namespace, name) VALUES (%s, %s, %s, %s)",
                [name, desired.tenant_role, *desired.owner],
            )


async def _ensure_group(connection: psycopg.AsyncConnection, desired: ApiRoles, name: str) -> Sequence[str]:
    group = roles.LoginRole(
        name=name,
        login=False,
        connection_limit=-1,
        mark=None,
        search_path=desired.tenant_role,
        settings=desired.settings,
    )
    seen = await roles.read(connection, name)
    changes = roles.changes(group, seen, connection.info.server_version, connection.info.dbname)
    if changes:
        await connection.execute(sql.SQL("; ").join(change.statement for change in changes))
    return () if seen is None else [change.what for change in changes]


async def ensure_listener(connection: psycopg.AsyncConnection, password: str, salt: bytes) -> Sequence[str]:
    """Make the login by which gateways hear of changed schemas and note what they refused; it may do nothing else.

    Returns what was not as it should be.
    """
    listener = roles.LoginRole(
        name=LISTENER, login=True, connection_limit=-1, mark=MARK, search_path="pg_catalog", settings={}
    )
    async with connection.transaction():
        changed = (await roles.ensure(connection, listener, password, salt)).changed
    await connection.execute(
        sql.SQL("GRANT EXECUTE ON FUNCTION vaultbrix.note_refusals(jsonb) TO {}").format(sql.Identifier(LISTENER))
    )
    return changed
