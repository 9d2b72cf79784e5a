"""Who changed a role, asked of the audit store as its reader."""

from datetime import datetime

import psycopg

from vaultbrix.postgres.admin import ADMIN_APPLICATION
from vaultbrix.tenants.drift.decisions import RoleChange

_MOST_CHANGES = 3
# Nobody hides behind long texts that take too long to search: what is further back counts as not naming the role.
_LONGEST_TEXT = 10_000

# A role is changed by its name, or by one of the words that stand for the session's own. Rights on tables and the like
# are no business of ours. What the operator itself does under the admin's login is left out; a person who logs in as
# the admin is not. The first condition on the class is that of an index of the store.
_CHANGES = (
    "SELECT at, role, person, coalesce(host(address), ''), command, names_role FROM ("
    " SELECT *, left(statement, %(longest)s) AS text, left(statement, %(longest)s) ~* %(name)s AS names_role"
    " FROM audit.record"
    "  WHERE server = %(server)s AND at >= %(since)s AND at <= %(until)s"
    "   AND kind = 'statement' AND class <> ALL ('{READ,WRITE,MISC}') AND role IS NOT NULL AND command IS NOT NULL"
    "   AND NOT (role = %(admin)s AND coalesce(application, '') = %(application)s)) changes"
    " WHERE CASE WHEN class = 'ROLE' THEN command NOT IN ('GRANT', 'REVOKE') OR text ~* %(shared)s"
    "  ELSE names_role AND (command LIKE '%% SCHEMA' OR command LIKE '%% OWNED') END"
    " ORDER BY names_role DESC, at DESC LIMIT %(most)s"
)
# Names of our roles hold letters, digits and _ alone.
_WHOLE_NAME = r"(^|[^a-z0-9_]){}($|[^a-z0-9_])"
_ON_SCHEMA_OR_DATABASE = r"\mon\M.*\m(schema|database)\M"


async def role_changes(
    connection: psycopg.AsyncConnection, server: str, role: str, admin: str, since: datetime, until: datetime
) -> list[RoleChange]:
    """Statements that changed the role, or may have: those that name it first, then the newest.

    ``admin`` is the login that the operator has on the server.
    """
    values = {
        "server": server,
        "name": _WHOLE_NAME.format(role),
        "shared": _ON_SCHEMA_OR_DATABASE,
        "admin": admin,
        "application": ADMIN_APPLICATION,
        "since": since,
        "until": until,
        "most": _MOST_CHANGES,
        "longest": _LONGEST_TEXT,
    }
    cursor = await connection.execute(_CHANGES, values)
    return [RoleChange(*row) for row in await cursor.fetchall()]
