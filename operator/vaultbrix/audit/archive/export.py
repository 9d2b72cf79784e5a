"""Export a day: gather what the store has, write files that check, put a signed manifest last, note it in the store.

Whatever is interrupted is found and gone on with: files are there whole or not at all, a file that is there is checked
before it is taken over, and without its manifest a set does not count.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from vaultbrix.audit.archive import plan, store
from vaultbrix.audit.archive.check import hash_of
from vaultbrix.audit.archive.columns import BATCH, EVENT, GAP, PART, QUARANTINE, RECORD, Table
from vaultbrix.audit.archive.leaves import Key, Leaves
from vaultbrix.audit.archive.manifest import (
    FORMAT,
    NAME,
    SIGNATURE_NAME,
    BadManifest,
    File,
    Manifest,
    Span,
    current,
    digest,
    now_utc,
    set_folder,
    verified,
)
from vaultbrix.audit.archive.place import Place
from vaultbrix.audit.seal import Part, Signer, identity, record_part

# Random bytes do not compress, and no two are the same.
_RANDOM = frozenset({"salt", "leaf", "previous", "root", "signature"})
_LEVEL = 9

# Told the day, its rows written and its rows in all.
Progress = Callable[[date, int, int], None]


class ExportError(Exception):
    """The day was not exported: why, and what to do."""


@dataclass(frozen=True)
class Options:
    """``again``: export the whole day anew and take away what was there of it, as after a redaction.

    ``unawaited``: servers that are not waited for, such as one that is gone for good.
    """

    again: bool = False
    unawaited: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Done:
    """What the export of a day came to. ``manifest``: its sha256 (hex); empty: nothing was written, for reason ``why``.

    ``rows`` are those of records. ``waits``: another time the day may be exported.
    """

    day: date
    manifest: str = ""
    why: str = ""
    waits: bool = False
    number: int = 0
    rows: int = 0
    bytes: int = 0


@dataclass
class _Work:
    """A set of files while it is made: its plan, and the files that are written already."""

    day: date
    folder: str
    pieces: list[plan.Piece]
    keeps: list[int]
    chains: dict[str, store.Sealed]
    unsealed: bool
    dropped: dict[str, dict[str, int]]
    files: list[File] = field(default_factory=list)


class Exporter:
    """Exports days of one store to one place. ``signer`` signs the manifests."""

    def __init__(self, connection: psycopg.Connection, place: Place, signer: Signer, progress: Progress) -> None:
        self._connection = connection
        self._place = place
        self._signer = signer
        self._keys = {identity(signer.public): signer.public}
        self._progress = progress

    def export(self, day: date, options: Options, *, now: datetime) -> Done:
        """Export what is not in the archive yet of a day. Raises ExportError, psycopg.Error, OSError."""
        upto = store.checkpoints(self._connection)
        awaited = sorted(upto.keys() - options.unawaited)
        if why := plan.waiting_for(day, store.newest_after(self._connection, awaited, day), now=now):
            return Done(day, why=f"not yet: {why}", waits=True)
        known = self._known(day)
        before = {} if options.again else current(known)
        after = {s: max((m.servers[s].upto for m in before.values() if s in m.servers), default=0) for s in upto}
        work = self._plan(day, max((m.number for m in known.values()), default=0) + 1, after, upto, first=not before)
        if options.again and (gone := _only_archived(known.values(), work)):
            raise ExportError(
                f"{day}: the store has dropped what the archive holds of {', '.join(gone)}",
                "leave out --again: exporting anew would lose it",
            )
        if not (work.pieces or work.unsealed or any(chain.last for chain in work.chains.values())):
            for name, known_manifest in before.items():
                self._note(name, known_manifest)
            return Done(day, why="exported already" if before else "nothing is stored of it")
        with tempfile.TemporaryDirectory(prefix="vaultbrix-") as scratch:
            self._write(work, Path(scratch))
        spans = {
            server: Span(after[server], upto[server], chain.first, chain.last, chain.head.hex(), server in awaited)
            for server, chain in work.chains.items()
        }
        manifest = Manifest(
            format=FORMAT,
            day=day,
            number=int(work.folder.rpartition("=")[2]),
            made_at=now_utc(now),
            signer=self._signer.identity.hex(),
            keeps=tuple(work.keeps),
            servers=spans,
            files=tuple(work.files),
            dropped=work.dropped,
            replaces=tuple(sorted(known)) if options.again else (),
        )
        name = self._publish(manifest)
        self._note(name, manifest)
        self._tidy(day)
        records = sum(file.rows for file in manifest.files if file.table == RECORD.name)
        return Done(day, name, number=manifest.number, rows=records, bytes=sum(file.bytes for file in manifest.files))

    def _known(self, day: date) -> dict[str, Manifest]:
        """The day's manifests that are in the archive, by hash."""
        known = {}
        for folder in self._place.sets(day):
            try:
                content = self._place.read(f"{folder}/{NAME}")
            except FileNotFoundError:
                continue
            try:
                known[digest(content)] = verified(content, self._place.read(f"{folder}/{SIGNATURE_NAME}"), self._keys)
            except (BadManifest, FileNotFoundError) as error:
                raise ExportError(
                    f"{self._place.url}/{folder}/{NAME}: {error}",
                    "export with the key that the archive was begun with, or to another URL",
                ) from None
        return known

    def _plan(self, day: date, number: int, after: Mapping[str, int], upto: Mapping[str, int], *, first: bool) -> _Work:
        keeps = store.keeps(self._connection, day)
        dropped = store.dropped(self._connection, day)
        parts = plan.parts_to_export(store.parts(self._connection, day, keeps), day, after, upto, dropped)
        return _Work(
            day,
            set_folder(day, number),
            plan.pieces(parts, plan.MOST_ROWS),
            keeps,
            {server: store.sealed_on(self._connection, server, day, after[server], upto[server]) for server in upto},
            first and bool(keeps) and store.unsealed(self._connection, day),
            dropped,
        )

    def _write(self, work: _Work, scratch: Path) -> None:
        there = self._place.names(work.folder)
        for piece in work.pieces:
            self._write_piece(work, piece, scratch, there)
        if work.unsealed:
            self._add(work, RECORD, "record-unsealed.parquet", [store.of_unsealed(work.day)], {}, scratch)
        late: dict[str, set[int]] = {}
        for piece in work.pieces:
            batches = {batch for _, batch, _ in store.expected(self._connection, piece, work.day)}
            late.setdefault(piece.server, set()).update(batches)
        whole = [store.of_batches(server, chain) for server, chain in work.chains.items() if chain.last]
        parts = store.others(self._connection, work.chains)
        for table in (GAP, QUARANTINE, EVENT):
            expected = {key: part for key, part in parts.items() if key[2] == table.name}
            if expected:
                self._add(work, table, f"{table.name}.parquet", whole, expected, scratch)
        for table in (BATCH, PART):
            rows = [
                store.of_batches(server, chain, sorted(late.get(server, ())))
                for server, chain in work.chains.items()
                if chain.last or server in late
            ]
            self._add(work, table, f"{table.name}.parquet", rows, {}, scratch)
        for name in there - {file.name for file in work.files}:
            self._place.delete(f"{work.folder}/{name}")

    def _write_piece(self, work: _Work, piece: plan.Piece, scratch: Path, there: set[str]) -> None:
        expected = store.expected(self._connection, piece, work.day)
        condition = store.of_piece(piece, work.day)
        described = File(piece.name, "record", piece.rows, 0, "", piece.server, piece.keep, piece.first, piece.last)
        if piece.name in there and (taken := self._taken_over(work, described, expected, condition)):
            work.files.append(taken)
            return
        self._add(work, RECORD, piece.name, [condition], expected, scratch, described)

    def _taken_over(
        self, work: _Work, described: File, expected: dict[Key, Part], condition: store.Condition
    ) -> File | None:
        """A file that an export which was interrupted left, None when it is not what would be written now."""
        path = f"{work.folder}/{described.name}"
        try:
            with self._place.open(path) as file:
                leaves = _checked(RECORD, described.name, file, expected)
            if leaves.findings or len(leaves.redacted) != store.erased(self._connection, RECORD, condition):
                return None
            with self._place.open(path) as file:
                size, hashed = hash_of(file)
        except (OSError, ValueError, pa.ArrowException):
            return None
        return _with(described, leaves.rows, size, hashed)

    def _add(
        self,
        work: _Work,
        table: Table,
        name: str,
        conditions: Iterable[store.Condition],
        expected: dict[Key, Part],
        scratch: Path,
        described: File | None = None,
    ) -> None:
        """Write a file, read it back against the seals, and put it in its place."""
        path = scratch / "file.parquet"
        rows = _write_file(path, table, self._blocks(work, table, conditions))
        if table.sealed:
            with path.open("rb") as file:
                leaves = _checked(table, name, file, expected)
            if leaves.findings:
                raise ExportError(
                    f"the store is not as it was sealed: {leaves.findings[0]}", "run: vaultbrix audit verify"
                )
        with path.open("rb") as file:
            size, hashed = hash_of(file)
        self._place.put(f"{work.folder}/{name}", path)
        work.files.append(_with(described or File(name, table.name, 0, 0, ""), rows, size, hashed))

    def _blocks(self, work: _Work, table: Table, conditions: Iterable[store.Condition]) -> Iterator[list[bytes]]:
        written, total = sum(f.rows for f in work.files if f.table == "record"), sum(p.rows for p in work.pieces)
        for condition in conditions:
            for block in store.blocks(self._connection, table, condition):
                yield block
                written += len(block) if table is RECORD else 0
                self._progress(work.day, written, total)

    def _publish(self, manifest: Manifest) -> str:
        content = manifest.encode()
        self._place.put_bytes(f"{manifest.folder}/{SIGNATURE_NAME}", self._signer.sign_content(content))
        self._place.put_bytes(f"{manifest.folder}/{NAME}", content)
        return digest(content)

    def _note(self, name: str, manifest: Manifest) -> None:
        upto = {server: span.upto for server, span in manifest.servers.items()}
        detail = {
            "day": manifest.day.isoformat(),
            "set": manifest.number,
            "url": self._place.url,
            "rows": sum(file.rows for file in manifest.files if file.table == "record"),
            "signer": manifest.signer,
        }
        store.note(self._connection, manifest.day, manifest.keeps, upto, bytes.fromhex(name), detail)

    def _tidy(self, day: date) -> None:
        """Take away sets that another one replaces, and what is left of them."""
        counting = {manifest.folder for manifest in current(self._known(day)).values()}
        for folder in set(self._place.sets(day)) - counting:
            self._place.delete_set(folder)


