"""Sessions that were there and of which no line came: PostgreSQL could not write its log, or was kept from it. Pure.

A session is in pg_stat_activity only once it has logged that it connected. So once the log is read to its end some time
after the agent saw the session, a line of it is there, or will never be.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from vaultbrix.api.conditions import Reason
from vaultbrix.audit.flow.report import Problem
from vaultbrix.audit.shipping.followed import Gap
from vaultbrix.grants.sessions import SeenSession

# Stated in docs/audit-operations.md.
UNHEARD_SECONDS = 30.0
# What was found is told for so long.
TOLD_SECONDS = 300.0
# The first lines of one that is older may not be kept any more.
_OLDEST = timedelta(days=1)
_MOST_WAITING = 20_000
_MOST_AT_ONCE = 1_000


class Unheard:
    """Sessions of which no line is known. Times are seconds of a clock that is never set."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[SeenSession, float]] = {}
        # Those that were decided on, while the agent still names them.
        self._settled: set[str] = set()
        self._began = datetime.max.replace(tzinfo=UTC)
        self._latest: SeenSession | None = None
        self._found = 0
        self._found_at = 0.0

    def resume(self, began: datetime) -> None:
        """Go on from what the store holds, whose record ``began`` then: lines from before may never have been here."""
        self._began = began

    def note(self, sessions: Collection[SeenSession], wall: datetime, now: float) -> None:
        """Take in all that the agent names now; ``wall`` is the time by the clock that sessions' starts are of."""
        named = {session.id for session in sessions}
        self._settled &= named
        for session in sessions:
            if session.id in self._waiting or session.id in self._settled:
                continue
            if session.started_at < self._began or wall - session.started_at > _OLDEST:
                continue
            if len(self._waiting) < _MOST_WAITING:
                self._waiting[session.id] = (session, now)

    def due(self, now: float) -> list[SeenSession]:
        """Those of which a line must be stored by now, if the log is read to its end."""
        due = [session for session, since in self._waiting.values() if now - since >= UNHEARD_SECONDS]
        return due[:_MOST_AT_ONCE]

    def settle(self, due: Iterable[SeenSession], unheard: Collection[str], now: float) -> None:
        """Note what became of those that were due; ``unheard`` are the ids of those that are gaps in the record now."""
        for session in due:
            if self._waiting.pop(session.id, None) is not None:
                self._settled.add(session.id)
            if session.id in unheard:
                self._found = self._found + 1 if now - self._found_at < TOLD_SECONDS else 1
                self._latest, self._found_at = session, now

    def problems(self, now: float) -> tuple[Problem, ...]:
        """What was found of late."""
        if self._latest is None or now - self._found_at >= TOLD_SECONDS:
            return ()
        more = f" (and {self._found - 1} more)" if self._found > 1 else ""
        remedy = "see that PostgreSQL's log has room, its error output, and that log_connections is on"
        message = f"PostgreSQL logged nothing of {_name(self._latest)}{more}: {remedy}"
        return (Problem(Reason.SESSIONS_UNRECORDED, message),)


def gap(session: SeenSession) -> Gap:
    """The gap that stands for a session without a line. It is in no file."""
    return Gap("", 0, f"no line of {_name(session)}, came")


def _name(session: SeenSession) -> str:
    since = session.started_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"session {session.id} of {session.role} from {session.address or 'a Unix socket'}, since {since}"
