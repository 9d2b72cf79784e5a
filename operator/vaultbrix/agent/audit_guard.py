"""The agent's eye on the audit record: reads flow.json, and says whether direct access may be open."""

import asyncio
import time
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from vaultbrix.api.postgresserver import AgentAudit
from vaultbrix.audit.flow.decisions import QUIET_SECONDS, Guard, Sight, flows, guard, held_back, witness
from vaultbrix.audit.flow.flow_file import read_flow
from vaultbrix.audit.flow.report import Flow
from vaultbrix.grants.state import AgentState, AuditSeen

log = structlog.get_logger(__name__)

# A message that tells a figure is not written more often than this, as long as it means the same.
MESSAGE_SECONDS = 60.0


class AuditGuard:
    """``check`` it every second. ``file`` None: the agent was given none, so no record is known to flow."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._flow: Flow | None = None
        self._trouble = ""
        self._changed_at: float | None = None
        self._begun = self._last = time.monotonic()
        self._guard = Guard(self._begun)
        self._told: tuple[AgentAudit | None, float] = (None, 0.0)

    @property
    def held(self) -> bool:
        """Whether direct access is to be closed."""
        return self._guard.held

    @property
    def told(self) -> AgentAudit | None:
        """For the server's status; None without a file, and while nothing is known yet."""
        if self._file is None or not self._known:
            return None
        flowing, reason, message = witness(self._sight)
        told = AgentAudit(flowing=flowing is True, reason=str(reason), message=message[:1024], closed=self.held)
        before, since = self._told
        if before is not None and self._last - since < MESSAGE_SECONDS:
            told = before if before == told.model_copy(update={"message": before.message}) else told
        if told != before:
            self._told = (told, self._last)
        return told

    def begin(self, state: AgentState, now: datetime) -> None:
        """Go on from what was kept: a restart does not begin the time anew."""
        self._begun = self._last = time.monotonic()
        self._flow, self._trouble = self._read()
        known = [now]
        if self._flow is not None:
            known.append(self._flow.at - timedelta(seconds=self._flow.late_seconds))
        if state.audit.complete_until is not None:
            known.append(state.audit.complete_until)
        self._guard = Guard(self._begun - (now - min(known)).total_seconds(), state.audit.held)

    async def check(self, required: timedelta | None) -> None:
        """Look at the file."""
        flow, trouble = await asyncio.to_thread(self._read)
        self._last = now = time.monotonic()
        # What was there before us proves nothing: who wrote it may be gone, and the clock may have been set back.
        if flow is not None and flow != self._flow:
            self._changed_at = now
        self._flow, self._trouble = flow, trouble
        self._guard = guard(self._guard, self._sight, required, now)

    def change(self, state: AgentState, now: datetime) -> AuditSeen | None:
        """What to remember, None for nothing new."""
        if not self._known and self.held == state.audit.held:
            return None
        complete_until = None
        if not flows(witness(self._sight)):
            complete_until = state.audit.complete_until or now - timedelta(seconds=self._last - self._guard.since)
        seen = AuditSeen(complete_until=complete_until, held=self.held)
        return seen if seen != state.audit else None

    def why(self, required: timedelta) -> str:
        """Why nothing opens."""
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
