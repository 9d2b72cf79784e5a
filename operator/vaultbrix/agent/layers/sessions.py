"""The layer of open sessions: ends those that no grant covers, by PostgreSQL or, if that fails, by the kernel."""

import asyncio
import time
from collections.abc import Collection

import structlog

from vaultbrix.agent.desired import Desired, Session
from vaultbrix.agent.host import sockets
from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

# A backend that has not gone after this is cut off from its client.
BACKEND_SECONDS = 1.0
# A login that was being checked when pg_hba.conf was loaded shows up a moment later.
FOLLOW_UPS = (0.2, BACKEND_SECONDS, 2 * BACKEND_SECONDS)


class SessionLayer:
    """Ends sessions that no open grant covers."""

    def __init__(self, control: SessionControl, desired: Desired, port: int) -> None:
        self._control = control
        self._desired = desired
        self._port = port
        # Process id of a backend → when (monotonic) it was first told to end.
        self._told_at: dict[int, float] = {}
        self.seen: list[Session] = []
        """Sessions that a grant covered when all were last looked at."""

    async def end(self, roles: Collection[str] | None = None) -> list[Session]:
        """End uncovered sessions, of these login roles or of all; returns those that were not yet told to end.

        Raises Transient or Blocked.
        """
        if roles is not None and not roles:
            return []
        sessions = await self._control.tenant_sessions(roles)
        ending = self._desired.uncovered(sessions)
        now = time.monotonic()
        if roles is None:
            ending_pids = {s.pid for s in ending}
            self.seen = [s for s in sessions if s.pid not in ending_pids]
            self._told_at = {pid: since for pid, since in self._told_at.items() if pid in ending_pids}
        newly_told = [s for s in ending if s.pid not in self._told_at]
        if ending:
            await self._control.terminate([s.pid for s in ending])
        self._told_at.update((s.pid, now) for s in newly_told)
        await self._destroy([s for s in ending if now - self._told_at[s.pid] >= BACKEND_SECONDS * 0.9])
        for session in newly_told:
            log.info("session ended", role=session.role, address=str(session.address), pid=session.pid)
        return newly_told

    async def _destroy(self, stuck: list[Session]) -> None:
        connections = [(self._port, str(s.address), s.port) for s in stuck if s.address is not None and s.port]
        if not connections:
            return
        try:
            count = await asyncio.to_thread(sockets.destroy, connections)
        except Expected as error:
            log.warning("cannot destroy sockets", message=error.message)
        else:
            log.warning("backends do not end; their sockets are destroyed", pids=[s.pid for s in stuck], count=count)
