"""One-time logins of approvals: members of the tenant's role that a run or a rehearsal takes on."""

from datetime import datetime

import psycopg
from psycopg import sql

from vaultbrix.postgres import roles


async def create_login(
    connection: psycopg.AsyncConnection, *, login: str, role: str, verifier: str, valid_until: datetime
) -> None:
    """A one-time login that is a member of the tenant's role, or a new password for the one there is."""
    name, tenant = sql.Identifier(login), sql.Identifier(role)
    async with connection.transaction():
        await roles.quiet(connection)
        cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [login])
        if await cursor.fetchone() is None:
            await connection.execute(sql.SQL("CREATE ROLE {} NOINHERIT").format(name))
        await connection.execute(
            sql.SQL(
                "ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
                " CONNECTION LIMIT 2 VALID UNTIL {} PASSWORD {}"
            ).format(name, sql.Literal(valid_until.isoformat()), sql.Literal(verifier))
        )
        await roles.join(connection, login, role, may_become=True)
        await roles.join(connection, login, "vaultbrix_jobs", may_become=False)
        await connection.execute(sql.SQL("ALTER ROLE {} SET search_path = {}").format(name, tenant))
        for setting, value in roles.AUDITED.items():
            parameter = sql.Identifier(*setting.split("."))
            await connection.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(name, parameter, sql.Literal(value)))


async def drop_login(connection: psycopg.AsyncConnection, login: str, heir: str | None = None) -> None:
    """End the login's sessions and drop it; what a text made outside the tenant's role goes to the tenant.

    Where the tenant is not known, the heir is a tenant that the login is a member of.
    """
    cursor = await connection.execute(
        "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        " JOIN vaultbrix.tenant t ON t.role_name = g.rolname JOIN pg_roles r ON r.oid = m.member"
        " WHERE r.rolname = %(login)s AND g.rolname = coalesce(%(heir)s, g.rolname)",
        {"login": login, "heir": heir},
    )
    await roles.drop(connection, login, [str(tenant) for (tenant,) in await cursor.fetchall()])


async def logins(connection: psycopg.AsyncConnection) -> list[str]:
    """All one-time logins that there are."""
    cursor = await connection.execute(
        "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
        " WHERE m.roleid = 'vaultbrix_jobs'::regrole"
    )
    return [str(name) for (name,) in await cursor.fetchall()]
