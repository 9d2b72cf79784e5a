"""What sealed events say was erased on purpose: rows by redaction, parts by retention. Pure.

``redacted``: ``{"rows": {server: {batch: {part: [leaf index, ...]}}}, ...}``.
``expired``: ``{"part": "record <day> <keep>", "upto": {server: batch}, ...}``: that part of all batches up to that one.
"""

import re
from dataclasses import dataclass, field

import msgspec

_UNESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


class _Detail(msgspec.Struct):
    rows: dict[str, dict[int, dict[str, list[int]]]] | int = 0
    part: str = ""
    upto: dict[str, int] = {}


@dataclass
class Erased:
    """Rows by server, batch, part and leaf index; parts by server and name, up to a batch."""

    rows: set[tuple[str, int, str, int]] = field(default_factory=set)
    parts: dict[tuple[str, str], int] = field(default_factory=dict)

    def take(self, event: bytes) -> None:
        """Take what an event says, given its COPY text line. Raises ValueError for one that cannot be read."""
        _, _, kind, _, detail = event.split(b"\t")
        if kind not in (b"redacted", b"expired"):
            return
        found = msgspec.json.decode(unescaped(detail), type=_Detail, strict=False)
        if kind == b"expired":
            for server, upto in found.upto.items():
                key = (server, found.part)
                self.parts[key] = max(upto, self.parts.get(key, 0))
        elif isinstance(found.rows, dict):
            for server, batches in found.rows.items():
                for batch, parts in batches.items():
                    for part, indexes in parts.items():
                        self.rows.update((server, batch, part, index) for index in indexes)

    def has_row(self, server: str, batch: int, part: str, index: int) -> bool:
        """Whether a row's erasure is on record."""
        return (server, batch, part, index) in self.rows

    def has_part(self, server: str, batch: int, part: str) -> bool:
        """Whether a part was dropped as a whole."""
        return batch <= self.parts.get((server, part), 0)


def unescaped(field: bytes) -> bytes:
    """A field of COPY's text format as it was."""
    return re.sub(rb"\\(.)", lambda match: _UNESCAPED.get(match[1], match[1]), field, flags=re.DOTALL)
