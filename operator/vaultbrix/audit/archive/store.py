"""What the store has for an export, and what it is told about one. Raises psycopg.Error.

The connection must be opened with ``rows.SETTINGS``, and commit by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from vaultbrix.audit.archive.columns import Table
from vaultbrix.audit.archive.plan import Piece, part_names
from vaultbrix.audit.headers import read_signed_header
from vaultbrix.audit.seal import Part

_LOCK = 0x7662_7803
# The session of an export that was killed, or has just hung up, still has its lock until its server process sees that.
_PATIENCE = timedelta(seconds=10)
# Rows that are held in memory at once, as CSV; one row may be larger.
_BLOCK_BYTES = 16 << 20

Condition = tuple[sql.Composable, Mapping[str, object]]


@dataclass(frozen=True)
class Sealed:
    """A day's batches of a server, without a hole; 0: none. ``head``: the hash of the last one's header."""

    first: int = 0
    last: int = 0
    head: bytes = b""


def permitted(connection: psycopg.Connection) -> bool:
    """Whether the login may put exports on record."""
    function = "audit.exported(date, int[], jsonb, bytea, jsonb)"
    return bool(_one(connection, "SELECT has_function_privilege(%s, 'EXECUTE')", [function]))


def alone(connection: psycopg.Connection, *, patience: timedelta = _PATIENCE) -> bool:
    """Whether no other export of this store runs; none will, as long as the session lasts.

    Waits that long for one that is about to end. Raises psycopg.Error.
    """
    milliseconds = int(patience.total_seconds() * 1000)
    try:
        with connection.transaction():
            connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [str(milliseconds)])
            # Of the session, not of the transaction.
            connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def checkpoints(connection: psycopg.Connection) -> dict[str, int]:
    """Number of the last stored batch of each server."""
    return dict(connection.execute("SELECT server, batch FROM audit.checkpoint ORDER BY server").fetchall())


def first_day(connection: psycopg.Connection) -> date | None:
    """The earliest day that there is anything of, None for an empty store."""
    row = connection.execute(
        "SELECT min(day) FROM ("
        " SELECT to_date(substr(c.relname, 8, 8), 'YYYYMMDD') AS day FROM pg_catalog.pg_inherits i"
        " JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit.record'::regclass"
        " UNION ALL SELECT (b.sealed_at AT TIME ZONE 'UTC')::date FROM audit.checkpoint c, LATERAL ("
        " SELECT sealed_at FROM audit.batch b WHERE b.server = c.server ORDER BY batch LIMIT 1) b) days"
    ).fetchone()
    return row[0] if row else None


def newest_after(connection: psycopg.Connection, servers: Sequence[str], day: date) -> dict[str, datetime | None]:
    """The time of a stored record after the day, by server."""
    query = "SELECT at FROM audit.record WHERE server = %s AND at >= %s LIMIT 1"
    return {server: _one(connection, query, [server, _start(day + timedelta(days=1))]) for server in servers}


def keeps(connection: psycopg.Connection, day: date) -> list[int]:
    """Days to keep of the day's partitions that are there."""
    name = f"record_{day:%Y%m%d}"
    kind = _kind(connection, name)
    if kind == "p":
        rows = connection.execute(
            "SELECT substr(c.relname, length(%s) + 2)::int FROM pg_catalog.pg_inherits i"
            " JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(%s) ORDER BY 1",
            [name, f"audit.{name}"],
        )
    elif kind == "r":
        # From before partitions were divided by what they keep.
        query = sql.SQL("SELECT DISTINCT keep FROM {} ORDER BY keep").format(sql.Identifier("audit", name))
        rows = connection.execute(query)
    else:
        return []
    return [keep for (keep,) in rows.fetchall()]


def parts(connection: psycopg.Connection, day: date, keep: Sequence[int]) -> list[tuple[str, int, int, int]]:
    """(server, keep, batch, leaves) of the day's parts."""
    names = part_names(day, keep)
    rows = connection.execute(
        "SELECT server, part, batch, leaves FROM audit.part WHERE part = ANY(%s)", [list(names)]
    ).fetchall()
    return [(server, names[part], batch, leaves) for server, part, batch, leaves in rows]


def dropped(connection: psycopg.Connection, day: date) -> dict[str, dict[str, int]]:
    """By part and server, the batch up to which retention has dropped the rows."""
    rows = connection.execute(
        "SELECT detail->>'part', detail->'through' FROM audit.event"
        " WHERE kind = 'expired' AND starts_with(detail->>'part', %s) ORDER BY id",
        [f"record {day.isoformat()} "],
    ).fetchall()
    upto_by_part: dict[str, dict[str, int]] = {}
    for part, through in rows:
        known = upto_by_part.setdefault(part, {})
        for server, batch in through.items():
            known[server] = max(batch, known.get(server, 0))
    return upto_by_part


def unsealed(connection: psycopg.Connection, day: date) -> bool:
    """Whether rows of the day are from before rows were sealed; such days are not divided by what they keep."""
    name = f"record_{day:%Y%m%d}"
    if _kind(connection, name) != "r":
        return False
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE batch IS NULL)").format(sql.Identifier("audit", name))
    return bool(_one(connection, query, []))


