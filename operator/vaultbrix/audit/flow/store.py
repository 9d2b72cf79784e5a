"""How far the record in the audit store goes, asked as its reader."""

from datetime import datetime

import psycopg

from vaultbrix.audit.flow.decisions import RECENT, StoreSeen
from vaultbrix.audit.flow.report import Head
from vaultbrix.audit.headers import load_header, load_latest_header

# Counted from the newest on, as far as it matters.
_RECENT_DEFECTS = (
    "SELECT (SELECT count(*) FROM (SELECT found_at FROM audit.gap WHERE server = %(server)s"
    "  ORDER BY id DESC LIMIT 1000) newest WHERE found_at > %(since)s),"
    " (SELECT count(*) FROM (SELECT found_at FROM audit.quarantine WHERE server = %(server)s"
    "  ORDER BY id DESC LIMIT 1000) newest WHERE found_at > %(since)s),"
    " (SELECT system_identifier::text FROM pg_control_system())"
)


async def flow(connection: psycopg.AsyncConnection, server: str, anchored_batch: int, now: datetime) -> StoreSeen:
    """The latest batch of a server, the head of another batch (0: of none), how much is amiss of late, where it is.

    Gaps and quarantined lines are counted up to 1000 each. Raises psycopg.Error.
    """
    latest = await load_latest_header(connection, server)
    anchored = await load_header(connection, server, anchored_batch)
    cursor = await connection.execute(_RECENT_DEFECTS, {"server": server, "since": now - RECENT})
    row = await cursor.fetchone()
    assert row is not None
    gaps, quarantined, system_identifier = row
    return StoreSeen(
        Head(batch=latest.batch, head=latest.head().hex(), sealed_at=latest.sealed_at) if latest else None,
        anchored_batch,
        anchored.head().hex() if anchored else "",
        gaps=gaps,
        quarantined=quarantined,
        system_identifier=system_identifier,
    )
