"""Watches the audit record for the agent: reads flow.json, measures the log's disk, says whether access may be open."""

import asyncio
import os
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from vaultbrix.agent.decisions import LogFloor, LogRoom, below_floor, remember_audit
from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.postgresserver import AgentAudit
from vaultbrix.audit.flow.decisions import QUIET_SECONDS, Guard, Sight, flows, guard, held_back, witness
from vaultbrix.audit.flow.flow_file import read_flow
from vaultbrix.audit.flow.report import Flow, Head, LoudSession
from vaultbrix.grants.state import AgentState, AuditSeen

# A message in which only a figure changes is written no more often than this.
MESSAGE_SECONDS = 60.0


@dataclass(frozen=True)
class LogDisk:
    """The filesystem that PostgreSQL logs to, by any path on it, and what has to stay free there."""

    path: Path
    floor: LogFloor

    def room(self) -> LogRoom | None:
        """Measure it; None where that fails, as when it is not mounted."""
        try:
            status = os.statvfs(self.path)
        except OSError:
            return None
        return LogRoom(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)


class AuditGuard:
    """Reads flow.json with each ``check``, to be called every second, and remembers what it has seen.

    ``file`` is None where the agent was given no file; then no record is known to flow. ``disk`` is None where nobody
    measures the log's disk.
    """

    def __init__(self, file: Path | None, disk: LogDisk | None = None) -> None:
        self._file = file
        self._disk = disk
        self._room: LogRoom | None = None
        self._below = self._required = False
        self._warning = ""
        self._flow: Flow | None = None
        self._trouble = ""
        self._changed_at: float | None = None
        self._begun = self._last = time.monotonic()
        self._guard = Guard(self._begun)
        # The last entry, and when (monotonic) it came about.
        self._last_entry: tuple[AgentAudit | None, float] = (None, 0.0)

    @property
    def closes_access(self) -> bool:
        """Whether direct access has to be closed until the record flows."""
        return self._guard.held or (self._required and self._below)

    @property
    def loud(self) -> tuple[LoudSession, ...]:
        """The sessions that write much into PostgreSQL's log, as the shipper last said; none while it says nothing."""
        return self._flow.loud if self._flow is not None and self._changed_at is not None else ()

    @property
    def latest(self) -> Head | None:
        """The newest sealed batch, as the shipper last said; None while it says nothing."""
        return self._flow.latest if self._flow is not None and self._changed_at is not None else None

    @property
    def status_entry(self) -> AgentAudit | None:
        """What the server's status says of the record; None without a file, and while nothing is known yet."""
        if not self._below and (self._file is None or not self._known):
            return None
        flowing, reason, message = self._word
        entry = AgentAudit(
            flowing=flowing is True, reason=str(reason), message=message[:1024], closed=self.closes_access
        )
        before, since = self._last_entry
        if before is not None and self._last - since < MESSAGE_SECONDS:
            entry = before if before == entry.model_copy(update={"message": before.message}) else entry
        if entry != before:
            self._last_entry = (entry, self._last)
        return entry

    def resume(self, state: AgentState, now: datetime) -> None:
        """Go on from the state that was on disk, so that a restart does not begin the grace time anew."""
        self._begun = self._last = time.monotonic()
        self._flow, self._trouble = self._read()
        complete_until = [now]
        if self._flow is not None:
            complete_until.append(self._flow.at - timedelta(seconds=self._flow.late_seconds))
        if state.audit.complete_until is not None:
            complete_until.append(state.audit.complete_until)
        self._guard = Guard(self._begun - (now - min(complete_until)).total_seconds(), state.audit.held)
        # What was closed before the restart takes as much room to open as it would have taken then.
        if self._disk is not None:
            self._below, self._room = state.audit.held, self._disk.room()

    async def check(self, required: timedelta | None) -> None:
        """Look at file and disk. ``required`` is how long the record may not flow, None for ever."""
        flow, trouble = await asyncio.to_thread(self._read)
        self._required = required is not None
        self._measure()
        self._last = now = time.monotonic()
        # A file from before the agent's start proves nothing: its writer may be gone, and the clock may be set back.
        if flow is not None and flow != self._flow:
            self._changed_at = now
        self._flow, self._trouble = flow, trouble
        self._guard = guard(self._guard, self._sight, required, now)

    def change(self, state: AgentState, now: datetime) -> AuditSeen | None:
        """Return the change that makes the state say how the record is now, None where it does already."""
        if not self._known and not self._below and self.closes_access == state.audit.held:
            return None
        return remember_audit(
            state.audit,
            flows=flows(self._word),
            closes_access=self.closes_access,
            complete_until=now - timedelta(seconds=self._last - self._guard.since),
        )

    def message(self, required: timedelta) -> str:
        """Say why nothing opens, for a rule's report; ``required`` is how long the record may not flow."""
        return held_back(self._word, required)

    def take_warning(self) -> str:
        """Return what an event has to say since the last call, empty for nothing."""
        warning, self._warning = self._warning, ""
        return warning

    @property
    def _word(self) -> State:
        """What there is to say of the record; what keeps PostgreSQL from writing it comes first."""
        if not self._below or self._disk is None:
            return witness(self._sight)
        if self._room is None:
            message = f"{self._disk.path} cannot be measured: it has to be on the filesystem that PostgreSQL logs to"
            return State(False, Reason.LOG_DISK_FULL, message)
        floor, room = self._disk.floor.of(self._room.total), self._room
        return State(
            False,
            Reason.LOG_DISK_FULL,
            f"the disk of PostgreSQL's log has {room.free // 2**20} of {room.total // 2**20} MiB free, and "
            f"{floor // 2**20} MiB have to be: enlarge it, see why the shipper or its store is behind, or end who "
            "floods the log",
        )

    def _measure(self) -> None:
        if self._disk is None:
            return
        was_below, self._room = self._below, self._disk.room()
        self._below = below_floor(self._disk.floor, self._room, was_below=was_below)
        if self._below and not was_below:
            closed = "direct access is closed (spec.auditRequired); " if self._required else ""
            self._warning = closed + self._word.message

    @property
    def _known(self) -> bool:
        return self._changed_at is not None or self._last - self._begun > QUIET_SECONDS

    @property
    def _sight(self) -> Sight:
        quiet = float("inf") if self._changed_at is None else self._last - self._changed_at
        return Sight(self._flow, quiet, self._trouble)

    def _read(self) -> tuple[Flow | None, str]:
        if self._file is None:
            return None, "the agent is given no flow.json"
        try:
            return read_flow(self._file), ""
        except OSError as error:
            return None, f"{self._file}: {error.strerror}"
        except ValueError as error:
            return None, f"{self._file}: {error}"
