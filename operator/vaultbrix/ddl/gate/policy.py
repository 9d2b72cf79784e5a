"""Which tenants' ALTERs pass without an approval because they only add."""

import psycopg
from psycopg import sql

# Whether that policy is in force for the tenant's role, in a query with the parameter ``role``.
IS_ADDITIVE = sql.SQL("EXISTS (SELECT FROM vaultbrix.additive_role WHERE role_name = %(role)s)")


async def set_policy(connection: psycopg.AsyncConnection, role: str, *, additive: bool) -> None:
    """Whether ALTERs that only add pass without an approval when they run as the tenant's role.

    Decided by effect in the database (migration 0005). Raises psycopg.errors.ForeignKeyViolation for a role that is
    no tenant's; goes with the tenant.
    """
    if additive:
        await connection.execute(
            "INSERT INTO vaultbrix.additive_role(role_name) VALUES (%s) ON CONFLICT DO NOTHING", [role]
        )
    else:
        await connection.execute("DELETE FROM vaultbrix.additive_role WHERE role_name = %s", [role])
