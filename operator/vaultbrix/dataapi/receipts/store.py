"""What a key was used for, asked of the audit store as its reader."""

import psycopg

from vaultbrix.dataapi.receipts.decisions import Usage, Window, complete_until

# PostgreSQL writes its log in the order of events, give or take a moment, and the shipper stores a line only together
# with all that stand before it. Some batches hold no record.
_NEWEST = (
    "SELECT max(at) FROM audit.record WHERE server = %(server)s AND at >= %(closed_at)s"
    " AND batch > (SELECT batch - 100 FROM audit.heads() WHERE server = %(server)s)"
)

_OWN = (
    "server = %(server)s AND ground = %(key)s AND at <= %(until)s AND (%(sha256)s::text IS NULL"
    " OR CASE WHEN kind IN ('request', 'refusal') THEN audit.told(message) ->> 'key_sha256' END = %(sha256)s)"
)
_LET_IN = f"FROM audit.record WHERE kind = 'request' AND at >= %(since)s AND {_OWN}"
_REFUSED = f"FROM audit.record WHERE kind = 'refusal' AND at >= %(closed_at)s AND {_OWN}"
_USAGE = (
    "SELECT count(*), min(at), max(at),"  # noqa: S608 - parts of our own
    f" (SELECT host(address) {_LET_IN} ORDER BY at DESC LIMIT 1),"
    f" (SELECT count(*) {_REFUSED}),"
    " EXISTS (SELECT FROM audit.gap WHERE server = %(server)s AND found_at >= %(since)s)"
    " OR EXISTS (SELECT FROM audit.quarantine WHERE server = %(server)s AND found_at >= %(since)s)"
    f" {_LET_IN}"
)


async def usage(connection: psycopg.AsyncConnection, asked: Window) -> Usage | None:
    """What the store holds of a window, None while it may not hold all from before the end."""
    cursor = await connection.execute(_NEWEST, vars(asked))
    newest = await cursor.fetchone()
    assert newest is not None
    until = complete_until(asked, newest[0])
    if until is None:
        return None
    cursor = await connection.execute(_USAGE.encode(), {**vars(asked), "until": until})
    row = await cursor.fetchone()
    assert row is not None
    requests, first, last, address, refused, damaged = row
    return Usage(
        requests=requests,
        refused=refused,
        first_used_at=first,
        last_used_at=last,
        last_address=address,
        until=until,
        damaged=damaged,
    )
