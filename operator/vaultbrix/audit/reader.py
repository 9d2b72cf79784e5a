"""The log directory as a stream of batches. The log on disk is the buffer.

Every file is followed, each from a position of its own: after a clock stepped back, PostgreSQL writes a file whose name
is not the newest. A position is known by the file's inode and by a fingerprint of what stands before it, since a file
may be overwritten in place, and an inode used again.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import stat_result
from pathlib import Path
from typing import BinaryIO

# Read at once; a line that is longer is read whole all the same.
CHUNK_BYTES = 4 * 1024 * 1024
FINGERPRINT_BYTES = 256
# A file that was not written for so long while another was is one that PostgreSQL has left.
QUIET_SECONDS = 3.0
# What was written just now may be written again without a trace in the file's times.
_TRUSTED_AFTER_NS = 1_000_000_000

DELETED = "the file was deleted before it was read to its end"
OVERWRITTEN = "the file was overwritten"


@dataclass(frozen=True)
class Position:
    """How far a file is stored. ``offset`` in bytes; ``complete``: to its end, and PostgreSQL writes another one."""

    inode: int
    offset: int
    fingerprint: bytes
    complete: bool = False


@dataclass(frozen=True)
class Gap:
    """Something that is known to be missing."""

    file: str
    position: int
    reason: str


@dataclass
class Batch:
    """Whole lines of one file with their byte offsets, what is amiss, and the position that holds once all is stored.

    ``position`` is None for a file that is gone. ``full``: there is more to read right now.
    """

    file: str
    start: int
    position: Position | None
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    torn: list[tuple[int, bytes]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    full: bool = False

    @property
    def stop(self) -> int:
        """Byte offset behind its last line."""
        return self.position.offset if self.position else self.start


class LogDirectory:
    """The files of one log directory and how far each is stored.

    ``adopted``: files of names before it were stored by a release that followed one file at a time.
    """

    def __init__(self, path: Path, positions: Mapping[str, Position], adopted: str = "") -> None:
        self._path = path
        self._positions = dict(positions)
        self._adopted = adopted
        # Since when (monotonic) a file looks as it does, and which of those were read to their end as they look.
        self._unchanged: dict[str, tuple[tuple[int, ...] | None, float]] = {}
        self._checked: set[str] = set()

    @property
    def positions(self) -> Mapping[str, Position]:
        """How far each file is stored."""
        return self._positions

    def stored(self, batch: Batch) -> None:
        """Take over what a batch that is stored now stands for."""
        if batch.position is None:
            self._positions.pop(batch.file, None)
            self._unchanged.pop(batch.file, None)
        else:
            self._positions[batch.file] = batch.position
        self._checked.discard(batch.file)

    def unread(self) -> int:
        """Bytes that are in the directory and not stored. Raises OSError."""
        offsets = {name: position.offset for name, position in list(self._positions.items())}
        return sum(max(0, size - offsets.get(name, 0)) for name, size in self.written().items())

    def written(self) -> dict[str, int]:
        """Bytes in each file that is followed. Raises OSError."""
        return {
            name: found.st_size
            for name, found in self._listing().items()
            if name in self._positions or name >= self._adopted
        }

    def read(self) -> Batch | None:
        """The next batch, None when there is nothing new. Raises OSError."""
        found = self._listing()
        for name in sorted(self._positions.keys() - found.keys()):
            position = self._positions[name]
            gaps = [] if position.complete else [Gap(name, position.offset, DELETED)]
            return Batch(name, position.offset, None, gaps=gaps)
        newest = max((entry.st_mtime_ns for entry in found.values()), default=0)
        for name, entry in sorted(found.items()):
            if name not in self._positions and name < self._adopted:
                continue
            if (batch := self._read_file(name, entry, newest)) is not None:
                return batch
        return None

    def _listing(self) -> dict[str, stat_result]:
        found = {}
        for path in self._path.glob("*.json"):
            try:
                found[path.name] = path.stat()
            except FileNotFoundError:
                continue
        return found

    def _read_file(self, name: str, entry: stat_result, newest: int) -> Batch | None:
        known = self._positions.get(name)
        signature = (entry.st_ino, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns)
        now = time.monotonic()
        before, since = self._unchanged.get(name, (None, now))
        if before != signature:
            since = now
            self._unchanged[name] = (signature, now)
            self._checked.discard(name)
        left = entry.st_mtime_ns < newest and now - since >= QUIET_SECONDS
        if name in self._checked and known is not None and (known.complete or not left):
            return None
        try:
            with (self._path / name).open("rb") as file:
                batch = self._read_open(name, file, known, left)
        except FileNotFoundError:
            # Gone since it was listed: the next call tells.
            return None
        if batch is None and time.time_ns() - entry.st_mtime_ns > _TRUSTED_AFTER_NS:
            self._checked.add(name)
        return batch

    @staticmethod
    def _read_open(name: str, file: BinaryIO, known: Position | None, left: bool) -> Batch | None:
        inode = os.fstat(file.fileno()).st_ino
        if known is None:
            known = Position(inode, 0, _hash(b""))
        elif inode != known.inode or _fingerprint(file, known.offset) != known.fingerprint:
            start = Position(inode, 0, _hash(b""))
            return Batch(name, 0, start, gaps=[Gap(name, known.offset, OVERWRITTEN)], full=True)
        file.seek(known.offset)
        content = _whole_lines(file)
        if content:
            return _lines(name, known, file, content)
        if not left:
            return None
        rest = file.read()
        if known.complete and not rest:
            return None
        end = known.offset + len(rest)
        position = replace(known, offset=end, fingerprint=_fingerprint(file, end), complete=True)
        # Torn: the writer ended in the middle of a line, as after a crash.
        torn = [(known.offset, rest)] if rest else []
        return Batch(name, known.offset, position, torn=torn)


def _whole_lines(file: BinaryIO) -> bytes:
    start = file.tell()
    content = file.read(CHUNK_BYTES)
    if content and b"\n" not in content:
        parts = [content]
        while more := file.read(CHUNK_BYTES):
            parts.append(more)
            if b"\n" in more:
                break
        content = b"".join(parts)
    end = content.rfind(b"\n") + 1
    file.seek(start)
    return content[:end]


def _lines(name: str, known: Position, file: BinaryIO, content: bytes) -> Batch:
    offset = known.offset
    lines = []
    for line in content.split(b"\n")[:-1]:
        lines.append((offset, line))
        offset += len(line) + 1
    position = Position(known.inode, offset, _fingerprint(file, offset))
    return Batch(name, known.offset, position, lines=lines, full=len(content) >= CHUNK_BYTES // 2)


def _fingerprint(file: BinaryIO, offset: int) -> bytes:
    start = max(0, offset - FINGERPRINT_BYTES)
    file.seek(start)
    before = file.read(offset - start)
    return _hash(before) if len(before) == offset - start else b""


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
