"""Whose a role is, as noted in schema vaultbrix, which no tenant can write."""

import psycopg
from psycopg import sql

from vaultbrix.postgres.roles import Change
from vaultbrix.tenants.placement import Claim, Owner, Placement, Step, check_limit

# Both rows, so that what a transaction before this one wrote into either is seen.
READ = sql.SQL(
    "SELECT t.namespace, t.name, u.uid, u.bound_at IS NOT NULL AS bound, u.noted_at, t.claimed_at, u.retained_at"
    " FROM vaultbrix.tenant t JOIN vaultbrix.tenant_uid u USING (role_name) WHERE role_name = %(role)s FOR UPDATE"
)
"""The fields of a Claim, with the parameter ``role``."""


async def read(connection: psycopg.AsyncConnection, role: str) -> Claim | None:
    """Whose the role is; None while it is nobody's. Within a transaction, keeps others from changing that."""
    row = await (await connection.execute(READ, {"role": role})).fetchone()
    return Claim(*row) if row is not None else None


async def is_of(connection: psycopg.AsyncConnection, role: str, uid: str) -> bool:
    """Whether the role exists and belongs to the Tenant object with that uid."""
    cursor = await connection.execute(
        "SELECT FROM vaultbrix.tenant_uid u JOIN pg_roles r ON r.rolname = u.role_name"
        " WHERE u.role_name = %s AND u.uid = %s",
        [role, uid],
    )
    return await cursor.fetchone() is not None


async def bind(connection: psycopg.AsyncConnection, role: str, owner: Owner) -> None:
    """Note the uid of the object that a role was made for before uids were noted; does nothing for any other."""
    async with connection.transaction():
        claim = await read(connection, role)
        if claim is not None and claim.is_of_older(owner):
            await connection.execute(_bound(role, owner))


async def lock(connection: psycopg.AsyncConnection, role: str) -> None:
    """Keep everybody else from provisioning or dropping the role until the transaction ends."""
    # A row that no tenant can lock, unlike an advisory lock. Where there is none yet, the primary key lets one win.
    await connection.execute("SELECT FROM vaultbrix.tenant WHERE role_name = %s FOR UPDATE", [role])


async def retain(connection: psycopg.AsyncConnection, role: str, uid: str) -> None:
    """Note that the object with that uid goes and its data stays."""
    await connection.execute(
        "UPDATE vaultbrix.tenant_uid SET retained_at = clock_timestamp()"
        " WHERE role_name = %s AND uid = %s AND retained_at IS NULL",
        [role, uid],
    )


async def lock_number(connection: psycopg.AsyncConnection) -> None:
    """Keep others from making a tenant until the transaction ends, so that no two of them take the last place."""
    # No tenant can hold this lock up, as it could an advisory one. Whoever keeps what is there does not wait for it.
    await connection.execute("LOCK TABLE vaultbrix.tenant_uid IN SHARE UPDATE EXCLUSIVE MODE")


async def check_room(connection: psycopg.AsyncConnection, placement: Placement) -> None:
    """Raise Blocked when the server takes no more tenants."""
    if placement.max_tenants is None:
        return
    row = await (await connection.execute("SELECT count(*) FROM vaultbrix.tenant")).fetchone()
    assert row is not None
    check_limit(placement, row[0])


def changes(step: Step, role: str, owner: Owner, claim: Claim | None) -> list[Change]:
    """What makes the note say that the role is the owner's."""
    match step:
        case Step.KEEP:
            # The API server was put back to a time before its end.
            back = claim is not None and claim.retained_at is not None
            return [Change("", _bound(role, owner))] if back else []
        case Step.BIND:
            return [Change("", _bound(role, owner))]
        case Step.CLAIM:
            made = sql.SQL("INSERT INTO vaultbrix.tenant(role_name, namespace, name) VALUES ({}, {}, {})").format(
                *map(sql.Literal, (role, owner.namespace, owner.name))
            )
            return [Change("", made), Change("", _bound(role, owner))]
        case Step.ADOPT:
            named = sql.SQL("UPDATE vaultbrix.tenant SET namespace = {}, name = {} WHERE role_name = {}").format(
                *map(sql.Literal, (owner.namespace, owner.name, role))
            )
            return [Change("", named), Change("", _bound(role, owner))]


def _bound(role: str, owner: Owner) -> sql.Composed:
    return sql.SQL(
        "UPDATE vaultbrix.tenant_uid SET uid = {}, bound_at = clock_timestamp(), retained_at = NULL"
        " WHERE role_name = {}"
    ).format(sql.Literal(owner.uid), sql.Literal(role))
