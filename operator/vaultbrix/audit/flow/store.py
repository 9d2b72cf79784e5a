"""How far the record in the audit store goes, asked as its reader."""

from datetime import datetime

import psycopg

from vaultbrix.audit.flow.decisions import RECENT, StoreSeen
from vaultbrix.audit.flow.report import Head
from vaultbrix.audit.header import Header

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
