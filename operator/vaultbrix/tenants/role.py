"""Makes and locks a tenant's role and schema in PostgreSQL; reads what is there and changes what differs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from vaultbrix.ddl.gate.patterns import RelationPattern
from vaultbrix.ddl.gate.policy import IS_ADDITIVE, REBUILDABLE, set_policy, set_rebuildable
from vaultbrix.postgres import roles
from vaultbrix.tenants import claims, rule_logins
from vaultbrix.tenants.decisions import TenantRole
from vaultbrix.tenants.placement import Claim, Placement, Step, settle


async def prepare(connection: psycopg.AsyncConnection, desired: TenantRole, placement: Placement) -> None:
    """Raise what ``provision`` would raise, making nothing; and shut out whoever used what is to be adopted."""
    seen = await _look(connection, desired)
    step = settle(desired.role, desired.owner, seen.claim, placement, exists=seen.exists)
    if step is Step.CLAIM:
        await claims.check_room(connection, placement)
    if step is Step.ADOPT and seen.claim is not None:
        # Before it is this Tenant's: one that went without its finalizer has left a password and sessions behind.
        await lock(connection, desired.role, seen.claim.uid)
        await rule_logins.end_logins_of_tenant(connection, desired.role, seen.claim.uid)


async def provision(
    connection: psycopg.AsyncConnection,
    desired: TenantRole,
    placement: Placement,
    password: str | roles.KeptVerifier,
    salt: bytes,
    *,
    valid_until: datetime | None = None,
    before_commit: Callable[[], Awaitable[None]] | None = None,
) -> roles.Outcome:
    """Make role, schema, memberships, settings, rights, policy and verifier as desired, in one transaction.

    A role that is the Tenant's already stays so whatever ``placement`` says. Its password ends at ``valid_until``, None
    for never. ``before_commit`` is called when nothing can go wrong any more but the commit itself. Raises Expected,
    changing nothing, when the role is not the Tenant's and does not become so.
    """
    async with connection.transaction():
        seen = await _look(connection, desired)
        role = await roles.read(connection, desired.role)
        step = settle(desired.role, desired.owner, seen.claim, placement, exists=seen.exists)
        if step is Step.CLAIM and placement.max_tenants is not None:
            await claims.lock_number(connection)
            await claims.check_room(connection, placement)
        needed = [
            *claims.changes(step, desired.role, desired.owner, seen.claim),
            *roles.changes(
                _login_role(desired, valid_until), role, connection.info.server_version, connection.info.dbname
            ),
            *_schema_changes(desired, seen),
        ]
        outcome = await roles.apply(connection, needed, desired.role, role, password, salt)
        if desired.additive is not None and desired.additive is not seen.additive:
            await set_policy(connection, desired.role, additive=desired.additive)
        if desired.rebuildable is not None and desired.rebuildable != seen.rebuildable:
            await set_rebuildable(connection, desired.role, desired.rebuildable)
        if before_commit is not None:
            await before_commit()
    if not desired.login:
        await roles.end_sessions(connection, desired.role)
    return outcome


async def lock(connection: psycopg.AsyncConnection, role: str, uid: str) -> None:
    """Let nobody log in any more; the data stays, and the slug stays that Tenant object's (deletionPolicy Retain)."""
    if await claims.is_of(connection, role, uid):
        await roles.lock(connection, role)


def _login_role(desired: TenantRole, valid_until: datetime | None) -> roles.LoginRole:
    return roles.LoginRole(
        name=desired.role,
        login=desired.login,
        connection_limit=desired.connection_limit,
        mark="vaultbrix_tenants",
        search_path=desired.role,
        settings=desired.settings,
        valid_until=valid_until,
    )


@dataclass(frozen=True)
class _Seen:
    """What there is of a tenant. ``claim`` says whose it is, None where it is nobody's.

    ``schema_owner`` is the role that owns the schema, None where there is no schema; ``owner_uses_schema`` says that it
    has all rights there. ``additive`` says whether its ALTERs that only add pass without an approval, ``rebuildable``
    which relations may be dropped without one; None where that was not asked.
    """

    claim: Claim | None
    role_exists: bool
    schema_owner: str | None
    owner_uses_schema: bool
    additive: bool | None
    rebuildable: frozenset[RelationPattern] | None

    @property
    def exists(self) -> bool:
        """Whether there is a role or a schema."""
        return self.role_exists or self.schema_owner is not None


_LOOK = sql.SQL(
    "WITH claim AS MATERIALIZED ({claim})"
    " SELECT claim.*, EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s), pg_get_userbyid(s.nspowner)::text,"
    " 2 = (SELECT count(*) FROM aclexplode(coalesce(s.nspacl, acldefault('n', s.nspowner))) a"
    "  WHERE a.grantee = s.nspowner), {is_additive}, {rebuildable}"
    " FROM (SELECT) one LEFT JOIN claim ON true LEFT JOIN pg_namespace s ON s.nspname = %(role)s"
)
_LOOK_WITH_POLICY = _LOOK.format(claim=claims.READ, is_additive=IS_ADDITIVE, rebuildable=REBUILDABLE)
_LOOK_WITHOUT_POLICY = _LOOK.format(claim=claims.READ, is_additive=sql.SQL("NULL"), rebuildable=sql.SQL("NULL"))


async def _look(connection: psycopg.AsyncConnection, desired: TenantRole) -> _Seen:
    """Within a transaction, keeps others from changing whose it is."""
    query = _LOOK_WITHOUT_POLICY if desired.additive is None else _LOOK_WITH_POLICY
    row = await (await connection.execute(query, {"role": desired.role})).fetchone()
    assert row is not None
    *claim, role_exists, schema_owner, owner_uses_schema, additive, patterns = row
    whose = Claim(*claim) if claim[0] is not None else None
    rebuildable = None if patterns is None else frozenset(RelationPattern(*pattern) for pattern in patterns)
    return _Seen(whose, role_exists, schema_owner, owner_uses_schema, additive, rebuildable)


def _schema_changes(desired: TenantRole, seen: _Seen) -> list[roles.Change]:
    name = sql.Identifier(desired.role)
    if seen.schema_owner is None:
        return [roles.Change("schema", sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, name))]
    if seen.schema_owner != desired.role:
        return [roles.Change("owner of the schema", sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(name, name))]
    if not seen.owner_uses_schema:
        return [roles.Change("rights on the schema", sql.SQL("GRANT ALL ON SCHEMA {} TO {}").format(name, name))]
    return []
