"""Statements of the audit store, and refused requests, by what they are about.

The decisions of what may be seen are the store's functions'.

A question goes day by day: its lines first, a page at a time, and only for those that are shown how they ended.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, LiteralString

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]
Kind = Literal["statement", "refusal"]
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
# Fields of a Filter that the store knows by another name.
_KEYS = {"class_": "class", "authorization": "ground"}
# A statement that is followed and has not ended is told so after this.
_HELD_SECONDS = 10.0


@dataclass(frozen=True)
class Filter:
    """Which statements or refused requests, from ``since`` to before ``until``; an absent field does not filter.

    ``tenants`` are values as stored. ``approver``: who approved the access, or what ran. ``object``: with its schema,
    or the name alone. Without ``everybody``, only what tenants' roles did, not the operator and other admins. ``text``
    is searched for in any case of letters. ``key`` is the name of an APIKey alone; with its namespace it is an
    ``authorization``. ``request``: id of a request of the data API. ``kinds``: a refused request has no person, role,
    object, class and command, and its outcome is ``refused``.
    """

    since: datetime
    until: datetime
    kinds: tuple[Kind, ...] = ("statement",)
    tenants: tuple[str, ...] | None = None
    person: str | None = None
    authorization: str | None = None
    key: str | None = None
    request: str | None = None
    address: str | None = None
    role: str | None = None
    object: str | None = None
    class_: str | None = None
    command: str | None = None
    outcome: str | None = None
    text: str | None = None
    everybody: bool = False
    approver: str | None = None

    @property
    def by_lines(self) -> bool:
        """Whether the lines that match may be others than those that stand for statements."""
        return bool(self.object or self.class_ or self.command or self.text or self.outcome in OUTCOMES[1:4])

    @property
    def finds_refusals(self) -> bool:
        """Whether a refused request may match: it took no role, touched nothing and ran nothing."""
        statements_only = (self.role, self.object, self.class_, self.command)
        return "refusal" in self.kinds and not any(statements_only) and self.outcome in (None, "refused")

    def document(self) -> dict[str, Any]:
        """The criteria that are set, but for the times, as a JSON object for the store's functions."""
        values = {_KEYS.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}
        del values["since"], values["until"]
        return {name: value for name, value in values.items() if value not in (None, False)}


@dataclass
class _Seen:
    """What a search has come to already: statements by their first lines, and the last run of lines of each session."""

    statements: set[Key] = field(default_factory=set)
    runs: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)


def named(values: Sequence[str], name: str) -> list[str]:
    """Stored values that list a tenant, given as namespace/name or as the name alone."""
    return [v for v in values if any(name in (tenant, tenant.partition("/")[2]) for tenant in v.split(", "))]


