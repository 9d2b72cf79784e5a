"""Ask the archive what audit.query asks the store, and both as one. Raises OSError, BadManifest, duckdb.Error."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from ipaddress import ip_address, ip_network
from itertools import groupby
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vaultbrix.audit.archive.columns import RECORD
from vaultbrix.audit.archive.manifest import NAME, SIGNATURE_NAME, Manifest, current, digest, verified
from vaultbrix.audit.archive.place import Place
from vaultbrix.audit.archive.refusals import refusal
from vaultbrix.audit.archive.sessions import Row, statements
from vaultbrix.audit.query import Filter

_DAY = timedelta(days=1)
# Where a statement's end is not found around it, so many days after it are looked at.
_LONGEST_DAYS = 31
# Sessions that are looked at first; of the newest statements there are enough in few.
_FEWEST_SESSIONS = 50
_KINDS = "kind IN ('statement', 'error') OR (kind = 'duration' AND tag IN ('COMMIT', 'ROLLBACK'))"
_TENANTS = "starts_with(role, 'tenant_') OR starts_with(role, 'vaultbrix_d_')"
_ANY = "true"
# Of whole sessions, the messages with a line that is asked for, and what their statements are told from: the one after,
# where a deferred constraint speaks up, and those before. A message ends with a duration or an error.
_MESSAGES = """
WITH numbered AS (
  SELECT *, count(*) FILTER (kind IN ('duration', 'error')) OVER earlier AS number
    FROM ({picked}) WINDOW earlier AS (PARTITION BY server, session_id ORDER BY line_num
                                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)),
message AS (
  SELECT DISTINCT server, session_id, number + near AS number
    FROM numbered, (SELECT unnest([-2, -1, 0, 1]) AS near) WHERE {about})
SELECT {columns} FROM numbered SEMI JOIN message USING (server, session_id, number)"""
_FAILURES = {"error", "refused", "cancelled"}
# Where requests of the data API with an id begin, and where the next one of the session does.
_REQUESTS = """
WITH request AS (
  SELECT *, lead(line_num) OVER (PARTITION BY server, session_id ORDER BY line_num) AS following
    FROM ({lines}) WHERE kind = 'request')
SELECT server, session_id, line_num, coalesce(following, 9223372036854775807) AS following, ground, tenant
  FROM request WHERE object_name = ?"""


@dataclass
class Archive:
    """The sets of an archive that count. ``late``: records of its days that came after the export, from the store."""

    place: Place
    sets: Sequence[Manifest]
    late: pa.Table | None = None

    @property
    def days(self) -> dict[date, set[int]]:
        """Days to keep of the partitions that it has of each day."""
        keeps_by_day: dict[date, set[int]] = {}
        for item in self.sets:
            keeps_by_day.setdefault(item.day, set()).update(item.keeps)
        return keeps_by_day

    def upto(self, day: date) -> dict[str, int]:
        """By server, the batch up to which it has the day's records."""
        upto_by_server: dict[str, int] = {}
        for item in self.sets:
            if item.day == day:
                for server, span in item.servers.items():
                    upto_by_server[server] = max(span.upto, upto_by_server.get(server, 0))
        return upto_by_server

    def lines(self, days: Iterable[date]) -> Sequence[pads.Dataset | pa.Table]:
        """The records of some days, as tables that DuckDB reads."""
        chosen_days = set(days)
        names = [
            self.place.path(f"{item.folder}/{file.name}")
            for item in self.sets
            if item.day in chosen_days
            for file in item.files
            if file.table == RECORD.name
        ]
        tables = [pads.dataset(names, RECORD.schema, "parquet", self.place.filesystem)] if names else []
        return [*tables, *([self.late] if self.late is not None else [])]


def open_archive(place: Place, keys: Mapping[bytes, Ed25519PublicKey]) -> Archive:
    """Read an archive's manifests; each must be signed with one of the keys."""
    manifests = {}
    for folder in place.sets():
        try:
            content = place.read(f"{folder}/{NAME}")
        except FileNotFoundError:
            # An export that has not ended.
            continue
        manifests[digest(content)] = verified(content, place.read(f"{folder}/{SIGNATURE_NAME}"), keys)
    return Archive(place, sorted(current(manifests).values(), key=lambda item: (item.day, item.number)))


