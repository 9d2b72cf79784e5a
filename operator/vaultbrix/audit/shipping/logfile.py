"""What a log directory holds, whole lines of a file in bounded pieces, and the fingerprint of what is before them."""

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

# Read at once; a line that is longer is read whole all the same, and alone.
CHUNK_BYTES = 2 * 1024 * 1024
# What is longer cannot be held in memory several times over, as storing it takes.
LONGEST_LINE = 32 * 1024 * 1024
# So much of a line that is too long is kept.
HEAD_BYTES = 64 * 1024
FINGERPRINT_BYTES = 256
NOTHING = hashlib.sha256(b"").digest()

# Inode, size in bytes, times of the last change of content and of anything (ns): a file with the same one is the same.
Signature = tuple[int, int, int, int]


@dataclass
class Listing:
    """JSON logs by name; ``others``: when the newest log of another format was written (ns)."""

    logs: dict[str, Signature] = field(default_factory=dict)
    others: int = 0

    @property
    def newest(self) -> int:
        """When the newest JSON log was written (ns)."""
        return max((entry[2] for entry in self.logs.values()), default=0)


def signature(status: os.stat_result) -> Signature:
    """What tells whether a file has changed since."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def listing(directory: Path) -> Listing:
    """The logs in a directory. Links are other names of what is there anyway. Raises OSError."""
    shown = Listing()
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if entry.name.endswith(".json"):
                shown.logs[entry.name] = signature(status)
            elif entry.name.endswith((".log", ".csv")):
                shown.others = max(shown.others, status.st_mtime_ns)
    return shown


@dataclass
class Piece:
    """Whole lines with their offsets. ``oversized``: offset, beginning and length of a line that is too long."""

    stop: int
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    oversized: tuple[int, bytes, int] | None = None


def fingerprint(file: BinaryIO, offset: int) -> bytes:
    """Hash of what stands before an offset; of nothing where the file is shorter than that."""
    start = max(0, offset - FINGERPRINT_BYTES)
    file.seek(start)
    before = file.read(offset - start)
    return hashlib.sha256(before).digest() if len(before) == offset - start else b""


def whole_lines(file: BinaryIO, start: int) -> Piece | None:
    """The next whole lines from an offset on; None where there is none."""
    file.seek(start)
    content = file.read(CHUNK_BYTES)
    end = content.rfind(b"\n") + 1
    if end:
        return Piece(start + end, _split(start, content[:end] if end < len(content) else content))
    if len(content) < CHUNK_BYTES:
        return None
    stop = _line_end(file, start + len(content))
    if stop is None:
        return None
    if stop - start > LONGEST_LINE:
        return Piece(stop, oversized=(start, content[:HEAD_BYTES], stop - 1 - start))
    del content
    file.seek(start)
    line = file.read(stop - 1 - start)
    return Piece(stop, [(start, line)])


def _line_end(file: BinaryIO, offset: int) -> int | None:
    file.seek(offset)
    while more := file.read(CHUNK_BYTES):
        place = more.find(b"\n")
        if place >= 0:
            return offset + place + 1
        offset += len(more)
    return None


def _split(offset: int, content: bytes) -> list[tuple[int, bytes]]:
    lines = []
    for line in content.split(b"\n")[:-1]:
        lines.append((offset, line))
        offset += len(line) + 1
    return lines
