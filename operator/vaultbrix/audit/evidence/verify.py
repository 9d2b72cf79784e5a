"""Check the store's seals, as one of its readers and in one snapshot: headers first, then events, then the rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import groupby
from operator import itemgetter

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from psycopg import sql

from vaultbrix.audit import rows
from vaultbrix.audit.evidence.erasures import Erasures
from vaultbrix.audit.evidence.findings import (
    Anchor,
    Chain,
    Fault,
    Finding,
    Parts,
    Row,
    Signed,
    erased_without_event,
    of_anchor,
    of_batch,
)
from vaultbrix.audit.headers import SignedHeader, header_columns
from vaultbrix.audit.seal import Part

Progress = Callable[[str, int], None]
_HEADERS_AT_ONCE = 5_000
_MOST_FINDINGS = 1_000
_SEALS = "server, batch, leaf_index, salt, leaf"


@dataclass
class Checked:
    """Counts of what a verification looked at, and what is wrong.

    ``wrong`` counts all findings, ``findings`` are those of the first bad batches. ``unsealed`` rows are from before
    records were sealed, ``waiting`` events for a shipper's next batch, which ``uncovered``
    erased rows wait for. ``last`` by server: the newest batch and its
    header's hash.
    """

    batches: int = 0
    rows: int = 0
    redacted: int = 0
    expired: int = 0
    unsealed: int = 0
    waiting: int = 0
    uncovered: int = 0
    last: dict[str, Anchor] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    wrong: int = 0

    @property
    def first(self) -> Finding | None:
        """The finding of the first bad batch; None where all seals hold."""
        return min(self.findings, default=None)

    def tell(self, findings: Iterable[Finding]) -> None:
        """Count findings; kept are the first bad batches, however much is wrong."""
        for finding in findings:
            self.wrong += 1
            self.findings.append(finding)
        if len(self.findings) > 2 * _MOST_FINDINGS:
            self.findings = sorted(self.findings)[:_MOST_FINDINGS]


class Verifier:
    """One pass over the store. The connection must be opened with ``rows.SETTINGS``."""

    def __init__(
        self,
        connection: psycopg.Connection,
        keys: Mapping[bytes, Ed25519PublicKey],
        *,
        anchors: Sequence[Anchor] = (),
        progress: Progress = lambda _what, _count: None,
        lenient: bool = False,
    ) -> None:
        """``lenient``: rows of servers that never sealed one, and erasures whose event waits for its seal, may be."""
        self._connection = connection
        self._keys = keys
        self._anchors = anchors
        self._progress = progress
        self._lenient = lenient
        self._chains: dict[str, Chain] = {}
        self._erasures = Erasures()
        # When batches with events were sealed.
        self._sealed_at: dict[tuple[str, int], datetime] = {}
        # When each server's first batch was sealed.
        self._sealed_since: dict[str, datetime] = {}
        self.checked = Checked()

    def whole(self) -> Checked:
        """Check all of the store. Raises psycopg.Error."""
        with self._snapshot():
            self._headers(None)
            self._anchored()
            self._events()
            self._table("gap", rows.GAP)
            self._table("quarantine", rows.QUARANTINE)
            for day in self._days():
                self._day(day)
        return self.checked

    def day(self, day: date) -> Checked:
        """Check the records of one day (UTC), and the batches that they stand in. Raises psycopg.Error."""
        with self._snapshot():
            self._headers(day)
            self._anchored()
            self._events(check=False)
            self._day(day)
        return self.checked

    def _snapshot(self) -> AbstractContextManager[psycopg.Transaction]:
        self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return self._connection.transaction()

    def _tell(self, findings: Iterable[Finding]) -> None:
        self.checked.tell(findings)

    def _headers(self, day: date | None) -> None:
        first = "SELECT DISTINCT ON (server) server, sealed_at FROM audit.batch ORDER BY server, batch"
        self._sealed_since = dict(self._connection.execute(first).fetchall())
        anchored = {(anchor.server, anchor.batch) for anchor in self._anchors}
        for batch in self._batches(day):
            header = batch.header
            chain = self._chains.setdefault(header.server, Chain(whole=day is None))
            self._tell(chain.follow(header, keep=(header.server, header.batch) in anchored))
            self._tell(of_batch(batch, self._keys))
            if "event" in batch.parts:
                self._sealed_at[header.server, header.batch] = header.sealed_at
            self.checked.batches += 1
            if not self.checked.batches % _HEADERS_AT_ONCE:
                self._progress("batches", self.checked.batches)
        for server, chain in self._chains.items():
            if chain.last:
                self.checked.last[server] = Anchor(server, chain.last.batch, chain.last.head())

    def _batches(self, day: date | None) -> Iterator[Signed]:
        # Of a day: all from the first to the last batch that holds some of it, so that the chain can be followed.
        within = sql.SQL(
            "SELECT server, min(batch) AS low, max(batch) AS high FROM audit.part WHERE part ^@ %(mark)s GROUP BY 1"
            if day
            else "SELECT DISTINCT server, 0::bigint AS low, 9223372036854775807 AS high FROM audit.batch"
        )
        query = sql.SQL(
            "WITH of_day AS ({}) SELECT {}, b.signer, b.signature, p.part, p.leaves, p.root"
            " FROM audit.batch b JOIN of_day d ON b.server = d.server AND b.batch BETWEEN d.low AND d.high"
            " LEFT JOIN audit.part p ON p.server = b.server AND p.batch = b.batch ORDER BY b.server, b.batch"
        ).format(within, header_columns("b"))
        values = {"mark": f"record {day.isoformat()} "} if day else {}
        with self._connection.cursor(name="headers") as cursor:
            cursor.itersize = _HEADERS_AT_ONCE
            for _, group in groupby(cursor.execute(query, values), key=itemgetter(0, 1)):
                rows_of_batch = list(group)
                signed = SignedHeader.of_row(rows_of_batch[0][:-3])
                # A batch without parts has one row all the same, of NULLs.
                parts = {part: Part(leaves, root) for *_, part, leaves, root in rows_of_batch if part is not None}
                yield Signed(signed.header, signed.signer, signed.signature, parts)

    def _anchored(self) -> None:
        for anchor in self._anchors:
            chain = self._chains.get(anchor.server)
            # A day's batches need not reach to the anchor.
            cursor = self._connection.execute("SELECT max(batch) FROM audit.batch WHERE server = %s", [anchor.server])
            row = cursor.fetchone()
            if chain is not None and chain.last is not None and row and (row[0] or 0) > chain.last.batch:
                continue
            self._tell(of_anchor(anchor, chain))

    def _table(self, table: str, columns: str) -> None:
        parts = Parts(self._parts(table), redacted=self._redacted, expired=lambda *_: False)
        for row in self._rows(f"SELECT {_SEALS}, '{table}', {columns} FROM audit.{table}"):  # noqa: S608
            self._tell(parts.take(row))
            self._count(row)
        self._tell(parts.finish())

    def _events(self, *, check: bool = True) -> None:
        """Events come first, since they tell what was erased: events among it. Only those whose seals hold count."""
        erased: list[Row] = []

        def later(row: Row) -> bool:
            erased.append(row)
            return True

        parts = Parts(self._parts("event"), redacted=later, expired=lambda *_: False)
        bad = {(finding.server, finding.batch) for finding in self.checked.findings}
        for row in self._rows(f"SELECT {_SEALS}, 'event', {rows.EVENT} FROM audit.event"):  # noqa: S608
            wrong = parts.take(row)
            self._count(row)
            if check:
                self._tell(wrong)
            if row.salt is not None and not wrong and (row.server, row.batch) not in bad:
                place = (row.server, row.batch)
                self._erasures.take(row.line, place, self._sealed_at.get(place))
        if check:
            self._tell(parts.finish())
            self._tell(self._erasures.findings)
        self._erasures.settle()
        for row in erased:
            if check and not self._redacted(row):
                self._tell([erased_without_event(row)])

    def _days(self) -> list[date]:
        named = "SELECT DISTINCT split_part(part, ' ', 2)::date FROM audit.part WHERE part ^@ 'record '"
        sealed_days = {row[0] for row in self._connection.execute(named)}
        # Days that hold rows and have no part are found as well: nothing may be there that was not sealed.
        kept = (
            "SELECT substring(relname from '^record_([0-9]{8})')::date FROM pg_class c JOIN pg_namespace n"
            " ON n.oid = c.relnamespace WHERE n.nspname = 'audit' AND relname ~ '^record_[0-9]{8}$'"
        )
        return sorted(sealed_days | {row[0] for row in self._connection.execute(kept)})

    def _day(self, day: date) -> None:
        mark = f"record {day.isoformat()} "
        parts = Parts(self._parts(mark, prefix=True), redacted=self._redacted, expired=self._expired)
        begin, end = f"{day} 00:00:00+00", f"{day + timedelta(days=1)} 00:00:00+00"
        # The part's name is made of what the row holds: its place is part of what was sealed.
        query = (
            f"SELECT {_SEALS}, 'record ' || (at AT TIME ZONE 'UTC')::date || ' ' || keep, {rows.STORED}"  # noqa: S608
            f" FROM audit.record WHERE at >= '{begin}' AND at < '{end}'"
        )
        for row in self._rows(query, of_records=True):
            self._tell(parts.take(row))
            self._count(row)
        self._tell(parts.finish())

    def _redacted(self, row: Row) -> bool:
        place = (row.server, row.batch, row.part, row.index)
        if place in self._erasures.redacted:
            return True
        waiting = place in self._erasures.waiting_redacted
        self.checked.uncovered += waiting
        # Whoever owns the store can write an event; only a shipper can seal it.
        return waiting and self._lenient

    def _expired(self, server: str, batch: int, part: str) -> bool:
        place = (server, batch, part)
        is_expired = place in self._erasures.dropped or place in self._erasures.waiting_dropped
        self.checked.expired += is_expired
        return is_expired

    def _count(self, row: Row) -> None:
        self.checked.rows += 1
        self.checked.redacted += row.salt is None
        if not self.checked.rows % 100_000:
            self._progress("rows", self.checked.rows)

    def _parts(self, name: str, *, prefix: bool = False) -> dict[tuple[str, int, str], Part]:
        match = "part ^@ %s" if prefix else "part = %s"
        cursor = self._connection.execute(
            f"SELECT server, batch, part, leaves, root FROM audit.part WHERE {match}".encode(),  # noqa: S608
            [name],
        )
        return {(server, batch, part): Part(leaves, bytes(root)) for server, batch, part, leaves, root in cursor}

    def _rows(self, query: str, *, of_records: bool = False) -> Iterator[Row]:
        """Rows by COPY, whose text is what was sealed."""
        with self._connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
            for block in copy:
                server, batch, index, salt, leaf, part, line = bytes(block)[:-1].split(b"\t", 6)
                if of_records:
                    line = rows.without_approver(line)
                if batch == b"\\N":
                    self._unsealed(server, part, line)
                    continue
                yield Row(
                    _text(server),
                    int(batch),
                    part.decode(),
                    int(index) if index != b"\\N" else -1,
                    _bytes(salt),
                    _bytes(leaf) or b"",
                    line,
                )

    def _unsealed(self, server: bytes, part: bytes, line: bytes) -> None:
        """Rows from before records were sealed are counted; others did not come from a shipper."""
        if part == b"event":
            self.checked.waiting += 1
            self._erasures.take_unsealed(line)
            return
        self.checked.unsealed += 1
        name = _text(server)
        # When it was logged, or found.
        at = (line.split(b"\t", 2)[1] if part.startswith(b"record ") else line.rsplit(b"\t", 1)[1]).decode()
        since = self._sealed_since.get(name)
        if since is None and not self._lenient:
            message = f"a row of {at} without a seal, of a server that never sealed one; --lenient counts such rows"
            self._tell([Finding(name, 0, Fault.ROW_ADDED, message)])
        elif since is not None and datetime.fromisoformat(at) > since:
            self._tell([Finding(name, 0, Fault.ROW_ADDED, f"a row of {at} without a seal; no shipper stored it")])


def _text(field: bytes) -> str:
    # Names of servers are DNS labels: COPY escapes nothing in them.
    return "" if field == b"\\N" else field.decode()


def _bytes(field: bytes) -> bytes | None:
    return None if field == b"\\N" else bytes.fromhex(field[3:].decode())