def _only_archived(known: Iterable[Manifest], work: _Work) -> list[str]:
    """Parts that are in the archive and, in whole or in part, in the store no more."""
    archived = {record_part(work.day, keep): keep for manifest in known for keep in manifest.keeps}
    return [part for part, keep in sorted(archived.items()) if keep not in work.keeps or part in work.dropped]


def _checked(table: Table, name: str, file: BinaryIO, expected: dict[Key, Part]) -> Leaves:
    leaves = Leaves(expected)
    leaves.take(name, table, file)
    leaves.finish()
    return leaves


def _write_file(path: Path, table: Table, blocks: Iterator[list[bytes]]) -> int:
    """Write a Parquet file, a row group per block; returns its rows."""
    coded = [column for column in table.columns if column not in _RANDOM]
    rows = 0
    with pq.ParquetWriter(
        path, table.schema, compression="zstd", compression_level=_LEVEL, use_dictionary=coded, write_statistics=True
    ) as writer:
        for lines in blocks:
            block = table.from_csv(lines)
            writer.write_table(block, row_group_size=block.num_rows)
            rows += block.num_rows
    return rows


def _with(described: File, rows: int, size: int, hashed: str) -> File:
    return msgspec.structs.replace(described, rows=rows, bytes=size, sha256=hashed)
