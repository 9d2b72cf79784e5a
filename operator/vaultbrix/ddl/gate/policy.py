"""What of a tenant's passes without an approval: ALTERs that only add, and relations that a tool builds anew."""

import psycopg
from psycopg import sql

from vaultbrix.ddl.gate.patterns import RelationPattern

# What is in force for the tenant's role, in a query with the parameter ``role``.
IS_ADDITIVE = sql.SQL("EXISTS (SELECT FROM vaultbrix.additive_role WHERE role_name = %(role)s)")
REBUILDABLE = sql.SQL(
    "ARRAY(SELECT ARRAY[schema_pattern, relation_pattern] FROM vaultbrix.rebuildable WHERE role_name = %(role)s)"
)


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


async def set_rebuildable(connection: psycopg.AsyncConnection, role: str, patterns: frozenset[RelationPattern]) -> None:
    """Which relations of the tenant may be swapped, emptied and dropped without an approval; those alone.

    Decided by effect in the database (migration 0011). Raises psycopg.errors.ForeignKeyViolation for a role that is
    no tenant's; goes with the tenant.
    """
    await connection.execute("DELETE FROM vaultbrix.rebuildable WHERE role_name = %s", [role])
    for pattern in sorted(patterns):
        await connection.execute(
            "INSERT INTO vaultbrix.rebuildable(role_name, schema_pattern, relation_pattern) VALUES (%s, %s, %s)",
            [role, pattern.schema, pattern.relation],
        )
