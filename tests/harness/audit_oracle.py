"""A second opinion on the audit store, with nothing of the product's code.

What the log files say is read with the standard library, what the store says as COPY text, and the two are compared
record by record and column by column, by file and position. Seals are recomputed from the words in
docs/audit-figures.md with hashlib and cryptography alone.
"""

import hashlib
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from tests.harness import seal_oracle
from tests.harness.expected_records import RECORD, Malformed, People, Requests, expectation, nobody

SEALED = {
    # The approver is the last field of a sealed line, which ends before it where nobody approved.
    "record": ", ".join((*RECORD, "approver")),
    "gap": "server, file, position, reason, found_at",
    "quarantine": "server, file, position, line, reason, found_at",
    "event": "id, at, kind, actor, detail",
}
SETTINGS = "-c TimeZone=UTC -c DateStyle=ISO -c extra_float_digits=1 -c bytea_output=hex"
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
SHOWN = 10
# Of what is no record and longer, the beginning is kept, and a gap tells.
LONG_BYTES, HEAD_BYTES = 256 * 1024, 64 * 1024


@dataclass(frozen=True)
class Version:
    """What a log file held at some time. ``damaged``: it was deleted or overwritten, so that lines may be missing."""

    file: str
    path: Path
    damaged: bool = False


@dataclass
class Verdict:
    """Lines of the files against rows of the store."""

    events: int = 0
    lost: int = 0
    duplicate: int = 0
    changed: int = 0
    told: int = 0
    gaps: int = 0
    holes: int = 0
    quarantined: int = 0
    batches: int = 0
    bad_batches: int = 0
    wrong_holes: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing lost without being told, nothing twice, nothing altered, every seal right."""
        return not (self.lost or self.duplicate or self.changed or self.bad_batches or self.wrong_holes)

    def example(self, text: str) -> None:
        """Keep a few to show."""
        if len(self.examples) < SHOWN:
            self.examples.append(text[:400])


@dataclass(frozen=True)
class Place:
    """Where a line stands, and which of its session's it is."""

    file: str
    position: int
    session: str = ""
    number: int = 0
    damaged: bool = False

    @property
    def key(self) -> int:
        """File and position in short."""
        return hash((self.file, self.position))


class _Files:
    """What the versions of the files say. The same line of the same session is expected once, wherever it stands."""

    def __init__(self, versions: Sequence[Version], server: str, people: People) -> None:
        # What still stands somewhere must be stored, whatever else it stood in.
        self._versions = sorted(versions, key=lambda version: version.damaged)
        self._server, self._people = server, people
        # File and position of what is kept by its beginning.
        self.cut_short: set[tuple[str, int]] = set()

    def lines(self) -> Iterator[tuple[Place, bytes, Any]]:
        """Every line: its place, the digest of what the store must hold for it, that itself."""
        requests = Requests()
        for version in self._versions:
            position = 0
            with version.path.open("rb") as file:
                for line in file:
                    text = line.removesuffix(b"\n")
                    row: tuple[Any, ...]
                    try:
                        row = expectation(text, self._server, version.file, position, self._people, requests)
                        place = Place(version.file, position, row[2], row[3], version.damaged)
                    except Malformed:
                        # What the writer never ended is kept whole.
                        if len(text) > LONG_BYTES and line.endswith(b"\n"):
                            text = text[:HEAD_BYTES]
                            if not version.damaged:
                                self.cut_short.add((version.file, position))
                        row = ("quarantine", version.file, position, text)
                        place = Place(version.file, position, damaged=version.damaged)
                    yield place, _digest(row), row
                    position += len(line)

    def expected(self) -> dict[bytes, set[int]]:
        """Digest of each line that must be stored → hashes of the places where it may be from."""
        found: dict[bytes, set[int]] = {}
        for place, digest, _ in self.lines():
            found.setdefault(digest, set()).add(place.key)
        return found


_FILE = list(RECORD).index("file")


def _digest(row: tuple[Any, ...]) -> bytes:
    """Of a record, but for its file and position; of a line in quarantine, with them."""
    content = (*row[:_FILE], *row[_FILE + 2 :]) if len(row) == len(RECORD) else row
    return hashlib.blake2b(repr(content).encode(), digest_size=16).digest()


def _take(expected: dict[bytes, set[int]], digest: bytes, place: Place) -> bool:
    if place.key not in expected.get(digest, ()):
        return False
    del expected[digest]
    return True


class _Told:
    """What the store says is missing: the rest of files from a position on, and lines of sessions."""

    def __init__(self, gaps: Iterable[tuple[str, int]], holes: Iterable[tuple[str, int, int]]) -> None:
        self._gaps: dict[str, int] = {}
        for file, position in gaps:
            self._gaps[file] = min(position, self._gaps.get(file, position))
        self._holes: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for session, first, last in holes:
            self._holes[session].append((first, last))

    def covers(self, place: Place) -> bool:
        """Whether a line that is not stored is one of those."""
        if place.file in self._gaps and self._gaps[place.file] <= place.position:
            return True
        return any(first <= place.number <= last for first, last in self._holes[place.session])


def _explain(
    verdict: Verdict, missing: dict[bytes, set[int]], surplus: list[tuple[Place, bytes]], files: _Files, told: _Told
) -> None:
    """Say of each difference of which kind it is; reads the files again."""
    extra = {digest for _, digest in surplus}
    twice = {digest for _, digest, _ in files.lines() if digest in extra} if extra else set()
    altered = Counter((place.file, place.position) for place, digest in surplus if digest not in twice)
    for place, digest in surplus:
        if missing.pop(digest, None) is not None:
            verdict.changed += 1
            verdict.example(f"changed: stands at {place}")
        elif digest in twice:
            verdict.duplicate += 1
            verdict.example(f"duplicate: {place}")
    for place, digest, row in files.lines() if missing else ():
        if missing.pop(digest, None) is None:
            continue
        if altered[place.file, place.position]:
            altered[place.file, place.position] -= 1
            verdict.changed += 1
            verdict.example(f"changed: {row}")
        elif place.damaged and told.covers(place):
            verdict.told += 1
        else:
            verdict.lost += 1
            verdict.example(f"lost: {row}")
    for (file, position), count in altered.items():
        if count:
            verdict.changed += count
            verdict.example(f"changed: the file has nothing at {file} {position}")


