"""The archive's tables: their columns, how the store gives them, and the lines that were sealed. Pure.

A row of the archive holds its values as they were sealed, so that its leaf can be computed from it alone.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from vaultbrix.audit import rows
from vaultbrix.audit.archive.manifest import TableName
from vaultbrix.audit.seal import SALT_BYTES
from vaultbrix.runtime.counted import counted

_TIME = pa.timestamp("us", "UTC")
_BYTES = pa.binary()
_TYPES = {
    "at": _TIME,
    "found_at": _TIME,
    "sealed_at": _TIME,
    "line_num": pa.int64(),
    "pid": pa.int32(),
    "statement_id": pa.int64(),
    "substatement_id": pa.int64(),
    "row_count": pa.int64(),
    "duration_ms": pa.float64(),
    "position": pa.int64(),
    "keep": pa.int32(),
    "id": pa.int64(),
    "batch": pa.int64(),
    "leaf_index": pa.int32(),
    "redaction": pa.int64(),
    "start": pa.int64(),
    "stop": pa.int64(),
    "parts": pa.int32(),
    "leaves": pa.int32(),
    "line": _BYTES,
    "salt": pa.binary(SALT_BYTES),
    "leaf": pa.binary(32),
    "previous": pa.binary(32),
    "root": pa.binary(32),
    "signer": pa.binary(32),
    "signature": pa.binary(64),
}
# What PostgreSQL is asked for where the column's own text is not what is kept.
_SELECTED = {"address": "host(address)"}


@dataclass(frozen=True)
class Table:
    """A table of the archive. ``sealed``: the columns of its sealed line, none for one whose rows are no leaves.

    ``last``: a column that a sealed line ends with where it is not empty. It is the table's last, and files of earlier
    releases have not got it.
    """

    name: TableName
    columns: tuple[str, ...]
    sealed: tuple[str, ...] = ()
    last: str = ""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the table's Parquet files."""
        return pa.schema([(name, _TYPES.get(name, pa.string())) for name in self.columns])

    def reads(self, schema: pa.Schema) -> bool:
        """Whether a file of these columns is one of the table's, of this release or an earlier one."""
        return bool(schema == self.schema or (self.last and schema == self.schema.remove(len(self.columns) - 1)))

    @property
    def select(self) -> str:
        """The columns as SQL that gives what ``from_csv`` reads."""
        return ", ".join(_selected(name) for name in self.columns)

    def from_csv(self, lines: Sequence[bytes]) -> pa.Table:
        """Rows from lines of PostgreSQL's COPY in CSV, one item a row. Raises ValueError."""
        content = b"".join(lines)
        binary = [name for name in self.columns if pa.types.is_binary(kind := self._type(name)) or _fixed(kind)]
        types = {name: pa.string() if name in binary else self._type(name) for name in self.columns}
        table = pcsv.read_csv(
            io.BytesIO(content),
            read_options=pcsv.ReadOptions(
                column_names=list(self.columns), block_size=len(content) + 1, use_threads=False
            ),
            parse_options=pcsv.ParseOptions(newlines_in_values=True),
            convert_options=pcsv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
        if table.num_rows != len(lines):
            raise ValueError(f"{self.name}: {counted(table.num_rows, 'row')} of {counted(len(lines), 'line')}")
        for name in binary:
            values = [None if text is None else bytes.fromhex(text) for text in table[name].to_pylist()]
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(values, self._type(name)))
        return table

    def lines(self, block: pa.RecordBatch) -> list[bytes]:
        """The sealed line of each row of a block (vaultbrix.audit.rows), in order."""
        texts = [_text(name, block.column(block.schema.get_field_index(name))) for name in self.sealed]
        tab = pa.scalar("\t", pa.large_string())
        joined = pc.binary_join_element_wise(*texts, tab)
        place = block.schema.get_field_index(self.last) if self.last else -1
        if place >= 0:
            last = _escaped(pc.fill_null(block.column(place), "").cast(pa.large_string()))
            joined = pc.if_else(pc.equal(last, ""), joined, pc.binary_join_element_wise(joined, last, tab))
        return [line.encode() for line in joined.to_pylist()]

    def _type(self, name: str) -> pa.DataType:
        return _TYPES.get(name, pa.string())


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


_SEAL = _names(rows.SEAL)
RECORD = Table("record", (*_names(rows.RECORD), *_SEAL, "redaction", rows.APPROVER), _names(rows.RECORD), rows.APPROVER)
GAP = Table("gap", (*_names(rows.GAP), *_SEAL), _names(rows.GAP))
QUARANTINE = Table("quarantine", (*_names(rows.QUARANTINE), *_SEAL, "redaction"), _names(rows.QUARANTINE))
EVENT = Table("event", ("server", *_names(rows.EVENT), *_SEAL, "redaction"), _names(rows.EVENT))
BATCH = Table(
    "batch",
    _names("server, batch, sealed_at, file, start, stop, parts, previous, root, signer, signature"),
)
PART = Table("part", _names("server, batch, part, leaves, root"))
TABLES = {table.name: table for table in (RECORD, GAP, QUARANTINE, EVENT, BATCH, PART)}


def _fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(kind))


def _selected(name: str) -> str:
    kind = _TYPES.get(name)
    if kind is not None and (pa.types.is_binary(kind) or _fixed(kind)):
        return f"encode({name}, 'hex')"
    return _SELECTED.get(name, name)


def _text(name: str, values: pa.Array) -> pa.Array:
    """PostgreSQL's COPY text of a column's values."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        text = _each(values, rows.timestamp)
    elif pa.types.is_floating(kind):
        text = _each(values, rows.milliseconds)
    elif pa.types.is_binary(kind):
        text = _each(values, rows.binary)
    elif name == "address":
        text = _each(values, rows.address)
    elif pa.types.is_string(kind):
        text = _escaped(values.cast(pa.large_string()))
    else:
        text = values.cast(pa.large_string())
    return pc.fill_null(text, pa.scalar(rows.NULL, pa.large_string()))


def _each(values: pa.Array, convert: Callable[[Any], str]) -> pa.Array:
    # Few values differ, as a rule.
    coded = values.dictionary_encode()
    texts = pa.array([convert(value) for value in coded.dictionary.to_pylist()], pa.large_string())
    return texts.take(coded.indices)


def _escaped(values: pa.Array) -> pa.Array:
    # The backslash comes first in the table, so that no escape is escaped.
    for code, escaped in rows.ESCAPES.items():
        if pc.any(pc.match_substring(values, chr(code))).as_py():
            values = pc.replace_substring(values, chr(code), escaped)
    return values
