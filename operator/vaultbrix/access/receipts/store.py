"""What a rule was used for, asked of the audit store as its reader."""

import psycopg

from vaultbrix.access.receipts.decisions import MOST_OBJECTS, Usage, Window

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