def cold_days(archived: Mapping[date, set[int]], stored: Mapping[date, set[int]], behind: set[date]) -> set[date]:
    """Days to be taken from the archive: of which the store has dropped something, and the day after such a one.

    A session may go on past midnight, and its lines are put together from one place only. ``behind``: days of which the
    store has what the archive has not; the day after a cold one is not taken from the archive then.
    """
    gone = {day for day, keeps in archived.items() if keeps - stored.get(day, set())}
    return gone | {day for day in archived if day - _DAY in gone and day not in behind}


def latest(archive: Archive, criteria: Filter, days: Iterable[date], limit: int) -> list[Row]:
    """The latest statements of these days that match, oldest first."""
    statement_rows: list[Row] = []
    for rows in _scan(archive, criteria, days, limit):
        statement_rows += rows
        if len(statement_rows) >= limit:
            break
    return sorted(sorted(statement_rows, key=_order)[-limit:], key=_order)


def everything(archive: Archive, criteria: Filter, days: Iterable[date]) -> Iterator[Row]:
    """All statements of these days that match, oldest first."""
    for rows in _scan(archive, criteria, days, None):
        yield from sorted(rows, key=_order)


def tenants(archive: Archive, days: Iterable[date]) -> list[str]:
    """Values of column ``tenant`` in the records of these days, each once."""
    with _Lines(archive, days) as lines:
        return lines.tenants()


def _scan(archive: Archive, criteria: Filter, days: Iterable[date], limit: int | None) -> Iterator[list[Row]]:
    """Statements of a day at a time; with a limit the newest first, and of a day all that can be among the latest."""
    for day in sorted(days, reverse=limit is not None):
        start = datetime.combine(day, time(), UTC)
        since, until = max(criteria.since, start), min(criteria.until, start + _DAY)
        if since < until:
            yield _day(archive, criteria, day, (since, until), limit)


def _day(
    archive: Archive, criteria: Filter, day: date, within: tuple[datetime, datetime], limit: int | None
) -> list[Row]:
    matching: list[Row] = []
    with _Lines(archive, [day - _DAY, day, day + _DAY]) as lines:
        if criteria.finds_refusals:
            matching += lines.refusals(criteria, within)
        requests = lines.requests(criteria.request) if criteria.request else None
        sessions = lines.sessions(criteria, within) if "statement" in criteria.kinds else []
        at, size = 0, _FEWEST_SESSIONS
        while at < len(sessions):
            # What is left has no line that matches later than this.
            newest = sessions[at][2]
            if limit is not None and sum(row["at"] > newest for row in matching) >= limit:
                break
            chosen = [(server, session) for server, session, _ in sessions[at : at + size]]
            matching += [
                row
                for row in lines.statements(chosen, criteria, requests)
                if _matches(row, criteria, within) and (requests is None or _of_request(row, requests))
            ]
            # Each time the files are read anew.
            at, size = at + size, 2 * size
    return _ended(archive, matching, day) if any(row["outcome"] == "unknown" for row in matching) else matching


def _ended(archive: Archive, rows: list[Row], day: date) -> list[Row]:
    """Statements whose end was not found, looked for in the days that follow."""
    after = [day + n * _DAY for n in range(-1, _LONGEST_DAYS)]
    with _Lines(archive, after) as lines:
        chosen = sorted({(row["server"], row["session_id"]) for row in rows if row["outcome"] == "unknown"})
        ended = {_key(row): row for row in lines.statements(chosen)}
    return [ended.get(_key(row), row) if row["outcome"] == "unknown" else row for row in rows]


class _Request(NamedTuple):
    """A request of the data API: from which line of its session to before which one, and whose it is."""

    server: str
    session_id: str
    line_num: int
    following: int
    ground: str
    tenant: str


