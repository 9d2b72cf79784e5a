"""What a log directory holds, whole lines of a file in bounded pieces, and the fingerprint of what is before them."""

import contextlib
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
# So much of a line that is too long is kept, of its beginning and of its end.
HEAD_BYTES = 64 * 1024
TAIL_BYTES = 64 * 1024
FINGERPRINT_BYTES = 256
# Who copies a log directory to another filesystem notes the old inode and the name of each file there, a line each.
MOVED = ".moved"
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


def moved_files(directory: Path) -> dict[tuple[str, int], int]:
    """Inodes of the files that were copied here from another filesystem, by name and earlier inode."""
    try:
        text = (directory / MOVED).read_text(errors="replace")
    except OSError:
        return {}
    inodes = {}
    for line in text.splitlines():
        inode, _, name = line.partition(" ")
        if inode.isdecimal() and "/" not in name:
            with contextlib.suppress(OSError):
                inodes[name, int(inode)] = (directory / name).stat(follow_symlinks=False).st_ino
    return inodes


@dataclass(frozen=True)
class Oversized:
    """A line that is too long: where it stands, its length, its beginning and end, and the sha256 of all of it."""

    offset: int
    length: int
    head: bytes
    tail: bytes
    digest: str


@dataclass
class Piece:
    """Whole lines with their offsets, or one that is too long."""

    stop: int
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    oversized: Oversized | None = None


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
        return Piece(stop, oversized=_oversized(file, start, stop - 1 - start))
    del content
    file.seek(start)
    line = file.read(stop - 1 - start)
    return Piece(stop, [(start, line)])


def _oversized(file: BinaryIO, offset: int, length: int) -> Oversized:
    file.seek(offset)
    digest, head, tail, rest = hashlib.sha256(), b"", b"", length
    while rest and (content := file.read(min(CHUNK_BYTES, rest))):
        digest.update(content)
        head = head or content[:HEAD_BYTES]
        tail = (tail + content)[-TAIL_BYTES:]
        rest -= len(content)
    return Oversized(offset, length, head, tail, digest.hexdigest())


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
