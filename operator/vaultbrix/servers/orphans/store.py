"""What there is of ours in a server's database, and how a login ends that nothing explains."""

import psycopg
from psycopg import sql

from vaultbrix.ddl.gate import passes
from vaultbrix.postgres import roles
from vaultbrix.servers.orphans.decisions import HbaLine, LoginSeen

_LOGINS = (
    "SELECT r.rolname::text, r.rolcanlogin, r.rolsuper, m.member IS NOT NULL FROM pg_roles r"
    " LEFT JOIN (SELECT DISTINCT m.member FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
    "  WHERE g.rolname IN ('vaultbrix_tenants', 'vaultbrix_jobs', 'vaultbrix_rest')) m ON m.member = r.oid"
    " WHERE m.member IS NOT NULL OR starts_with(r.rolname::text, 'tenant_')"
    " OR starts_with(r.rolname::text, 'vaultbrix_')"
)
# One that is claimed is a tenant's, or what a deleted Tenant has left on purpose.
_SCHEMAS = (
    "SELECT n.nspname::text FROM pg_namespace n WHERE starts_with(n.nspname::text, 'tenant_')"
    " AND NOT EXISTS (SELECT FROM vaultbrix.tenant t WHERE t.role_name = n.nspname)"
)
# As the file is now, loaded or not.
_LINES = (
    "SELECT user_name, address, netmask FROM pg_hba_file_rules WHERE error IS NULL AND auth_method <> 'reject'"
    " AND EXISTS (SELECT FROM unnest(user_name) u"
    "  WHERE starts_with(ltrim(u, '+'), 'tenant_') OR u = '+vaultbrix_tenants')"
)
# Its default privileges are its own, too, and go with it.
_OWNS = (
    "SELECT EXISTS (SELECT FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid, pg_database d"
    " WHERE s.refclassid = 'pg_authid'::regclass AND r.rolname = %s AND d.datname = current_database()"
    " AND (s.dbid NOT IN (0, d.oid) OR s.deptype = 'o' AND s.classid <> 'pg_default_acl'::regclass))"
)


async def logins(connection: psycopg.AsyncConnection) -> list[LoginSeen]:
    """Roles named as ours are, and members of our groups."""
    return [LoginSeen(*row) for row in await (await connection.execute(_LOGINS)).fetchall()]


async def unclaimed_schemas(connection: psycopg.AsyncConnection) -> list[str]:
    """Schemas named as those of tenants that no tenant has claimed."""
    return [str(name) for (name,) in await (await connection.execute(_SCHEMAS)).fetchall()]


async def lines_for_tenants(connection: psycopg.AsyncConnection) -> list[HbaLine]:
    """Lines of pg_hba.conf that let tenants in."""
    rows = await (await connection.execute(_LINES)).fetchall()
    return [HbaLine(tuple(users), address, netmask) for users, address, netmask in rows]


async def open_passes(connection: psycopg.AsyncConnection) -> list[str]:
    """Passes that still let something through the gate."""
    return await passes.open_passes(connection)


async def end_login(connection: psycopg.AsyncConnection, login: str) -> bool:
    """Lock the login, end its sessions and drop it, unless it owns something; returns whether it is gone."""
    await roles.lock(connection, login)
    async with connection.transaction():
        row = await (await connection.execute(_OWNS, [login])).fetchone()
        if row != (False,):
            return False
        name = sql.Identifier(login)
        # Rights that it was given; of what it owns there is nothing.
        await connection.execute(sql.SQL("DROP OWNED BY {} RESTRICT").format(name))
        await connection.execute(sql.SQL("DROP ROLE {}").format(name))
    await connection.execute("DELETE FROM vaultbrix.rule_login WHERE login = %s", [login])
    return True
