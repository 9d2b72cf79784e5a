"""The store and its archive as one record: each day is answered by one of them, and none is told twice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

import psycopg
import pyarrow as pa

from vaultbrix.audit import query
from vaultbrix.audit.archive import cold, plan, store
from vaultbrix.audit.archive.cold import Archive
from vaultbrix.audit.archive.columns import RECORD
from vaultbrix.audit.archive.sessions import Row
from vaultbrix.audit.query import Filter, Report
from vaultbrix.audit.seal import record_part

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Span:
    """A time that is answered by the store, or by the archive: then ``days`` are its days."""

    since: datetime
    until: datetime
    days: tuple[date, ...] = ()


def spans(since: datetime, until: datetime, cold_days: Sequence[date]) -> list[Span]:
    """Split a time by who answers, oldest first."""
    split: list[Span] = []
    done = since
    for day in sorted(cold_days):
        start = datetime.combine(day, time(), UTC)
        begin, end = max(since, start), min(until, start + _DAY)
        if begin >= end:
            continue
        if done < begin:
            split.append(Span(done, begin))
        last = split[-1] if split else None
        if last and last.days and last.until == begin:
            split[-1] = Span(last.since, end, (*last.days, day))
        else:
            split.append(Span(begin, end, (day,)))
        done = end
    if done < until:
        split.append(Span(done, until))
    return split


class Everywhere:
    """Answers as audit.query does. ``archive`` as opened; the connection's login must see the whole store."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def tenants(self, connection: psycopg.Connection, since: datetime, until: datetime) -> list[str]:
        """Values of column ``tenant`` that the login may see, in the store and in the archive's days of that time."""
        days = [day for day in self._archive.days if since.date() <= day <= until.date()]
        return sorted({*query.tenants(connection, since, until), *cold.tenants(self._archive, days)})

    def latest(
        self, connection: psycopg.Connection, criteria: Filter, limit: int, report: Report = lambda done: None
    ) -> list[Row]:
        """The latest statements that match, oldest first."""
        rows: list[Row] = []
        for span, archive, share in self._spans(connection, criteria, report, newest=True):
            span_criteria = replace(criteria, since=span.since, until=span.until)
            left = limit - len(rows)
            if left <= 0:
                break
            if span.days:
                rows = cold.latest(archive, span_criteria, span.days, left) + rows
            else:
                rows = query.latest(connection, span_criteria, left, share) + rows
        return rows

    def everything(
        self, connection: psycopg.Connection, criteria: Filter, report: Report = lambda done: None
    ) -> Iterator[Row]:
        """All statements that match, oldest first."""
        for span, archive, share in self._spans(connection, criteria, report, newest=False):
            span_criteria = replace(criteria, since=span.since, until=span.until)
            if span.days:
                yield from cold.everything(archive, span_criteria, span.days)
            else:
                yield from query.everything(connection, span_criteria, share)

    def _spans(
        self, connection: psycopg.Connection, criteria: Filter, report: Report, *, newest: bool
    ) -> Iterator[tuple[Span, Archive, Report]]:
        archive, days = self._divided(connection, criteria)
        split = spans(criteria.since, criteria.until, sorted(days))
        for number, span in enumerate(reversed(split) if newest else split):
            yield span, archive, _share(report, number, len(split))
        report(1.0)

    def _divided(self, connection: psycopg.Connection, criteria: Filter) -> tuple[Archive, set[date]]:
        """The archive with what came after it, and the days to be taken from it."""
        first, last = criteria.since.date() - 2 * _DAY, criteria.until.date()
        archived = {day: keeps for day, keeps in self._archive.days.items() if first <= day <= last}
        upto = store.checkpoints(connection)
        stored: dict[date, set[int]] = {}
        late: dict[date, list[plan.Piece]] = {}
        for day in archived:
            held, dropped = store.keeps(connection, day), store.dropped(connection, day)
            # What comes late goes into a new partition of the same name.
            stored[day] = {keep for keep in held if record_part(day, keep) not in dropped}
            missing = plan.parts_to_export(
                store.parts(connection, day, held), day, self._archive.upto(day), upto, dropped
            )
            if missing:
                late[day] = plan.pieces(missing, plan.MOST_ROWS)
        days = cold.cold_days(archived, stored, set(late))
        tables = [
            RECORD.from_csv(block)
            for day in sorted(days & late.keys())
            for piece in late[day]
            for block in store.blocks(connection, RECORD, store.of_piece(piece, day))
        ]
        return replace(self._archive, late=pa.concat_tables(tables) if tables else None), days


def _share(report: Report, number: int, count: int) -> Callable[[float], None]:
    return lambda done: report((number + done) / count)
