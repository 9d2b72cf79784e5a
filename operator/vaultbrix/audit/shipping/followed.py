"""One log file as it is followed: how far it is stored, and the next batch of it."""

import os
from dataclasses import dataclass, field
from typing import BinaryIO

from vaultbrix.audit.shipping.logfile import (
    HEAD_BYTES,
    LONGEST_LINE,
    NOTHING,
    Oversized,
    Signature,
    fingerprint,
    whole_lines,
)

DELETED = "the file was deleted before it was read to its end"
OVERWRITTEN = "the file was overwritten"
CUT = "the file was cut"
TORN = "torn"
TOO_LONG = "too long"
_CUT_SHORT = "of a line of "


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

    @property
    def cut_short(self) -> bool:
        """Whether only a part of a line is in quarantine."""
        return self.reason.startswith(_CUT_SHORT)


def cut_short(file: str, position: int, length: int, kept: int) -> Gap:
    """The gap where of a line of ``length`` bytes only the first ``kept`` are in quarantine."""
    return Gap(file, position, f"{_CUT_SHORT}{length} bytes, the first {kept} are in quarantine")


@dataclass
class Batch:
    """Lines of one file with their byte offsets, what is amiss, and the position that holds once all is stored.

    ``position`` is None for a file that is gone. ``damaged``: offset, content and what is wrong with it; of that,
    ``long`` is what is longer than its content, with its whole length. ``full``: there is more to read right now.
    """

    file: str
    start: int
    position: Position | None
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    damaged: list[tuple[int, bytes, str]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    long: list[tuple[bytes, int]] = field(default_factory=list)
    full: bool = False

    @property
    def stop(self) -> int:
        """Byte offset behind its last line."""
        return self.position.offset if self.position else self.start

    def set_aside(self, offset: int, content: bytes, length: int, reason: str) -> None:
        """Note something that is no whole line of PostgreSQL's, or the beginning of what is ``length`` bytes long."""
        self.damaged.append((offset, content, reason))
        if length > len(content):
            self.long.append((content, length))
            self.gaps.append(cut_short(self.file, offset, length, len(content)))

    def set_oversized_aside(self, line: Oversized) -> None:
        """Note beginning and end of a line that is too long, each at its place in the file, and a hash of all of it."""
        self.damaged.append((line.offset, line.head, TOO_LONG))
        self.damaged.append((line.offset + line.length - len(line.tail), line.tail, TOO_LONG))
        self.long.append((line.head, line.length))
        kept = f"the first {len(line.head)} and the last {len(line.tail)} are in quarantine; sha256 {line.digest}"
        self.gaps.append(Gap(self.file, line.offset, f"{_CUT_SHORT}{line.length} bytes, {kept}"))


@dataclass
class File:
    """A file as it is followed. ``changed``: the look that first showed it as it is; ``since``: when, by the clock."""

    name: str
    since: float
    changed: int = 0
    position: Position | None = None
    entry: Signature | None = None
    # Nothing is to be read of it as it looks.
    settled: bool = False
    handle: BinaryIO | None = None
    # It has no name here any more, and is read on as long as it is open.
    gone: bool = False
    # The name under which its position is stored.
    moved: str | None = None
    # It was copied here, and its position is stored with the inode that it had.
    copied: bool = False
    # Why it cannot be read.
    problem: str | None = None
    # It was seen to be longer than it is, and what it lost was not stored.
    cut: bool = False

    @property
    def size(self) -> int:
        """Size of the file in bytes, as it was last listed."""
        return self.entry[1] if self.entry else 0

    @property
    def unread(self) -> int:
        """Bytes of the file that are not stored."""
        return self.size - (self.position.offset if self.position else 0)

    @property
    def complete(self) -> bool:
        """Whether it is stored to its end, and PostgreSQL writes another one."""
        return self.position is not None and self.position.complete

    def close(self) -> None:
        """Close the file, if it is open."""
        if self.handle:
            self.handle.close()
        self.handle = None

    def read(self, content: BinaryIO, *, left: bool) -> Batch | Position | None:
        """The next batch; for a file that PostgreSQL has ``left`` the position that makes it complete; else None."""
        inode = os.fstat(content.fileno()).st_ino
        known = self.position or Position(inode, 0, NOTHING)
        if inode != known.inode or fingerprint(content, known.offset) != known.fingerprint:
            return self.overwritten()
        if self.cut:
            # At the end, since what it holds still comes from there on.
            gap = Gap(self.name, os.fstat(content.fileno()).st_size, CUT)
            return Batch(self.name, known.offset, known, gaps=[gap])
        piece = whole_lines(content, known.offset)
        if piece is not None:
            position = Position(inode, piece.stop, fingerprint(content, piece.stop))
            batch = Batch(self.name, known.offset, position, lines=piece.lines)
            if piece.oversized:
                batch.set_oversized_aside(piece.oversized)
            return batch
        if self.moved or self.copied:
            return Batch(self.name, known.offset, known)
        return self._end(content, known) if left else None

    def overwritten(self) -> Batch:
        """It holds something else now, and is read from its beginning."""
        self.cut = False
        start = Position(self.entry[0] if self.entry else 0, 0, NOTHING)
        gap = Gap(self.name, self.position.offset if self.position else 0, OVERWRITTEN)
        return Batch(self.name, 0, start, gaps=[gap])

    def lost(self) -> Batch:
        """It is gone, and nobody knows what it held since."""
        offset = self.position.offset if self.position else 0
        return Batch(self.name, offset, None, gaps=[Gap(self.name, offset, DELETED)])

    def _end(self, content: BinaryIO, known: Position) -> Batch | Position | None:
        size = os.fstat(content.fileno()).st_size
        position = Position(known.inode, size, fingerprint(content, size), complete=True)
        length = size - known.offset
        if length > 0:
            # The writer ended in the middle of a line, as after a crash.
            batch = Batch(self.name, known.offset, position)
            content.seek(known.offset)
            rest = content.read(length if length <= LONGEST_LINE else HEAD_BYTES)
            batch.set_aside(known.offset, rest, length, TORN)
            return batch
        return None if known.complete else position
