"""Makes and drops logins that take on the tenant's role as they log in: those of AccessRules with ``login: PerRule``,
and a tenant's second login, which its credentials name in turn with its role.

They are members of the tenant's role, and direct members of vaultbrix_tenants besides, so that whatever holds for a
tenant's own login (pg_hba.conf, the agent's view of sessions) holds for them; of vaultbrix_jobs they are none. The gate
looks at current_user, and no role of theirs is exempt.
"""

from collections.abc import Awaitable, Callable
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
    """A login as it should be. ``tenant`` is whom it logs in as; its password ends at ``valid_until``, None for never.

    ``uid`` is that of the object which it is for, an AccessRule or the Tenant. ``remedy`` is what a person can do when
    the name is taken.
    """

    login: str
    uid: str
    tenant: TenantRole
    valid_until: datetime | None
    remedy: str = "create another AccessRule"


@dataclass(frozen=True)
class LoginClaim:
    """A login that was made for an object of that uid, as noted in the database, with the tenant's role."""

    login: str
    role: str
    uid: str


async def provision(
    connection: psycopg.AsyncConnection,
    terms: LoginTerms,
    password: str | roles.KeptVerifier,
    salt: bytes,
    *,
    before_commit: Callable[[], Awaitable[None]] | None = None,
) -> roles.Outcome:
    """Make login, memberships, settings and verifier as the terms say, in one transaction.

    ``before_commit`` is called when nothing can go wrong any more but the commit itself. Raises Blocked(LoginTaken),
    changing nothing, when the name belongs to somebody else.
    """
    tenant = terms.tenant
    async with connection.transaction():
        await _claim(connection, terms)
        outcome = await roles.ensure(
            connection,
            roles.LoginRole(
                name=terms.login,
                login=tenant.login,
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
        if before_commit is not None:
            await before_commit()
    if not tenant.login:
        await roles.end_sessions(connection, terms.login)
    return outcome


async def claims(connection: psycopg.AsyncConnection) -> list[LoginClaim]:
    """All logins that were made, as noted in the database."""
    cursor = await connection.execute("SELECT login, role_name, rule_uid FROM vaultbrix.rule_login")
    return [LoginClaim(*row) for row in await cursor.fetchall()]


async def exists(connection: psycopg.AsyncConnection, login: str, uid: str) -> bool:
    """Whether a login was made for the object of that uid."""
    cursor = await connection.execute(
        "SELECT FROM vaultbrix.rule_login WHERE login = %s AND rule_uid = %s", [login, uid]
    )
    return await cursor.fetchone() is not None


async def has_sessions(connection: psycopg.AsyncConnection, login: str) -> bool:
    """Whether somebody is logged in as the login."""
    cursor = await connection.execute("SELECT FROM pg_stat_activity WHERE usename = %s LIMIT 1", [login])
    return await cursor.fetchone() is not None


async def drop(connection: psycopg.AsyncConnection, uid: str) -> None:
    """End the sessions of the login that was made for an object and drop it; what it made goes to the tenant."""
    cursor = await connection.execute(
        "SELECT login, role_name, rule_uid FROM vaultbrix.rule_login WHERE rule_uid = %s", [uid]
    )
    for row in await cursor.fetchall():
        await _drop(connection, LoginClaim(*row))


async def try_drop(connection: psycopg.AsyncConnection, claim: LoginClaim) -> bool:
    """Drop a login; one that cannot be dropped now, say for a lock, is logged and left for the next time.

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
    """Lock and drop all logins of a tenant beside its role; does nothing when that is not that Tenant object's.

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
    uid, role, is_there = row
    if uid is None and not is_there:
        await connection.execute(
            "INSERT INTO vaultbrix.rule_login(login, role_name, rule_uid) VALUES (%s, %s, %s)",
            [terms.login, tenant.role, terms.uid],
        )
    elif (uid, role) != (terms.uid, tenant.role):
        raise Blocked(
            Reason.LOGIN_TAKEN,
            f"a role {terms.login} that was not made for this exists in PostgreSQL; {terms.remedy}",
        )
