"""A process that a test starts, watches and ends: by its own pid, with its output kept in a file."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.shell import TOP

# In one piece, so that a kill reaches the process itself and no shell around it.
VAULTBRIX = (sys.executable, "-m", "vaultbrix")


class Process:
    """One command, started again as often as wanted."""

    def __init__(self, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.log = log
        self.env = {**os.environ, "PYTHONPATH": str(TOP / "operator"), **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its output is appended to the log."""
        assert not self.running, "it runs already"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=self.env
            )

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id; it must have been started."""
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._end(signal.SIGKILL)

    def stop(self, number: signal.Signals = signal.SIGTERM, patience: float = 20) -> int | None:
        """Ask it to end and wait; returns its exit code, None when it did not run."""
        return self._end(number, patience)

    def text(self) -> str:
        """All that it has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _end(self, number: signal.Signals, patience: float = 20) -> int | None:
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
        return self._process.returncode


def children(parent: int) -> list[int]:
    """Process ids of the children that a process has now."""
    found = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return [pid for pid in found if _state(pid)[1] == parent]


def commands_ending_with(ending: str) -> list[int]:
    """Process ids of all processes whose command line ends so."""
    numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return [pid for pid in numbers if _command(pid).endswith(ending)]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    return _state(pid)[0] not in ("", "Z", "X")


def _state(pid: int) -> tuple[str, int]:
    """Its state, empty for one that is gone, and its parent (proc(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    # A name may hold anything.
    state, parent, *_ = text.rpartition(")")[2].split()
    return state, int(parent)


def _command(pid: int) -> str:
    """Its command line, with spaces; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").strip("\0").replace("\0", " ")
    except OSError:
        return ""
