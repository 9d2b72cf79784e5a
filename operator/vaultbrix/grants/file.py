"""The agent's state on disk: ``grants.json``, a snapshot that is replaced whole, and ``grants.journal``, changes since.

A change costs one line. The journal's first line names the epoch of the snapshot that it goes on from; a journal
of another epoch is one that a crash left behind, and its changes are in the snapshot already.
"""

import json
import os
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from vaultbrix.grants.state import AgentState, AnyStateChange, Snapshot, StateChange
from vaultbrix.runtime.files import replace_file

log = structlog.get_logger(__name__)

# Group-readable: the shipper names people from it. It holds no secret.
MODE = 0o640
# A journal this long is folded into a new snapshot.
LONGEST_JOURNAL = 5_000

_CHANGE: TypeAdapter[StateChange] = TypeAdapter(AnyStateChange)


def _journal_of(path: Path) -> Path:
    return path.with_suffix(".journal")


def load(path: Path, server: str) -> AgentState:
    """Read the state of a server's agent; empty, and so closed, where there is none or it cannot be read."""
    try:
        snapshot = Snapshot.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return AgentState(server)
    except (OSError, ValidationError) as error:
        log.warning("state file cannot be used; starting closed", path=str(path), error=type(error).__name__)
        return AgentState(server)
    if snapshot.server != server:
        return AgentState(server)
    state = AgentState.of(snapshot)
    try:
        with _journal_of(path).open("rb") as file:
            if _epoch(file.readline()) == snapshot.epoch:
                _replay(state, file.read())
    except OSError:
        pass
    return state


class GrantsFile:
    """Writes the agent's state to disk. There must be one writer only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal: int | None = None
        self._lines = 0

    def save(self, state: AgentState, now: datetime) -> None:
        """Write the whole state and begin a new journal. Raises OSError, leaving what was there."""
        epoch = uuid.uuid4().hex
        replace_file(self._path, state.snapshot(epoch, now).model_dump_json().encode(), mode=MODE)
        self._close()
        replace_file(_journal_of(self._path), _header(epoch), mode=MODE)
        self._journal = os.open(_journal_of(self._path), os.O_WRONLY | os.O_APPEND)
        self._lines = 0

    def append(self, state: AgentState, changes: Sequence[StateChange], now: datetime) -> None:
        """Write changes before they are applied to the state. Raises OSError; then none of them is on disk."""
        if self._journal is None or self._lines > LONGEST_JOURNAL or not self._path.exists():
            self.save(state, now)
        assert self._journal is not None
        size = os.fstat(self._journal).st_size
        try:
            _write(self._journal, b"".join(_CHANGE.dump_json(change) + b"\n" for change in changes))
            os.fdatasync(self._journal)
        except OSError:
            os.ftruncate(self._journal, size)
            raise
        self._lines += len(changes)

    def _close(self) -> None:
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None


class GrantsReader:
    """Follows the state in another process: ``refresh`` reads what the agent has written since the last time."""

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        self.state = AgentState(server)
        self._seen: tuple[int, int, int] | None = None
        self._epoch = ""
        self._position = 0

    def refresh(self) -> None:
        """Apply to ``state`` what the agent has written since. Raises OSError, but none for a file that is missing."""
        try:
            stat = self._path.stat()
            if self._seen != (stat.st_ino, stat.st_mtime_ns, stat.st_size):
                self._load()
                self._seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            with _journal_of(self._path).open("rb") as file:
                header = file.readline()
                if _epoch(header) != self._epoch:
                    return
                file.seek(max(self._position, len(header)))
                self._position = file.tell() + _replay(self.state, file.read())
        except FileNotFoundError:
            return

    def _load(self) -> None:
        try:
            snapshot = Snapshot.model_validate_json(self._path.read_bytes())
        except ValidationError:
            log.warning("grants.json cannot be used; people are named as last known")
            return
        self.state, self._epoch, self._position = AgentState.of(snapshot), snapshot.epoch, 0


def _header(epoch: str) -> bytes:
    return json.dumps({"epoch": epoch}).encode() + b"\n"


def _epoch(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return None


def _replay(state: AgentState, content: bytes) -> int:
    """Apply the whole lines to the state; returns how many bytes they are.

    A line that a crash cut short is left out: the change was never applied.
    """
    read = 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            state.apply(_CHANGE.validate_json(line))
        except ValidationError:
            log.warning("a line of the journal cannot be read")
        read += len(line)
    return read


def _write(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]
