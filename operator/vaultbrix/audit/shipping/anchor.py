"""The latest sealed batch, kept outside of the store: one JSON line each time, in a file that only grows."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from vaultbrix.audit.flow.report import Head

# A line is at most this long, far from it in fact.
_TAIL = 4096


class AnchorFile:
    """``--anchor-file``. Put it where the store's owner cannot write."""

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        self._server = server

    def last(self) -> Head | None:
        """The last line that is whole and of this server. Raises OSError; a file that is not there yet has none."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return None
        return next((head for line in reversed(lines) if (head := self._parse(line)) is not None), None)

    def append(self, head: Head) -> None:
        """Add a line, on the disk when this returns. Raises OSError."""
        at = head.sealed_at.astimezone(UTC).isoformat(timespec="microseconds")
        line = {"server": self._server, "batch": head.batch, "head": head.head, "sealedAt": at}
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            size = os.fstat(handle).st_size
            start = max(0, size - _TAIL)
            tail = os.pread(handle, _TAIL, start)
            if tail and not tail.endswith(b"\n"):
                # What a crash cut short must not spoil the file for `audit verify --anchor`.
                os.ftruncate(handle, start + tail.rfind(b"\n") + 1)
            os.write(handle, json.dumps(line).encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)

    def _parse(self, line: bytes) -> Head | None:
        try:
            values = json.loads(line)
            if values["server"] != self._server:
                return None
            return Head(
                batch=values["batch"], head=values["head"], sealed_at=datetime.fromisoformat(values["sealedAt"])
            )
        except (ValueError, KeyError, TypeError):
            return None
