"""Erase the content of records on request, and say which rows may lack theirs.

What was erased stands in the details of events, which are sealed as all events are. Their shapes (JSON) stay:

``redacted``: ``{"version": 1, "request": UUID, "by": "person" | "record" | "retention", "reason": TEXT,
"rows": [[SERVER, BATCH, PART, [[FIRST, LAST], ...]], ...], "unsealed": COUNT}`` with leaf indexes, both ends included;
``unsealed`` counts rows from before records were sealed.

``expired``: ``{"version": 1, "part": PART, "rows": COUNT, "through": {SERVER: BATCH, ...}}``: the rows of that part are
gone from these servers' batches up to the one named. Lines that came late may be in later ones.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import psycopg

VERSION = 1
# What the store takes at once.
_MOST_RECORDS = 1000
# A day from before partitions were divided by what they keep has no number of its own: it was kept so many days.
_UNDIVIDED_DAYS = 400


@dataclass(frozen=True)
class Redacted:
    """Rows that may lack their content and salt, each by server, batch, part and leaf index."""

    _runs: Mapping[tuple[str, int, str], Sequence[tuple[int, int]]] = field(default_factory=dict)

    def __contains__(self, row: tuple[str, int, str, int]) -> bool:
        server, batch, part, index = row
        runs = self._runs.get((server, batch, part), ())
        at = bisect_right(runs, index, key=lambda run: run[0]) - 1
        return at >= 0 and index <= runs[at][1]

    def __len__(self) -> int:
        return sum(last - first + 1 for runs in self._runs.values() for first, last in runs)


def covered(details: Iterable[Mapping[str, Any]]) -> Redacted:
    """The rows that events of kind ``redacted`` name. Raises ValueError for a detail of another shape."""
    runs_by_part: dict[tuple[str, int, str], list[tuple[int, int]]] = {}
    for detail in details:
        try:
            _check_version(detail)
            for server, batch, part, runs in detail["rows"]:
                key = (_text(server), _count(batch), _text(part))
                runs_by_part.setdefault(key, []).extend((_count(first), _count(last)) for first, last in runs)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"an event 'redacted' is not of the known shape: {error}") from None
    return Redacted({key: _merged(runs) for key, runs in runs_by_part.items()})


@dataclass(frozen=True)
class Dropped:
    """What retention has dropped: a part's rows of a server up to a batch, each by server, batch and part."""

    _through: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def __contains__(self, rows: tuple[str, int, str]) -> bool:
        server, batch, part = rows
        return batch <= self._through.get((server, part), 0)


def dropped(details: Iterable[Mapping[str, Any]]) -> Dropped:
    """What events of kind ``expired`` name. Raises ValueError for a detail of another shape."""
    last_batches: dict[tuple[str, str], int] = {}
    for detail in details:
        try:
            _check_version(detail)
            part = _text(detail["part"])
            for server, batch in detail["through"].items():
                last_batches[server, part] = max(last_batches.get((server, part), 0), _count(batch))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"an event 'expired' is not of the known shape: {error}") from None
    return Dropped(last_batches)


def dropped_early(detail: Mapping[str, Any], at: datetime) -> bool:
    """Whether a partition went, at ``at``, before all of its records were as old as they are kept (``expired``).

    Raises ValueError for a detail of another shape.
    """
    try:
        _, day, *keep = _text(detail["part"]).split(" ")
        due = date.fromisoformat(day) + timedelta(days=1 + int(keep[0] if keep else _UNDIVIDED_DAYS))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"an event 'expired' is not of the known shape: {error}") from None
    return at.astimezone(UTC).date() < due


class Place(NamedTuple):
    """A record by the line of PostgreSQL's log that it is."""

    server: str
    session_id: str
    line_num: int


def places(text: str, server: str) -> list[Place]:
    """From JSON lines with ``session_id``, ``line_num``, maybe ``server``. Raises ValueError with the line's number."""
    listed = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            listed.append(
                Place(_text(entry.get("server", server)), _text(entry["session_id"]), _count(entry["line_num"]))
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(f"line {number} is no JSON object with session_id and line_num") from None
    return listed


@dataclass(frozen=True)
class Erased:
    """How many rows of each kind were erased, or would be. ``waiting`` are not sealed yet and were left."""

    requests: tuple[str, ...] = ()
    records: int = 0
    quarantine: int = 0
    events: int = 0
    waiting: int = 0

    def __add__(self, other: "Erased") -> "Erased":
        return Erased(
            self.requests + other.requests,
            self.records + other.records,
            self.quarantine + other.quarantine,
            self.events + other.events,
            self.waiting + other.waiting,
        )


async def redact_person(connection: psycopg.AsyncConnection, name: str, reason: str, *, really: bool) -> Erased:
    """Erase all that names a person, all or nothing. Raises psycopg.Error."""
    return await _call(connection, "SELECT audit.redact_person(%s, %s, %s)", [name, reason, really])


async def redact_records(
    connection: psycopg.AsyncConnection, places: Iterable[Place], reason: str, *, really: bool
) -> Erased:
    """Erase records with the messages they belong to, all or none. Raises psycopg.Error, also for unknown ones."""
    servers: dict[str, list[Place]] = {}
    for place in places:
        servers.setdefault(place.server, []).append(place)
    total = Erased()
    async with connection.transaction():
        for server, all_places in servers.items():
            for start in range(0, len(all_places), _MOST_RECORDS):
                some = all_places[start : start + _MOST_RECORDS]
                total += await _call(
                    connection,
                    "SELECT audit.redact_records(%s, %s::text[], %s::bigint[], %s, %s)",
                    [server, [p.session_id for p in some], [p.line_num for p in some], reason, really],
                )
    return total


async def redact_quarantine(
    connection: psycopg.AsyncConnection, ids: Sequence[int], reason: str, *, really: bool
) -> Erased:
    """Erase quarantined lines by number. Raises psycopg.Error, also for unknown ones."""
    return await _call(connection, "SELECT audit.redact_quarantine(%s::bigint[], %s, %s)", [list(ids), reason, really])


VACUUM = "VACUUM audit.record, audit.quarantine, audit.event"


async def free(connection: psycopg.AsyncConnection) -> bool:
    """VACUUM what was erased, where the login owns the store; else False. Raises psycopg.Error."""
    cursor = await connection.execute(
        "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'audit.record'::regclass"
    )
    if await cursor.fetchone() != (True,):
        return False
    await connection.execute(VACUUM.encode())
    return True


async def _call(connection: psycopg.AsyncConnection, query: str, values: list[object]) -> Erased:
    cursor = await connection.execute(query.encode(), values)
    row = await cursor.fetchone()
    assert row is not None
    answer = row[0]
    return Erased((answer["request"],), answer["records"], answer["quarantine"], answer["events"], answer["waiting"])


def _merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(runs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _check_version(detail: Mapping[str, Any]) -> None:
    if detail["version"] != VERSION:
        raise ValueError(f"version {detail['version']!r}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value
