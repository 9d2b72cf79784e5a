"""What the gate refused, asked of the audit store as its reader."""

from datetime import datetime

import psycopg

from vaultbrix.ddl.refusals.decisions import Refusal

# A tenant that is refused in a loop must not crowd out the others.
_MOST_REFUSALS = 50


_LONGEST_STATEMENT = 256 * 1024


# Redacted records have no text. PostgreSQL logs all of a text, and what is longer is more than may be approved.
_REFUSALS = (
    "SELECT at, role, tenant, person, coalesce(host(address), ''), statement FROM ("
    " SELECT r.*, row_number() OVER (PARTITION BY role, tenant ORDER BY at DESC) AS n FROM ("
    "  SELECT DISTINCT ON (role, tenant, person, statement) role, tenant, person, statement, at, address"
    "   FROM audit.record WHERE server = %(server)s AND at > %(since)s AND kind = 'error' AND sqlstate = 'VBX01'"
    "    AND role IS NOT NULL AND statement <> '' AND octet_length(statement) <= %(longest)s"
    "   ORDER BY role, tenant, person, statement, at DESC) r) numbered"
    " WHERE n <= %(most)s ORDER BY at"
)


async def refusals(
    connection: psycopg.AsyncConnection, server: str, since: datetime
) -> tuple[list[Refusal], datetime | None]:
    """What the gate refused later than ``since``, each text of each login once, and up to when the store has it all.

    The latter is None where there is no record that young.
    """
    cursor = await connection.execute("SELECT max(at) FROM audit.record WHERE server = %s AND at > %s", [server, since])
    row = await cursor.fetchone()
    values = {"server": server, "since": since, "longest": _LONGEST_STATEMENT, "most": _MOST_REFUSALS}
    cursor = await connection.execute(_REFUSALS, values)
    return [Refusal(*row) for row in await cursor.fetchall()], row[0] if row else None
