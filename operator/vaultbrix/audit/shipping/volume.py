"""How much each session writes into the log, for the agent, which can end it. Pure.

Counted by the log's own minutes: how fast the shipper reads makes no difference, not even when it is behind.
"""

from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime

from vaultbrix.audit.flow.report import MOST_LOUD, LoudSession
from vaultbrix.audit.records import session_parts

# What writes less is nobody's business.
LEAST_BYTES = 1024 * 1024
# Told for so long after it was read.
TOLD_SECONDS = 120.0
# Sessions that are counted; the one that wrote nothing for the longest goes first.
MOST_SESSIONS = 10_000

# Session and minute, as the log has them ("2026-12-01 18:00").
Minute = tuple[str, str]


class _Counted:
    __slots__ = ("at", "bytes", "loudest", "minute", "role")

    def __init__(self) -> None:
        self.minute = ""
        self.bytes = 0
        self.role = ""
        # The minute in which it wrote most of late, how much, and when that was read.
        self.loudest: tuple[int, str] = (0, "")
        self.at = 0.0


class Volume:
    """Counts bytes of the log by session and minute. Times are seconds of a clock that is never set."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Counted] = OrderedDict()

    def add(self, written: Mapping[Minute, int], roles: Mapping[str, str], now: float) -> None:
        """Take in what stood in a batch; ``roles`` are the logins of its sessions."""
        for (session, minute), size in written.items():
            counted = self._sessions.get(session)
            if counted is None:
                counted = self._sessions[session] = _Counted()
            self._sessions.move_to_end(session)
            counted.role = roles.get(session) or counted.role
            counted.bytes = counted.bytes + size if counted.minute == minute else size
            counted.minute = minute
            if now - counted.at >= TOLD_SECONDS or counted.bytes >= counted.loudest[0]:
                counted.loudest, counted.at = (counted.bytes, minute), now
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)

    def loud(self, now: float) -> tuple[LoudSession, ...]:
        """Those that wrote most in a minute of late, most first."""
        found = [
            (counted.loudest, session, counted.role)
            for session, counted in list(self._sessions.items())
            if counted.loudest[0] >= LEAST_BYTES and now - counted.at < TOLD_SECONDS
        ]
        loud = []
        for (size, minute), session, role in sorted(found, reverse=True)[:MOST_LOUD]:
            if parts := session_parts(session):
                started, pid = parts
                at = datetime.fromisoformat(f"{minute}:00+00:00")
                loud.append(LoudSession(pid=pid, started_at=started, role=role[:63], minute=at, bytes=size))
        return tuple(loud)
