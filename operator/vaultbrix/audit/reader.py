"""The log directory as a stream of batches, from a checkpoint on. The log on disk is the buffer."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

# Read at once; a line that is longer is read whole all the same.
CHUNK_BYTES = 4 * 1024 * 1024
FINGERPRINT_BYTES = 256


@dataclass(frozen=True)
class Checkpoint:
    """Where the next batch begins. ``file`` is a name in the log directory, empty before the first file."""

    file: str = ""
    inode: int = 0
    position: int = 0
    fingerprint: bytes = b""
    batch: int = 0


@dataclass
class Batch:
    """Whole lines with their byte offsets, what is amiss, and the checkpoint that holds once all is stored."""

    checkpoint: Checkpoint
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    torn: list[tuple[str, int, bytes]] = field(default_factory=list)
    gaps: list[tuple[str, int, str]] = field(default_factory=list)
    full: bool = False

    @property
    def file(self) -> str:
        """The file that the lines are from."""
        return self.checkpoint.file


def read(directory: Path, known: Checkpoint) -> Batch | None:
    """The next batch after a checkpoint, None when there is nothing new. Raises OSError.

    Newer files are listed before the current one is read: PostgreSQL opens a new file only after the last
    byte of the one before, so at the end of the current file nothing more can come when a newer one was there.
    """
    names = sorted(path.name for path in directory.glob("*.json"))
    newer = [name for name in names if name > known.file]
    if not known.file:
        return Batch(_begin(directory, newer[0], known.batch), full=True) if newer else None
    path = directory / known.file
    try:
        with path.open("rb") as file:
            inode = path.stat().st_ino
            if inode != known.inode or _fingerprint(file, known.position) != known.fingerprint:
                start = replace(known, inode=inode, position=0, fingerprint=_hash(b""), batch=known.batch + 1)
                return Batch(start, gaps=[(known.file, known.position, "the file was overwritten")], full=True)
            file.seek(known.position)
            content = _whole_lines(file)
            if content:
                return _lines(known, file, content)
            rest = file.read()
    except FileNotFoundError:
        if not newer:
            return None
        gap = (known.file, known.position, "the file was deleted before it was read to its end")
        return Batch(_begin(directory, newer[0], known.batch), gaps=[gap], full=True)
    if not newer:
        return None
    # Torn: the writer ended in the middle of a line, as after a crash.
    torn = [(known.file, known.position, rest)] if rest else []
    return Batch(_begin(directory, newer[0], known.batch), torn=torn, full=True)


def _begin(directory: Path, name: str, batch: int) -> Checkpoint:
    return Checkpoint(name, (directory / name).stat().st_ino, 0, _hash(b""), batch + 1)


def _whole_lines(file: BinaryIO) -> bytes:
    start = file.tell()
    content = file.read(CHUNK_BYTES)
    while content and b"\n" not in content:
        more = file.read(CHUNK_BYTES)
        if not more:
            break
        content += more
    end = content.rfind(b"\n") + 1
    file.seek(start)
    return content[:end]


def _lines(known: Checkpoint, file: BinaryIO, content: bytes) -> Batch:
    position = known.position
    lines = []
    for line in content.split(b"\n")[:-1]:
        lines.append((position, line))
        position += len(line) + 1
    fingerprint = _fingerprint(file, position)
    checkpoint = replace(known, position=position, fingerprint=fingerprint, batch=known.batch + 1)
    return Batch(checkpoint, lines=lines, full=len(content) >= CHUNK_BYTES // 2)


def _fingerprint(file: BinaryIO, position: int) -> bytes:
    start = max(0, position - FINGERPRINT_BYTES)
    file.seek(start)
    before = file.read(position - start)
    return _hash(before) if len(before) == position - start else b""


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