def slices(days: Sequence[date], criteria: Filter) -> list[tuple[datetime, datetime]]:
    """The times to ask for, one after the other, oldest first: days, or hours where every line must be looked at."""
    step = timedelta(hours=1) if criteria.text or criteria.outcome == "unknown" else timedelta(days=1)
    times = []
    for day in days:
        start = datetime.combine(day, time(), UTC)
        for number in range(timedelta(days=1) // step):
            begin, end = max(criteria.since, start + number * step), min(criteria.until, start + (number + 1) * step)
            if begin < end:
                times.append((begin, end))
    return times


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


def latest(
    connection: psycopg.Connection, criteria: Filter, limit: int, report: Report = lambda done: None
) -> list[Row]:
    """The latest statements that match, oldest first; ``report`` is told how much of the time is done, 0 to 1."""
    newest: list[Row] = []
    # Most lines stand for statements.
    for rows in _scan(connection, criteria, report, newest=True, page=min(PAGE, limit + limit // 8 + 2)):
        newest += sorted(rows, key=_place, reverse=True)
        if len(newest) >= limit:
            break
    return sorted(newest[:limit], key=_place)


def everything(connection: psycopg.Connection, criteria: Filter, report: Report = lambda done: None) -> Iterator[Row]:
    """All statements that match, oldest first, however many there are."""
    for rows in _scan(connection, criteria, report, newest=False):
        yield from sorted(rows, key=_place)


@contextlib.contextmanager
def snapshot(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction that sees nothing of what is stored meanwhile."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def follow(
    connection: psycopg.Connection,
    criteria: Filter,
    clock: Callable[[], datetime],
    *,
    after: dict[str, int],
    running: Sequence[Row] = (),
) -> Iterator[list[Row]]:
    """Statements stored after the batches ``after`` (by server), for ever: a list for each look, which may be empty.

    A statement is told once: when its end is on record, or as ``unknown`` when it takes longer than a while.
    ``running``: statements from before that have not ended.
    """
    seen, waiting = _Seen(), {_key(row): clock() for row in running}
    while True:
        now = clock()
        window = replace(criteria, since=now - _FOLLOWED, until=now + _AROUND)
        rows: list[Row] = []
        # What is stored meanwhile is for the next look.
        with snapshot(connection):
            heads = batches(connection)
            if heads != after:
                rows += _news(connection, window, after, seen)
            rows += _rows(connection, window, list(waiting))
        after = heads
        settled = [row for row in rows if row["outcome"] != "unknown"]
        for row in rows:
            if row["outcome"] == "unknown":
                since = waiting.setdefault(_key(row), now)
                if (now - since).total_seconds() >= _HELD_SECONDS:
                    settled.append(row)
        for row in settled:
            waiting.pop(_key(row), None)
        yield sorted((row for row in settled if _matches(row, criteria)), key=_place)


def batches(connection: psycopg.Connection) -> dict[str, int]:
    """Number of the last stored batch of each server."""
    cursor = connection.execute("SELECT server, batch FROM audit.heads()")
    return dict(cursor.fetchall())


def _news(connection: psycopg.Connection, criteria: Filter, after: dict[str, int], seen: _Seen) -> list[Row]:
    rows: list[Row] = []
    for hits in _hits(connection, criteria, {"batches": after}, (criteria.since, criteria.until), newest=False):
        keys = _lines(connection, criteria, hits, seen)
        new = [key for key in keys if key not in seen.statements]
        seen.statements.update(new)
        rows += _rows(connection, criteria, new)
    if len(seen.statements) > 100_000:
        seen.statements.clear()
    return rows


def _scan(
    connection: psycopg.Connection, criteria: Filter, report: Report, *, newest: bool, page: int = PAGE
) -> Iterator[list[Row]]:
    seen = _Seen()
    times = slices(days(connection), criteria)
    if newest:
        times.reverse()
    # Of few hits an hour, a day's are looked at together.
    pending: list[Row] = []
    for number, (begin, end) in enumerate(times):
        report(number / len(times))
        for hits in _hits(connection, criteria, {}, (begin, end), newest=newest, page=page):
            pending += hits
            if len(pending) >= page:
                yield _statements_of_hits(connection, criteria, pending, seen)
                pending = []
        if pending and (number + 1 == len(times) or times[number + 1][0].date() != begin.date()):
            yield _statements_of_hits(connection, criteria, pending, seen)
            pending = []
    report(1.0)


def _statements_of_hits(connection: psycopg.Connection, criteria: Filter, hits: list[Row], seen: _Seen) -> list[Row]:
    keys = _lines(connection, criteria, hits, seen)
    if criteria.by_lines:
        keys = [key for key in keys if key not in seen.statements]
        seen.statements.update(keys)
    around = replace(criteria, since=min(h["at"] for h in hits), until=max(h["at"] for h in hits))
    return [row for row in _rows(connection, around, keys) if _matches(row, criteria)]


def _hits(
    connection: psycopg.Connection,
    criteria: Filter,
    more: dict[str, Any],
    within: tuple[datetime, datetime],
    *,
    newest: bool,
    page: int = PAGE,
) -> Iterator[list[Row]]:
    document = json.dumps({**criteria.document(), **more})
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


def _lines(connection: psycopg.Connection, criteria: Filter, hits: list[Row], seen: _Seen) -> list[Key]:
    """The lines that may stand for statements, each once."""
    if not criteria.by_lines:
        return [_key(hit) for hit in hits]
    keys = [_key(hit) for hit in hits if hit["kind"] != "statement"]
    # A loop in a function has many lines that match, and all are of one statement.
    open_hits = [hit for hit in hits if hit["kind"] in ("statement", "error") and not _within(hit, seen)]
    if not open_hits:
        return keys
    lines = _fetch(
        connection,
        "SELECT hit, line_num FROM audit.statement_lines(%s, %s, %s, %s, %s)",
        [
            *_arrays([_key(hit) for hit in open_hits]),
            min(hit["at"] for hit in open_hits) - _AROUND,
            max(hit["at"] for hit in open_hits) + _AROUND,
        ],
    )
    for row in lines:
        hit = open_hits[row["hit"] - 1]
        server, session, line = _key(hit)
        keys.append((server, session, row["line_num"]))
        if hit["kind"] == "statement":
            seen.runs[server, session] = (row["line_num"], max(line, row["line_num"]))
    return list(dict.fromkeys(keys))


def _within(hit: Row, seen: _Seen) -> bool:
    first, last = seen.runs.get((hit["server"], hit["session_id"]), (1, 0))
    return bool(hit["kind"] == "statement" and first <= hit["line_num"] <= last)


def _rows(connection: psycopg.Connection, criteria: Filter, keys: Sequence[Key]) -> list[Row]:
    if not keys:
        return []
    begin, end = criteria.since - _AROUND, criteria.until + _AROUND
    rows = _statements(connection, criteria, keys, begin, end)
    open_ended = [_key(row) for row in rows if row["outcome"] == "unknown"]
    if not open_ended:
        return rows
    ended = {_key(row): row for row in _statements(connection, criteria, open_ended, begin, end + _LONGEST)}
    return [ended.get(_key(row), row) for row in rows]


def _statements(
    connection: psycopg.Connection, criteria: Filter, keys: Sequence[Key], begin: datetime, end: datetime
) -> list[Row]:
    return _fetch(
        connection,
        "SELECT * FROM audit.statements_at(%s, %s, %s, %s, %s, %s)",
        [json.dumps(criteria.document()), *_arrays(keys), begin, end],
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


def _matches(row: Row, criteria: Filter) -> bool:
    return criteria.outcome is None or bool(row["outcome"] == criteria.outcome)