def sealed_on(connection: psycopg.Connection, server: str, day: date, after: int, upto: int) -> Sealed:
    """The batches that were sealed on a day, and those between them."""
    first, last = connection.execute(
        "SELECT min(batch), max(batch) FROM audit.batch WHERE server = %s AND sealed_at >= %s AND sealed_at < %s"
        " AND batch > %s AND batch <= %s",
        [server, *_ends(day), after, upto],
    ).fetchone() or (None, None)
    if first is None:
        return Sealed()
    signed = read_signed_header(connection, server, last)
    assert signed is not None
    return Sealed(first, last, signed.header.head())


def expected(connection: psycopg.Connection, piece: Piece, day: date) -> dict[tuple[str, int, str], Part]:
    """The parts whose rows a file must hold."""
    (name,) = part_names(day, [piece.keep])
    rows = connection.execute(
        "SELECT server, batch, part, leaves, root FROM audit.part"
        " WHERE server = %s AND batch BETWEEN %s AND %s AND part = %s",
        [piece.server, piece.first, piece.last, name],
    ).fetchall()
    return {(server, batch, part): Part(leaves, root) for server, batch, part, leaves, root in rows}


def others(connection: psycopg.Connection, chains: Mapping[str, Sealed]) -> dict[tuple[str, int, str], Part]:
    """The parts of a day's batches that hold no records."""
    parts = {}
    for server, sealed in chains.items():
        rows = connection.execute(
            "SELECT batch, part, leaves, root FROM audit.part WHERE server = %s AND batch BETWEEN %s AND %s"
            " AND part IN ('gap', 'quarantine', 'event')",
            [server, sealed.first or 1, sealed.last],
        ).fetchall()
        parts.update({(server, batch, part): Part(leaves, root) for batch, part, leaves, root in rows})
    return parts


def of_piece(piece: Piece, day: date) -> Condition:
    """The rows of a file of records."""
    start, end = _ends(day)
    values = {"server": piece.server, "keep": piece.keep, "first": piece.first, "last": piece.last}
    return (
        sql.SQL(
            "at >= %(start)s AND at < %(end)s AND keep = %(keep)s"
            " AND server = %(server)s AND batch BETWEEN %(first)s AND %(last)s"
        ),
        {**values, "start": start, "end": end},
    )


def of_unsealed(day: date) -> Condition:
    """The day's records from before they were sealed."""
    start, end = _ends(day)
    return sql.SQL("at >= %(start)s AND at < %(end)s AND batch IS NULL"), {"start": start, "end": end}


def of_batches(server: str, sealed: Sealed, others: Sequence[int] = ()) -> Condition:
    """The rows of a day's batches, and of other ones."""
    return (
        sql.SQL("server = %(server)s AND (batch BETWEEN %(first)s AND %(last)s OR batch = ANY(%(others)s))"),
        {"server": server, "first": sealed.first or 1, "last": sealed.last, "others": list(others)},
    )


def erased(connection: psycopg.Connection, table: Table, condition: Condition) -> int:
    """How many of these rows are redacted."""
    query = sql.SQL("SELECT count(*) FROM {} WHERE batch IS NOT NULL AND salt IS NULL AND ({})")
    count: int = _one(connection, query.format(sql.Identifier("audit", table.name), condition[0]), condition[1])
    return count


def blocks(connection: psycopg.Connection, table: Table, condition: Condition) -> Iterator[list[bytes]]:
    """Rows as lines of CSV, some megabytes at a time."""
    query = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT (FORMAT csv)").format(
        sql.SQL(table.select),  # our own names
        sql.Identifier("audit", table.name),
        condition[0],
    )
    lines: list[bytes] = []
    size = 0
    with connection.cursor() as cursor, cursor.copy(query, condition[1]) as copy:
        for line in copy:
            lines.append(bytes(line))
            size += len(line)
            if size >= _BLOCK_BYTES:
                yield lines
                lines, size = [], 0
    if lines:
        yield lines


def note(
    connection: psycopg.Connection,
    day: date,
    keep: Sequence[int],
    upto: Mapping[str, int],
    manifest: bytes,
    detail: Mapping[str, object],
) -> bool:
    """Put an export on record, under the login's name. False when it is there already. ``manifest``: its sha256."""
    arguments = [day, list(keep), Jsonb(dict(upto)), manifest, Jsonb(dict(detail))]
    return bool(_one(connection, "SELECT audit.exported(%s, %s::int[], %s, %s, %s)", arguments))


def _one(
    connection: psycopg.Connection,
    query: LiteralString | sql.Composed,
    parameters: Sequence[object] | Mapping[str, object],
) -> Any:
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row else None


def _kind(connection: psycopg.Connection, name: str) -> str | None:
    kind: str | None = _one(
        connection, "SELECT relkind::text FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)", [f"audit.{name}"]
    )
    return kind


def _start(day: date) -> str:
    return f"{day.isoformat()} 00:00:00+00"


def _ends(day: date) -> tuple[str, str]:
    return _start(day), _start(day + timedelta(days=1))
