"""Makes and drops the logins of AccessRules with ``login: PerRule``, which take on the tenant's role as they log in.

They are members of the tenant's role, and direct members of vaultbrix_tenants besides, so that whatever holds for a
tenant's own login (pg_hba.conf, the agent's view of sessions) holds for them; of vaultbrix_jobs they are none. The gate
looks at current_user, and no role of theirs is exempt.
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
    """A rule's login as it should be. ``tenant`` is whom it logs in as; it ends at ``valid_until`` by itself."""

    login: str
    rule_uid: str
    tenant: TenantRole
    valid_until: datetime


@dataclass(frozen=True)
class LoginClaim:
    """A login that was made for a rule, as noted in the database, with the tenant's role."""

    login: str
    role: str
    rule_uid: str


async def provision(
    connection: psycopg.AsyncConnection, terms: LoginTerms, password: str, salt: bytes
) -> roles.Outcome:
    """Make login, memberships, settings and verifier as the terms say, in one transaction.

    Raises Blocked(LoginTaken), changing nothing, when the name belongs to somebody else.
    """
    tenant = terms.tenant
    async with connection.transaction():
        await _claim(connection, terms)
        return await roles.ensure(
            connection,
            roles.LoginRole(
                name=terms.login,
                login=True,
                connection_limit=tenant.connection_limit,
                mark="vaultbrix_tenants",
                acts_as=(tenant.role,),
                search_path=tenant.role,
                settings={**tenant.settings, "role": tenant.role},
                valid_until=terms.valid_until,
            ),
            password,
            salt,
        )


async def claims(connection: psycopg.AsyncConnection) -> list[LoginClaim]:
    """The logins of all rules, as noted in the database."""
    cursor = await connection.execute("SELECT login, role_name, rule_uid FROM vaultbrix.rule_login")
    return [LoginClaim(*row) for row in await cursor.fetchall()]


async def drop(connection: psycopg.AsyncConnection, rule_uid: str) -> None:
    """End the sessions of a rule's login and drop it; what it made goes to the tenant."""
    cursor = await connection.execute(
        "SELECT login, role_name, rule_uid FROM vaultbrix.rule_login WHERE rule_uid = %s", [rule_uid]
    )
    for row in await cursor.fetchall():
        await _drop(connection, LoginClaim(*row))


async def try_drop(connection: psycopg.AsyncConnection, claim: LoginClaim) -> bool:
    """Drop a rule's login; one that cannot be dropped now, say for a lock, is logged and left for the next time.

    Returns whether it is gone.
    """
    try:
        await _drop(connection, claim)
    except psycopg.Error as error:
        if connection.broken:
            raise
        log.warning("login not dropped yet", login=claim.login, message=classify(error).message)
        return False
    return True


async def end_logins_of_tenant(connection: psycopg.AsyncConnection, role: str, uid: str) -> None:
    """Lock and drop the logins of all rules of a tenant; does nothing when the role is not that Tenant object's.

    A login that cannot be dropped now is left to a later sweep, so that a tenant's end does not wait for it.
    """
    cursor = await connection.execute(
        "SELECT l.login, l.role_name, l.rule_uid FROM vaultbrix.rule_login l"
        " JOIN vaultbrix.tenant_uid u USING (role_name)"
        " JOIN pg_roles r ON r.rolname = l.login WHERE role_name = %s AND u.uid = %s",
        [role, uid],
    )
    logins = [LoginClaim(*row) for row in await cursor.fetchall()]
    # All first: a session of one may hold a lock on what another one made.
    for claim in logins:
        await roles.lock(connection, claim.login)
    for claim in logins:
        await try_drop(connection, claim)


async def _drop(connection: psycopg.AsyncConnection, claim: LoginClaim) -> None:
    # The heir is the tenant of the note, not whatever role the login is a member of.
    cursor = await connection.execute("SELECT rolname FROM pg_roles WHERE rolname = %s", [claim.role])
    await roles.drop(connection, claim.login, [str(name) for (name,) in await cursor.fetchall()])
    await connection.execute("DELETE FROM vaultbrix.rule_login WHERE login = %s", [claim.login])


async def _claim(connection: psycopg.AsyncConnection, terms: LoginTerms) -> None:
    tenant = terms.tenant
    # This lock lasts until the end of the transaction, so that the tenant cannot go while a login of its is made.
    cursor = await connection.execute(
        "SELECT FROM vaultbrix.tenant JOIN vaultbrix.tenant_uid USING (role_name)"
        " WHERE role_name = %s AND uid = %s FOR SHARE",
        [tenant.role, tenant.owner.uid],
    )
    if await cursor.fetchone() is None:
        raise Transient(Reason.TENANT_NOT_READY, f"role {tenant.role} is not that of Tenant {tenant.owner.display}")
    cursor = await connection.execute(
        "SELECT c.rule_uid, c.role_name, r.oid IS NOT NULL FROM (SELECT %s::name AS login) w"
        " LEFT JOIN vaultbrix.rule_login c ON c.login = w.login LEFT JOIN pg_roles r ON r.rolname = w.login",
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
