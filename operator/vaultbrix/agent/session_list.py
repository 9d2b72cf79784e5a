"""Writes down which sessions of tenants there are, so that the shipper finds those that PostgreSQL did not log."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.grants.sessions import SeenSession, read_sessions, remember, session_id, write_sessions
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)


class SessionList:
    """Keeps ``sessions.json``: what PostgreSQL shows with each ``look``, and for a while what it showed before."""

    def __init__(self, control: SessionControl, path: Path, server: str, clock: Callable[[], datetime]) -> None:
        self._control = control
        self._path = path
        self._server = server
        self._clock = clock
        self._sessions: list[SeenSession] | None = None

    async def look(self) -> None:
        """Look once; what fails is told in the log, and made up for with the next look."""
        try:
            rows = await self._control.started_sessions()
            now = self._clock()
            there = [
                SeenSession(
                    id=session_id(started, pid),
                    role=role,
                    address=address,
                    started_at=datetime.fromtimestamp(started, UTC),
                    seen_at=now,
                )
                for pid, role, address, started in rows
            ]
            await asyncio.to_thread(self._keep, there, now)
        except Expected as error:
            log.warning("list of sessions", message=error.message)
        except OSError as error:
            log.warning("list of sessions", message=str(error.strerror), path=str(self._path))

    def _keep(self, there: list[SeenSession], now: datetime) -> None:
        known = read_sessions(self._path, self._server) if self._sessions is None else self._sessions
        sessions = remember(known, there, now)
        # That one was seen again is no news.
        if self._sessions is None or {s.id for s in sessions} != {s.id for s in self._sessions}:
            write_sessions(self._path, self._server, sessions)
        self._sessions = sessions
