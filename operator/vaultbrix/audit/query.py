"""Statements of the audit store by what they are about. The decisions of what may be seen are the store's functions'.

A question goes day by day: its lines first, a page at a time, and only for those that are shown how they ended.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]
Key = tuple[str, str, int]
Report = Callable[[float], None]

OUTCOMES = ("ok", "error", "refused", "cancelled", "unknown")
DEFAULT_SPAN = timedelta(days=1)
PAGE = 500
# Lines that belong to a statement are looked for so far around it; then, for an end that is not found, so far after it.
_AROUND = timedelta(days=1)
_LONGEST = timedelta(days=31)
# What is stored late, as after an outage, is followed up to this age.
_FOLLOWED = timedelta(days=7)
# A statement that is followed and has not ended is told so after this.
_HELD_SECONDS = 10.0


@dataclass(frozen=True)
class Filter:
    """Which statements, from ``since`` to before ``until``; an absent field does not filter.

    ``tenants`` are values as stored. ``object``: with its schema, or the name alone. Without ``everybody``, only what
    tenants' roles did, not the operator and other admins. ``text`` is searched for in any case of letters.
    """

    since: datetime
    until: datetime
    tenants: tuple[str, ...] | None = None
    person: str | None = None
    ground: str | None = None
    address: str | None = None
    role: str | None = None
    object: str | None = None
    class_: str | None = None
    command: str | None = None
    outcome: str | None = None
    text: str | None = None
    everybody: bool = False

    @property
    def by_lines(self) -> bool:
        """Whether the lines that match may be others than those that stand for statements."""
        return bool(self.object or self.class_ or self.command or self.text or self.outcome in OUTCOMES[1:4])

    def document(self) -> dict[str, Any]:
        """As the store's functions take it, and as reading is noted."""
        found = {f.name.rstrip("_"): getattr(self, f.name) for f in fields(self)}
        del found["since"], found["until"]
        return {name: value for name, value in found.items() if value not in (None, False)}


@dataclass
class _Seen:
    """What was looked at: statements by their first lines, and the last run of lines of each session."""

    statements: set[Key] = field(default_factory=set)
    runs: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)


def named(values: Sequence[str], wanted: str) -> list[str]:
    """Of stored values, those that a tenant's name is in: namespace/name, or the name alone."""
    return [v for v in values if any(wanted in (one, one.partition("/")[2]) for one in v.split(", "))]


