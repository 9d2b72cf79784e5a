"""Rows of Parquet files against the parts of signed batches: which are missing, changed or too many."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from vaultbrix.audit.archive.columns import RECORD, Table
from vaultbrix.audit.seal import Part, leaf, record_part, root
from vaultbrix.runtime.counted import counted, verb

# Server, batch and name of a part.
Key = tuple[str, int, str]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was sealed. ``batch`` 0: of none, or not known which."""

    file: str
    what: str
    server: str = ""
    batch: int = 0
    part: str = ""

    def __str__(self) -> str:
        place = f" batch {self.batch} of {self.server} ({self.part})" if self.batch else ""
        return f"{self.file}:{place} {self.what}"


@dataclass
class Leaves:
    """Collects leaves until a part has all of its own, so that memory holds the parts that are under way only.

    ``expected``: the parts that must be complete at the end. ``redacted``: rows (server, batch, part, leaf_index) whose
    leaf had to be taken on trust, since their content is erased; each needs a sealed event that says so.
    """

    expected: dict[Key, Part]
    findings: list[Finding] = field(default_factory=list)
    redacted: set[tuple[str, int, str, int]] = field(default_factory=set)
    unsealed: int = 0
    rows: int = 0
    _open: dict[Key, dict[int, bytes]] = field(default_factory=dict)
    _done: set[Key] = field(default_factory=set)

    def take(self, name: str, table: Table, file: BinaryIO) -> None:
        """All rows of a file. Raises OSError and pyarrow.ArrowException for one that cannot be read."""
        for key, index, hashed, erased in _leaves(table, file):
            self.rows += 1
            if hashed is None:
                self.unsealed += 1
                continue
            if erased:
                self.redacted.add((*key, index))
            self._add(name, key, index, hashed)

    def finish(self) -> None:
        """Report the parts that are not whole."""
        for key in sorted(self.expected.keys() - self._done):
            count = len(self._open.get(key, ()))
            self._report(
                key[2], key, f"{count} of {counted(self.expected[key].leaves, 'row')} {verb(count, 'is', 'are')} there"
            )

    def _add(self, name: str, key: Key, index: int, hashed: bytes) -> None:
        part = self.expected.get(key)
        if part is None or key in self._done:
            self._report(name, key, f"row {index} is none of this batch's")
            return
        leaves = self._open.setdefault(key, {})
        if index in leaves or not 0 <= index < part.leaves:
            self._report(name, key, f"row {index} is there twice or has no place")
            return
        leaves[index] = hashed
        if len(leaves) == part.leaves:
            del self._open[key]
            self._done.add(key)
            if root([leaves[place] for place in range(part.leaves)]) != part.root:
                self._report(name, key, "a row was changed")

    def _report(self, name: str, key: Key, what: str) -> None:
        server, batch, part = key
        self.findings.append(Finding(name, what, server, batch, part))


def _leaves(table: Table, file: BinaryIO) -> Iterator[tuple[Key, int, bytes | None, bool]]:
    """Key, leaf_index, leaf (None: not sealed) and whether it is erased, of each row."""
    with pq.ParquetFile(file) as parquet:
        if not table.reads(parquet.schema_arrow):
            raise ValueError(f"columns are not those of {table.name}")
        # A row group is as much as was held in memory when it was written.
        for group in range(parquet.num_row_groups):
            for block in parquet.read_row_group(group, use_threads=False).to_batches():
                values = {
                    name: block.column(name).to_pylist() for name in ("server", "batch", "leaf_index", "salt", "leaf")
                }
                parts = _parts(table, block)
                for line, part, server, batch, index, salt, stored in zip(
                    table.lines(block), parts, *values.values(), strict=True
                ):
                    sealed = None if batch is None else stored if salt is None else leaf(salt, line)
                    yield (server, batch, part), index, sealed, salt is None


def _parts(table: Table, block: pa.RecordBatch) -> list[str]:
    if table is not RECORD:
        return [table.name] * block.num_rows
    names: dict[tuple[date, int], str] = {}
    part_names = []
    for at, keep in zip(block.column("at").to_pylist(), block.column("keep").to_pylist(), strict=True):
        place = (at.date(), keep)
        if place not in names:
            names[place] = record_part(*place)
        part_names.append(names[place])
    return part_names
