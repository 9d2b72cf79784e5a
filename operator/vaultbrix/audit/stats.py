"""How much there is, of whom and how it ended; and what is known to be missing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

import psycopg

from vaultbrix.audit.query import Filter, Report, days, sees_all, slices

STARTED = "started"


@dataclass(frozen=True)
class Count:
    """``outcome``: ``started``, of a class or of any (empty); or how so many failed, of any class."""

    day: date
    tenant: str
    class_: str
    outcome: str
    many: int


@dataclass(frozen=True)
class Server:
    """The last batch of a server, and how long ago it was sealed."""

    server: str
    batch: int
    sealed_at: datetime
    seconds: float


@dataclass(frozen=True)
class Whole:
    """What only a reader of the whole record may know. ``holes``: places where lines of a session are missing."""

    servers: Sequence[Server]
    gaps: int
    quarantined: int
    forged: int
    holes: int


@dataclass(frozen=True)
class Stats:
    """Counts of the time from ``since`` to before ``until``; ``whole`` is None for an auditor of tenants."""

    since: datetime
    until: datetime
    counts: Sequence[Count]
    whole: Whole | None

    def document(self) -> dict[str, Any]:
        """The numbers as one object for JSON."""
        counts = [{name.rstrip("_"): value for name, value in asdict(count).items()} for count in self.counts]
        whole = asdict(self.whole) if self.whole else {}
        return {"since": self.since, "until": self.until, "counts": counts, **whole}

    def by(self, field: str) -> dict[str, Counter[str]]:
        """Numbers by a field's value: of each class, of each way to fail, and ``statements``."""
        by_value: dict[str, Counter[str]] = {}
        for count in self.counts:
            numbers = by_value.setdefault(str(getattr(count, field)), Counter())
            numbers[count.outcome if count.outcome != STARTED else count.class_ or "statements"] += count.many
        return by_value


def gather(connection: psycopg.Connection, since: datetime, until: datetime, report: Report, *, now: datetime) -> Stats:
    """Count what the store has of that time. Raises psycopg.Error."""
    counts = []
    times = slices(days(connection), Filter(since, until))
    for number, (begin, end) in enumerate(times):
        report(number / (len(times) + 1))
        cursor = connection.execute("SELECT * FROM audit.counts(%s, %s)", [begin, end])
        counts += [Count(begin.date(), *row) for row in cursor]
    return Stats(since, until, counts, _whole(connection, since, until, now))


def _whole(connection: psycopg.Connection, since: datetime, until: datetime, now: datetime) -> Whole | None:
    if not sees_all(connection):
        return None
    cursor = connection.execute(
        "SELECT DISTINCT ON (server) server, batch, sealed_at FROM audit.batch ORDER BY server, batch DESC"
    )
    servers = [Server(name, batch, at, max(0.0, (now - at) / timedelta(seconds=1))) for name, batch, at in cursor]
    numbers = connection.execute(
        # Lines before the time are not looked at, so a session that began before it may begin at any line.
        """
        SELECT (SELECT count(*) FROM audit.gap WHERE found_at >= %(since)s AND found_at < %(until)s),
               (SELECT count(*) FROM audit.quarantine WHERE found_at >= %(since)s AND found_at < %(until)s),
               count(*) FILTER (WHERE kind = 'forged'),
               count(*) FILTER (WHERE line_num > coalesce(before, CASE WHEN began THEN 0 ELSE line_num END) + 1)
          FROM (SELECT kind, line_num,
                       lag(line_num) OVER (PARTITION BY server, session_id ORDER BY line_num) AS before,
                       session_id ~ '^[0-9a-f]{1,10}[.]' AND to_timestamp(
                         ('x' || lpad(substring(session_id FROM '^[0-9a-f]{1,10}'), 16, '0'))::bit(64)::bigint)
                         >= %(since)s AS began
                  FROM audit.record WHERE at >= %(since)s AND at < %(until)s) numbered
        """,
        {"since": since, "until": until},
    ).fetchone()
    assert numbers is not None
    return Whole(servers, *numbers)