class _Lines:
    """The lines of some days in DuckDB; one place to ask."""

    def __init__(self, archive: Archive, days: Iterable[date]) -> None:
        # Nothing but what is registered may be read, and no extension be fetched.
        self._db = duckdb.connect(
            config={
                "enable_external_access": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
        )
        self._db.execute("SET TimeZone = 'UTC'")
        tables = archive.lines(days)
        for number, table in enumerate(tables):
            self._db.register(f"lines_{number}", table)
        self._from = " UNION ALL ".join(f"SELECT * FROM lines_{n}" for n in range(len(tables)))  # noqa: S608

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def sessions(self, criteria: Filter, within: tuple[datetime, datetime]) -> list[tuple[str, str, datetime]]:
        """Server, session and time of the newest line that may stand for a statement that matches; newest first."""
        if not self._from:
            return []
        conditions, values = _of_lines(criteria, self._addresses(criteria))
        conditions += [f"({_KINDS})", '"at" >= ?', '"at" < ?']
        about, more = _of_sessions(criteria)
        query = (
            f'SELECT server, session_id, max("at") FROM ({self._from}) WHERE {" AND ".join(conditions)}'  # noqa: S608
            f" AND (server, session_id) IN (SELECT (server, session_id) FROM ({self._from}) WHERE {about})"
            ' GROUP BY ALL ORDER BY max("at") DESC, server, session_id'
        )
        sessions: list[tuple[str, str, datetime]] = self._db.execute(query, [*values, *within, *more]).fetchall()
        return sessions

    def refusals(self, criteria: Filter, within: tuple[datetime, datetime]) -> list[Row]:
        """The refused requests that match."""
        if not self._from:
            return []
        conditions, values = _of_lines(replace(criteria, everybody=True), self._addresses(criteria))
        conditions += ["kind = 'refusal'", '"at" >= ?', '"at" < ?']
        values += within
        if criteria.request:
            conditions.append("object_name = ?")
            values.append(criteria.request)
        cursor = self._db.execute(f"SELECT * FROM ({self._from}) WHERE {' AND '.join(conditions)}", values)  # noqa: S608
        refused = (refusal(dict(zip(RECORD.columns, row, strict=True))) for row in _rows(cursor))
        text = (criteria.text or "").lower()
        return [row for row in refused if text in (row["statement"] or "").lower()]

    def requests(self, request: str) -> list[_Request]:
        """Where requests of this id are."""
        if not self._from:
            return []
        rows = self._db.execute(_REQUESTS.format(lines=self._from), [request]).fetchall()
        return [_Request(*row) for row in rows]

    def tenants(self) -> list[str]:
        if not self._from:
            return []
        query = f"SELECT DISTINCT tenant FROM ({self._from}) ORDER BY tenant"  # noqa: S608
        return [tenant for (tenant,) in self._db.execute(query).fetchall()]

    def statements(
        self,
        sessions: Sequence[tuple[str, str]],
        criteria: Filter | None = None,
        requests: Sequence[_Request] | None = None,
    ) -> Iterator[Row]:
        """The statements of sessions, or of requests in them; all of them, or at least those that are asked for."""
        if not self._from or not sessions:
            return
        chosen = pa.table(
            {"server": [server for server, _ in sessions], "session_id": [session for _, session in sessions]}
        )
        self._db.register("chosen", chosen)
        about, values = _of_sessions(criteria) if criteria and requests is None else (_ANY, [])
        picked = f"SELECT * FROM ({self._from}) SEMI JOIN chosen USING (server, session_id)"  # noqa: S608
        if requests is not None:
            asked = {name: [getattr(request, name) for request in requests] for name in _Request._fields}
            self._db.register("asked", pa.table(asked))
            picked = (
                f"SELECT * FROM ({picked}) line SEMI JOIN asked ON line.server = asked.server"  # noqa: S608
                " AND line.session_id = asked.session_id AND line.line_num >= asked.line_num"
                " AND line.line_num < asked.following"
            )
        if about != _ANY:
            picked = _MESSAGES.format(
                columns=", ".join(f'"{name}"' for name in RECORD.columns), picked=picked, about=about
            )
        cursor = self._db.execute(f"{picked} ORDER BY server, session_id, line_num", values)
        lines = (dict(zip(RECORD.columns, row, strict=True)) for row in _rows(cursor))
        for _, group in groupby(lines, key=lambda line: (line["server"], line["session_id"])):
            yield from statements(list(group))

    def _addresses(self, criteria: Filter) -> list[str] | None:
        if criteria.address is None:
            return None
        network = ip_network(criteria.address, strict=False)
        query = f"SELECT DISTINCT address FROM ({self._from}) WHERE address IS NOT NULL"  # noqa: S608
        return [text for (text,) in self._db.execute(query).fetchall() if ip_address(text) in network]


def _rows(cursor: Any) -> Iterator[tuple[Any, ...]]:
    while chunk := cursor.fetchmany(1000):
        yield from chunk


def _of_lines(criteria: Filter, addresses: list[str] | None) -> tuple[list[str], list[Any]]:
    """Conditions on the line that stands for a statement, exact."""
    conditions: list[str] = [] if criteria.everybody else [f"({_TENANTS})"]
    values: list[Any] = []
    for condition, value in (
        ("list_contains(?, tenant)", list(criteria.tenants) if criteria.tenants is not None else None),
        ("list_contains(string_split(person, ', '), ?)", criteria.person),
        ("list_contains(string_split(ground, ', '), ?)", criteria.authorization),
        ("(starts_with(ground, 'key:') AND ends_with(ground, ?))", f"/{criteria.key}" if criteria.key else None),
        ("list_contains(?, address)", addresses),
        ("role = ?", criteria.role),
        # Files of earlier releases have no such column; it is NULL then.
        ("list_contains(string_split(approver, ', '), ?)", criteria.approver),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    return conditions, values


def _of_sessions(criteria: Filter) -> tuple[str, list[Any]]:
    """A condition that some line of the session meets, where a statement that matches is in it."""
    conditions, values = [_ANY], []
    if criteria.request:
        conditions = ["kind = 'request' AND object_name = ?"]
        values = [criteria.request]
    elif criteria.object:
        conditions = ["ends_with(object_name, ?)"]
        values = [criteria.object]
    elif criteria.text:
        conditions = ["contains(lower(coalesce(statement, tag)), lower(?))"]
        values = [criteria.text]
    elif criteria.outcome in _FAILURES:
        conditions = ["kind = 'error'"]
    elif criteria.class_:
        # What ends a transaction that has failed is MISC, and has a duration only.
        ended = " OR (kind = 'duration' AND tag IN ('COMMIT', 'ROLLBACK'))" if criteria.class_ == "MISC" else ""
        conditions = [f"(class = ?{ended})"]
        values = [criteria.class_]
    elif criteria.command:
        conditions = ["(command = ? OR tag = ?)"]
        values = [criteria.command] * 2
    return " AND ".join(conditions), values


def _matches(row: Row, criteria: Filter, within: tuple[datetime, datetime]) -> bool:
    """Whether a statement is what is asked for; the session is known to be of interest only."""
    return (
        within[0] <= row["at"] < within[1]
        and (criteria.everybody or str(row["role"]).startswith(("tenant_", "vaultbrix_d_")))
        and (criteria.tenants is None or row["tenant"] in criteria.tenants)
        and (criteria.person is None or criteria.person in row["person"].split(", "))
        and (criteria.approver is None or criteria.approver in row["approver"].split(", "))
        and (criteria.authorization is None or criteria.authorization in row["ground"].split(", "))
        and (criteria.key is None or _of_key(row["ground"], criteria.key))
        and (criteria.role is None or row["role"] == criteria.role)
        and (criteria.address is None or _inside(row["address"], criteria.address))
        and (criteria.class_ is None or row["class"] == criteria.class_)
        and (criteria.command is None or row["command"] == criteria.command)
        and (criteria.outcome is None or row["outcome"] == criteria.outcome)
        and (criteria.text is None or criteria.text.lower() in str(row["statement"]).lower())
        and (criteria.object is None or any(_named(name, criteria.object) for name in row["objects"] or ()))
    )


def _of_key(ground: str, name: str) -> bool:
    return ground.startswith("key:") and ground.endswith(f"/{name}")


def _of_request(row: Row, requests: Sequence[_Request]) -> bool:
    """Whether a statement of these requests' lines is not one that the next transaction began with."""
    return any((row["ground"], row["tenant"]) == (request.ground, request.tenant) for request in requests)


def _named(name: str, object_name: str) -> bool:
    return name == object_name if "." in object_name else name.rpartition(".")[2] == object_name


def _inside(address: str | None, network: str) -> bool:
    return address is not None and ip_address(address) in ip_network(network, strict=False)


def _key(row: Row) -> tuple[str, str, int]:
    return row["server"], row["session_id"], row["line_num"]


def _order(row: Row) -> tuple[Any, ...]:
    return row["at"], row["session_id"], row["line_num"]
