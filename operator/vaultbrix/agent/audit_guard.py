"""Watches the audit record for the agent: reads flow.json, and says whether direct access may be open."""

import asyncio
import time
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from vaultbrix.agent.decisions import remember_audit
from vaultbrix.api.postgresserver import AgentAudit
from vaultbrix.audit.flow.decisions import QUIET_SECONDS, Guard, Sight, flows, guard, held_back, witness
from vaultbrix.audit.flow.flow_file import read_flow
from vaultbrix.audit.flow.report import Flow
from vaultbrix.grants.state import AgentState, AuditSeen

log = structlog.get_logger(__name__)

# A message in which only a figure changes is written no more often than this.
MESSAGE_SECONDS = 60.0


class AuditGuard:
    """Reads flow.json with each ``check``, to be called every second, and remembers what it has seen.

    ``file`` is None where the agent was given no file; then no record is known to flow.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
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
        return self._guard.held

    @property
    def status_entry(self) -> AgentAudit | None:
        """What the server's status says of the record; None without a file, and while nothing is known yet."""
        if self._file is None or not self._known:
            return None
        flowing, reason, message = witness(self._sight)
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

    async def check(self, required: timedelta | None) -> None:
        """Read the file. ``required`` is how long the record may not flow, None for ever."""
        flow, trouble = await asyncio.to_thread(self._read)
        self._last = now = time.monotonic()
        # A file from before the agent's start proves nothing: its writer may be gone, and the clock may be set back.
        if flow is not None and flow != self._flow:
            self._changed_at = now
        self._flow, self._trouble = flow, trouble
        self._guard = guard(self._guard, self._sight, required, now)

    def change(self, state: AgentState, now: datetime) -> AuditSeen | None:
        """Return the change that makes the state say how the record is now, None where it does already."""
        if not self._known and self.closes_access == state.audit.held:
            return None
        return remember_audit(
            state.audit,
            flows=flows(witness(self._sight)),
            closes_access=self.closes_access,
            complete_until=now - timedelta(seconds=self._last - self._guard.since),
        )

    def message(self, required: timedelta) -> str:
        """Say why nothing opens, for a rule's report; ``required`` is how long the record may not flow."""
        return held_back(witness(self._sight), required)

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