_HOLES = "SELECT session_id, first_line, last_line FROM audit.hole WHERE server = %s"


def fields(line: bytes) -> list[str | None]:
    """Fields of a line of COPY's text format."""
    return [
        None if text == "\\N" else ESCAPED.sub(lambda m: ESCAPES.get(m[1], m[1]), text)
        for text in line.decode().split("\t")
    ]


class _Found:
    """The store's rows of one server, read once; leaves and line numbers are kept of what passes."""

    def __init__(self, connection: psycopg.Connection, server: str) -> None:
        self._connection, self._server = connection, server
        self.leaves: dict[tuple[int, str], dict[int, bytes]] = {}
        self.quarantined = 0
        self._numbers: dict[str, array[int]] = {}
        self.gaps: list[tuple[str, int]] = []
        self.broken: list[tuple[str, int]] = []

    def rows(self) -> Iterator[tuple[Place, bytes]]:
        """Place and digest of every record and quarantined line; takes gaps and events along."""
        for values in self._read("record"):
            row: tuple[Any, ...] = tuple(
                None if text is None else read(text) for read, text in zip(RECORD.values(), values, strict=True)
            )
            session, number = row[2], row[3]
            self._numbers.setdefault(session, array("q")).append(number)
            yield Place(row[-3], row[-2], session, number), _digest(row)
        for _, file, position, line, *_ in self._read("quarantine"):
            assert file is not None and position is not None and line is not None
            self.quarantined += 1
            content = bytes.fromhex(line.removeprefix("\\x"))
            yield Place(file, int(position)), _digest(("quarantine", file, int(position), content))
        for _, file, position, reason, *_ in self._read("gap"):
            assert file is not None and position is not None and reason is not None
            self.gaps.append((file, int(position)))
            # Others stand where a session went on, and say which of its lines are missing.
            if reason.startswith("the file was "):
                self.broken.append((file, int(position)))
        for _ in self._read("event"):
            pass

    def holes(self) -> set[tuple[str, int, int]]:
        """Session, first and last missing line."""
        found = set()
        for session, numbers in self._numbers.items():
            before = 0
            for number in sorted(set(numbers)):
                if number > before + 1:
                    found.add((session, before + 1, number - 1))
                before = number
        return found

    def _read(self, table: str) -> Iterator[list[str | None]]:
        query = psycopg.sql.SQL(
            "COPY (SELECT {}, batch, leaf_index, salt, leaf FROM {} WHERE server = {}) TO STDOUT"
        ).format(
            psycopg.sql.SQL(SEALED[table]), psycopg.sql.Identifier("audit", table), psycopg.sql.Literal(self._server)
        )
        rest = b""
        with self._connection.cursor() as cursor, cursor.copy(query) as copy:
            for block in copy:
                *whole, rest = (rest + bytes(block)).split(b"\n")
                for line in whole:
                    yield self._sealed(table, line)

    def _sealed(self, table: str, line: bytes) -> list[str | None]:
        sealed, batch, index, salt, leaf = line.rsplit(b"\t", 4)
        values = fields(sealed)[: len(RECORD)] if table == "record" else fields(sealed)
        if table == "record":
            sealed = sealed.removesuffix(b"\t")
        part = table
        if table == "record":
            part = f"record {(values[1] or '')[:10]} {values[-1]}"
        computed = hashlib.sha256(b"\0" + _bytes(salt) + sealed).digest()
        if batch == b"\\N":
            batch, index = b"0", b"0"
        known = self.leaves.setdefault((int(batch), part), {})
        # A wrong leaf, or a place taken twice, makes a root that nothing was signed for.
        known[int(index)] = computed if computed == _bytes(leaf) and int(index) not in known else b"wrong"
        return values


def _bytes(text: bytes) -> bytes:
    return b"" if text == b"\\N" else bytes.fromhex(text.removeprefix(b"\\\\x").decode())


def judge(
    connection: psycopg.Connection, server: str, versions: Sequence[Version], keys: str, people: People = nobody
) -> Verdict:
    """Compare files and store. ``connection`` is the store owner's, with SETTINGS; ``keys`` the public keys (PEM)."""
    verdict = Verdict()
    files = _Files(versions, server, people)
    expected = files.expected()
    verdict.events = len(expected)
    found = _Found(connection, server)
    surplus = []
    for place, digest in found.rows():
        if not _take(expected, digest, place):
            surplus.append((place, digest))
    verdict.gaps, verdict.quarantined = len(found.gaps), found.quarantined
    for file, at in files.cut_short.difference(found.gaps):
        verdict.lost += 1
        verdict.example(f"lost: the rest of the line in {file} at {at}")
    holes = set(connection.execute(_HOLES, [server]).fetchall())
    verdict.holes, verdict.wrong_holes = len(holes), len(holes ^ found.holes())
    if expected or surplus:
        _explain(verdict, expected, surplus, files, _Told(found.broken, holes))
    verdict.batches, bad = seal_oracle.check(connection, server, found.leaves, keys)
    verdict.bad_batches = len(bad)
    for number, reason in sorted(bad.items()):
        verdict.example(f"batch {number}: {reason}")
    return verdict
