"""Logins of AccessRules with ``login: PerRule``: members of the tenant's role, which they take on as they log in.

They are direct members of vaultbrix_tenants besides, so that whatever holds for a tenant's own login (pg_hba.conf,
the agent's view of sessions) holds for them, and of vaultbrix_jobs never. The gate looks at current_user, and no role
of theirs is exempt.
"""

from dataclasses import dataclass
from datetime import datetime

import psycopg
import structlog

from vaultbrix.api.conditions import Reason
from vaultbrix.postgres import roles
from vaultbrix.postgres.connect import classify
from vaultbrix.runtime.errors import Blocked, Transient
from vaultbrix.tenants.decisions import TenantRole

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class LoginTerms:
    """What should hold. ``tenant`` is whom it logs in as; the login ends at ``valid_until`` by itself."""

    login: str
    rule_uid: str
    tenant: TenantRole
    valid_until: datetime


@dataclass(frozen=True)
class Claim:
    """A login that is ours, with the tenant's role and the rule that it was made for."""

    login: str
    role: str
    rule_uid: str


async def provision(connection: psycopg.AsyncConnection, terms: LoginTerms, password: str, salt: bytes) -> None:
    """Make login, memberships, settings and verifier as wanted, in one transaction.

    Raises Blocked(LoginTaken), changing nothing, when the name belongs to somebody else.
    """
    tenant = terms.tenant
    async with connection.transaction():
        await _claim(connection, terms)
        await roles.ensure(
            connection,
            roles.LoginRole(
                name=terms.login,
                login=True,
                connection_limit=tenant.connection_limit,
                mark="vaultbrix_tenants",
                acts_as=tenant.role,
                search_path=tenant.role,
                settings={**tenant.settings, "role": tenant.role},
                valid_until=terms.valid_until,
            ),
            password,
            salt,
        )


async def claims(connection: psycopg.AsyncConnection) -> list[Claim]:
    """All that are there."""
    cursor = await connection.execute("SELECT login, role_name, rule_uid FROM vaultbrix.rule_login")
    return [Claim(*row) for row in await cursor.fetchall()]


async def drop(connection: psycopg.AsyncConnection, rule_uid: str) -> None:
    """End sessions and login of a rule; what it made goes to the tenant."""
    cursor = await connection.execute(
        "SELECT login, role_name, rule_uid FROM vaultbrix.rule_login WHERE rule_uid = %s", [rule_uid]
    )
    for row in await cursor.fetchall():
        await _drop(connection, Claim(*row))


async def try_drop(connection: psycopg.AsyncConnection, claim: Claim) -> None:
    """The same, for one of many: where a lock stands in the way, it is left for the next time."""
    try:
        await _drop(connection, claim)
    except psycopg.Error as error:
        if connection.broken:
            raise
        log.warning("login not dropped yet", login=claim.login, message=classify(error).message)


async def end_of_tenant(connection: psycopg.AsyncConnection, role: str, owner: tuple[str, str]) -> None:
    """Nobody logs in by a rule of the tenant any more; nothing when the role is not that owner's.

    What cannot be dropped now is left to a sweep: a tenant's end does not wait for it.
    """
    cursor = await connection.execute(
        "SELECT l.login, l.role_name, l.rule_uid FROM vaultbrix.rule_login l JOIN vaultbrix.tenant t USING (role_name)"
        " JOIN pg_roles r ON r.rolname = l.login WHERE role_name = %s AND (t.namespace, t.name) = (%s, %s)",
        [role, *owner],
    )
    found = [Claim(*row) for row in await cursor.fetchall()]
    # All first: a session of one may hold a lock on what another one made.
    for claim in found:
        await roles.lock(connection, claim.login)
    for claim in found:
        await try_drop(connection, claim)


async def _drop(connection: psycopg.AsyncConnection, claim: Claim) -> None:
    # The heir is the claim's, not whoever made the login a member of his.
    cursor = await connection.execute("SELECT rolname FROM pg_roles WHERE rolname = %s", [claim.role])
    await roles.drop(connection, claim.login, [str(name) for (name,) in await cursor.fetchall()])
    await connection.execute("DELETE FROM vaultbrix.rule_login WHERE login = %s", [claim.login])


async def _claim(connection: psycopg.AsyncConnection, terms: LoginTerms) -> None:
    tenant = terms.tenant
    # Held to the end, so that the tenant cannot go while a login of its is made.
    cursor = await connection.execute(
        "SELECT 1 FROM vaultbrix.tenant WHERE role_name = %s AND (namespace, name) = (%s, %s) FOR SHARE",
        [tenant.role, *tenant.owner],
    )
    if await cursor.fetchone() is None:
        raise Transient(Reason.TENANT_NOT_READY, f"role {tenant.role} is not that of Tenant {'/'.join(tenant.owner)}")
    cursor = await connection.execute(
        "SELECT c.rule_uid, c.role_name, r.oid IS NOT NULL FROM (SELECT %s::name AS wanted) w"
        " LEFT JOIN vaultbrix.rule_login c ON c.login = w.wanted LEFT JOIN pg_roles r ON r.rolname = w.wanted",
        [terms.login],
    )
    row = await cursor.fetchone()
    assert row is not None
    rule_uid, role, exists = row
    if rule_uid is None and not exists:
        await connection.execute(
            "INSERT INTO vaultbrix.rule_login(login, role_name, rule_uid) VALUES (%s, %s, %s)",
            [terms.login, tenant.role, terms.rule_uid],
        )
    elif (rule_uid, role) != (terms.rule_uid, tenant.role):
        raise Blocked(
            Reason.LOGIN_TAKEN,
            f"a role {terms.login} that is not this rule's exists in PostgreSQL; create another AccessRule",
        )
