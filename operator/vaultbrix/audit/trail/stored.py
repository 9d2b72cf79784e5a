"""Events of approvals as the audit store has them, asked as one of its readers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row


@dataclass(frozen=True)
class Asked:
    """Which events; an absent field does not filter. Times are those of what happened, not of when it was stored."""

    uid: str | None = None
    namespace: str | None = None
    name: str | None = None
    person: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_FOUND = """
SELECT id, at AS stored_at, actor, detail, server, batch FROM audit.event
 WHERE kind = 'approval'
   AND (%(uid)s::text IS NULL OR detail->>'uid' = %(uid)s)
   AND (%(name)s::text IS NULL OR detail->>'namespace' = %(namespace)s AND detail->>'name' = %(name)s)
   AND (%(person)s::text IS NULL OR %(person)s = ANY (string_to_array(detail->>'by', ',') || (detail->>'by')))
   AND (%(since)s::timestamptz IS NULL OR (detail->>'at')::timestamptz >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR (detail->>'at')::timestamptz < %(until)s)
 ORDER BY id DESC LIMIT %(most)s
"""


def found(connection: psycopg.Connection, asked: Asked, most: int) -> list[dict[str, Any]]:
    """The latest of them, oldest first: id, stored_at, actor, detail, and server and batch of the seal."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(_FOUND, {**vars(asked), "most": most})
        return cursor.fetchall()[::-1]
