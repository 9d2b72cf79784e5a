"""The layer of open sessions: those that no grant covers are ended, by PostgreSQL or else by the kernel."""

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
    """Ends sessions. ``told`` says since when (monotonic) a backend has been asked to go."""

    def __init__(self, control: SessionControl, desired: Desired, port: int) -> None:
        self._control = control
        self._desired = desired
        self._port = port
        self._told: dict[int, float] = {}
        self.seen: list[Session] = []
        """Sessions that were covered when all were last looked at."""

    async def end(self, roles: Collection[str] | None = None) -> list[Session]:
        """End uncovered sessions, of these roles or of all; returns those that were newly told to go.

        Raises Transient or Blocked.
        """
        if roles is not None and not roles:
            return []
        found = await self._control.tenant_sessions(roles)
        ending = self._desired.uncovered(found)
        now = time.monotonic()
        if roles is None:
            gone = {s.pid for s in ending}
            self.seen = [s for s in found if s.pid not in gone]
            self._told = {pid: since for pid, since in self._told.items() if pid in gone}
        fresh = [s for s in ending if s.pid not in self._told]
        if ending:
            await self._control.terminate([s.pid for s in ending])
        self._told.update((s.pid, now) for s in fresh)
        await self._destroy([s for s in ending if now - self._told[s.pid] >= BACKEND_SECONDS * 0.9])
        for session in fresh:
            log.info("session ended", role=session.role, address=str(session.address), pid=session.pid)
        return fresh

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
