"""Questions to the audit store, asked as its reader."""

from datetime import datetime

import psycopg

from vaultbrix.domain.auditflow import RECENT, StoreSeen
from vaultbrix.domain.flow import Head
from vaultbrix.domain.header import Header
from vaultbrix.domain.receipts import MOST_OBJECTS, Usage, Window
from vaultbrix.domain.refusals import Refusal

# A record made while several rules let in the same address names them all.
_MINE = (
    "server = %(server)s AND at >= %(since)s AND at <= %(until)s AND CASE WHEN %(role)s::text IS NULL"
    " THEN %(rule)s = ANY(string_to_array(ground, ', ')) ELSE role = %(role)s END"
)

# One that was not let in is no session.
_SESSIONS = (
    f"SELECT DISTINCT session_id FROM audit.record WHERE {_MINE}"  # noqa: S608 - parts of our own
    " AND (kind = 'statement' OR kind = 'connection' AND message ^@ 'connection authorized')"
)

_USAGE = (
    f"WITH mine AS MATERIALIZED ({_SESSIONS})"  # noqa: S608
    " SELECT (SELECT count(*) FROM mine),"
    f" (SELECT count(*) FROM audit.statement WHERE {_MINE}),"
    f" ARRAY(SELECT DISTINCT object_name FROM audit.record WHERE {_MINE} AND kind = 'statement'"
    "   AND object_name <> '' ORDER BY 1 LIMIT %(most)s),"
    " EXISTS (SELECT FROM audit.gap WHERE server = %(server)s AND found_at >= %(since)s)"
    " OR EXISTS (SELECT FROM audit.quarantine WHERE server = %(server)s AND found_at >= %(since)s)"
    # PostgreSQL numbers a session's lines without holes.
    " OR EXISTS (SELECT FROM audit.record r JOIN mine USING (session_id) WHERE r.server = %(server)s"
    "   GROUP BY r.session_id HAVING count(*) <> max(r.line_num))"
)


async def usage(connection: psycopg.AsyncConnection, asked: Window) -> Usage | None:
    """What the store holds of a window, None while it may not hold all.

    It does once it has a record from after the window: PostgreSQL writes its log in the order of events, give or take
    the window's slack, and the shipper stores a line only together with all that stand before it.
    """
    cursor = await connection.execute(
        "SELECT EXISTS (SELECT FROM audit.record WHERE server = %(server)s AND at > %(until)s)", vars(asked)
    )
    if await cursor.fetchone() != (True,):
        return None
    cursor = await connection.execute(_USAGE.encode(), {**vars(asked), "most": MOST_OBJECTS + 1})
    row = await cursor.fetchone()
    assert row is not None
    sessions, statements, objects, damaged = row
    return Usage(sessions, statements, tuple(objects), damaged)


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
    return [Refusal(*found) for found in await cursor.fetchall()], row[0] if row else None


_BATCH = (
    "SELECT server, batch, sealed_at, file, start, stop, parts, previous, root FROM audit.batch"
    " WHERE server = %(server)s AND "
)
# Counted from the newest on, as far as it matters.
_FOUND = (
    "SELECT (SELECT count(*) FROM (SELECT found_at FROM audit.gap WHERE server = %(server)s"
    "  ORDER BY id DESC LIMIT 1000) newest WHERE found_at > %(since)s),"
    " (SELECT count(*) FROM (SELECT found_at FROM audit.quarantine WHERE server = %(server)s"
    "  ORDER BY id DESC LIMIT 1000) newest WHERE found_at > %(since)s)"
)


async def flow(connection: psycopg.AsyncConnection, server: str, asked: int, now: datetime) -> StoreSeen:
    """The latest batch of a server, the head of the batch ``asked`` for, and what was found lately: 1000 at most."""
    values = {"server": server, "asked": asked, "since": now - RECENT}

    async def header(which: str) -> Header | None:
        row = await (await connection.execute((_BATCH + which).encode(), values)).fetchone()
        return Header(*row) if row else None

    latest = await header("true ORDER BY batch DESC LIMIT 1")
    anchored = await header("batch = %(asked)s")
    found = await (await connection.execute(_FOUND.encode(), values)).fetchone()
    assert found is not None
    return StoreSeen(
        Head(batch=latest.batch, head=latest.head().hex(), sealed_at=latest.sealed_at) if latest else None,
        asked,
        anchored.head().hex() if anchored else "",
        *found,
    )