def slices(days: Sequence[date], wanted: Filter) -> list[tuple[datetime, datetime]]:
    """The times to ask for, one after the other, oldest first: days, or hours where every line must be looked at."""
    step = timedelta(hours=1) if wanted.text or wanted.outcome == "unknown" else timedelta(days=1)
    found = []
    for day in days:
        start = datetime.combine(day, time(), UTC)
        for number in range(timedelta(days=1) // step):
            begin, end = max(wanted.since, start + number * step), min(wanted.until, start + (number + 1) * step)
            if begin < end:
                found.append((begin, end))
    return found


def tenants(connection: psycopg.Connection, since: datetime, until: datetime) -> list[str]:
    """Values of ``tenant`` that the login may see on those days."""
    cursor = connection.execute("SELECT * FROM audit.tenants(%s, %s)", [since, until])
    return [str(value) for (value,) in cursor]


def sees_all(connection: psycopg.Connection) -> bool:
    """Whether the login may see the records of everybody."""
    row = connection.execute("SELECT audit.sees_all()").fetchone()
    return bool(row and row[0])


def days(connection: psycopg.Connection) -> list[date]:
    """Days (UTC) that the store has partitions of, oldest first."""
    cursor = connection.execute(
        "SELECT to_date(substring(c.relname FROM 8), 'YYYYMMDD')"
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'audit.record'::regclass AND c.relname ~ '^record_[0-9]{8}$' ORDER BY 1"
    )
    return [day for (day,) in cursor]


def note(connection: psycopg.Connection, detail: dict[str, Any]) -> None:
    """Put on record that somebody reads, before anything is read."""
    connection.execute("SELECT audit.note('read', %s)", [json.dumps(detail, default=str)])


def latest(connection: psycopg.Connection, wanted: Filter, limit: int, report: Report = lambda done: None) -> list[Row]:
    """The latest statements that match, oldest first; ``report`` is told how much of the time is done, 0 to 1."""
    found: list[Row] = []
    # Most lines stand for statements.
    for rows in _scan(connection, wanted, report, newest=True, page=min(PAGE, limit + limit // 8 + 2)):
        found += sorted(rows, key=_place, reverse=True)
        if len(found) >= limit:
            break
    return sorted(found[:limit], key=_place)


def everything(connection: psycopg.Connection, wanted: Filter, report: Report = lambda done: None) -> Iterator[Row]:
    """All statements that match, oldest first, however many there are."""
    for rows in _scan(connection, wanted, report, newest=False):
        yield from sorted(rows, key=_place)


@contextlib.contextmanager
def snapshot(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction that sees nothing of what is stored meanwhile."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def follow(
    connection: psycopg.Connection,
    wanted: Filter,
    clock: Callable[[], datetime],
    *,
    after: dict[str, int],
    running: Sequence[Row] = (),
) -> Iterator[list[Row]]:
    """What is stored after the batches ``after`` (by server), for ever: a list for each look, which may be empty.

    A statement is told once: when its end is on record, or as ``unknown`` when it takes longer than a while.
    ``running``: statements from before that have not ended.
    """
    seen, waiting = _Seen(), {_key(row): clock() for row in running}
    while True:
        now = clock()
        window = replace(wanted, since=now - _FOLLOWED, until=now + _AROUND)
        found: list[Row] = []
        # What is stored meanwhile is for the next look.
        with snapshot(connection):
            heads = batches(connection)
            if heads != after:
                found += _news(connection, window, after, seen)
            found += _rows(connection, window, list(waiting))
        after = heads
        settled = [row for row in found if row["outcome"] != "unknown"]
        for row in found:
            if row["outcome"] == "unknown":
                since = waiting.setdefault(_key(row), now)
                if (now - since).total_seconds() >= _HELD_SECONDS:
                    settled.append(row)
        for row in settled:
            waiting.pop(_key(row), None)
        yield sorted((row for row in settled if _matches(row, wanted)), key=_place)


def batches(connection: psycopg.Connection) -> dict[str, int]:
    """The last batch of each server."""
    cursor = connection.execute("SELECT server, batch FROM audit.heads()")
    return dict(cursor.fetchall())


def _news(connection: psycopg.Connection, wanted: Filter, after: dict[str, int], seen: _Seen) -> list[Row]:
    found: list[Row] = []
    for hits in _hits(connection, wanted, {"batches": after}, (wanted.since, wanted.until), newest=False):
        keys = _lines(connection, wanted, hits, seen)
        new = [key for key in keys if key not in seen.statements]
        seen.statements.update(new)
        found += _rows(connection, wanted, new)
    if len(seen.statements) > 100_000:
        seen.statements.clear()
    return found


def _scan(
    connection: psycopg.Connection, wanted: Filter, report: Report, *, newest: bool, page: int = PAGE
) -> Iterator[list[Row]]:
    seen = _Seen()
    times = slices(days(connection), wanted)
    for number, time_slice in enumerate(reversed(times) if newest else times):
        report(number / len(times))
        for hits in _hits(connection, wanted, {}, time_slice, newest=newest, page=page):
            keys = _lines(connection, wanted, hits, seen)
            if wanted.by_lines:
                keys = [key for key in keys if key not in seen.statements]
                seen.statements.update(keys)
            around = replace(wanted, since=min(h["at"] for h in hits), until=max(h["at"] for h in hits))
            rows = _rows(connection, around, keys)
            yield [row for row in rows if _matches(row, wanted)]
    report(1.0)


def _hits(
    connection: psycopg.Connection,
    wanted: Filter,
    more: dict[str, Any],
    within: tuple[datetime, datetime],
    *,
    newest: bool,
    page: int = PAGE,
) -> Iterator[list[Row]]:
    document = json.dumps({**wanted.document(), **more})
    after: str | None = None
    while True:
        hits = _fetch(
            connection,
            "SELECT * FROM audit.hits(%s, %s, %s, %s, %s, %s)",
            [document, *within, newest, after, page],
        )
        if hits:
            yield hits
        if len(hits) < page:
            return
        last = hits[-1]
        after = json.dumps({"at": last["at"].isoformat(), "session": last["session_id"], "line": last["line_num"]})


def _lines(connection: psycopg.Connection, wanted: Filter, hits: list[Row], seen: _Seen) -> list[Key]:
    """The lines that may stand for statements, each once."""
    if not wanted.by_lines:
        return [_key(hit) for hit in hits]
    keys = [_key(hit) for hit in hits if hit["kind"] != "statement"]
    # A loop in a function has many lines that match, and all are of one statement.
    asked = [hit for hit in hits if hit["kind"] != "duration" and not _within(hit, seen)]
    if not asked:
        return keys
    found = _fetch(
        connection,
        "SELECT hit, line_num FROM audit.statement_lines(%s, %s, %s, %s, %s)",
        [
            *_arrays([_key(hit) for hit in asked]),
            min(hit["at"] for hit in asked) - _AROUND,
            max(hit["at"] for hit in asked) + _AROUND,
        ],
    )
    for row in found:
        hit = asked[row["hit"] - 1]
        server, session, line = _key(hit)
        keys.append((server, session, row["line_num"]))
        if hit["kind"] == "statement":
            seen.runs[server, session] = (row["line_num"], max(line, row["line_num"]))
    return list(dict.fromkeys(keys))


def _within(hit: Row, seen: _Seen) -> bool:
    first, last = seen.runs.get((hit["server"], hit["session_id"]), (1, 0))
    return bool(hit["kind"] == "statement" and first <= hit["line_num"] <= last)


def _rows(connection: psycopg.Connection, wanted: Filter, keys: Sequence[Key]) -> list[Row]:
    if not keys:
        return []
    begin, end = wanted.since - _AROUND, wanted.until + _AROUND
    rows = _statements(connection, wanted, keys, begin, end)
    open_ended = [_key(row) for row in rows if row["outcome"] == "unknown"]
    if not open_ended:
        return rows
    ended = {_key(row): row for row in _statements(connection, wanted, open_ended, begin, end + _LONGEST)}
    return [ended.get(_key(row), row) for row in rows]


def _statements(
    connection: psycopg.Connection, wanted: Filter, keys: Sequence[Key], begin: datetime, end: datetime
) -> list[Row]:
    return _fetch(
        connection,
        "SELECT * FROM audit.statements_at(%s, %s, %s, %s, %s, %s)",
        [json.dumps(wanted.document()), *_arrays(keys), begin, end],
    )


def _fetch(connection: psycopg.Connection, query: LiteralString, parameters: Sequence[object]) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


def _arrays(keys: Sequence[Key]) -> Iterator[list[Any]]:
    return ([key[position] for key in keys] for position in range(3))


def _key(row: Row) -> Key:
    return row["server"], row["session_id"], row["line_num"]


def _place(row: Row) -> tuple[Any, ...]:
    return row["at"], row["session_id"], row["line_num"]


def _matches(row: Row, wanted: Filter) -> bool:
    return wanted.outcome is None or bool(row["outcome"] == wanted.outcome)
