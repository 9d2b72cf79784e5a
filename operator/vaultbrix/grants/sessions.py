"""``sessions.json`` beside grants.json: sessions that the agent saw, for the shipper to look for in the log."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vaultbrix.runtime.files import replace_file

# Group-readable, for the shipper. It holds no secret.
MODE = 0o640
# How long one that has ended is kept; a shipper at work needs half a minute.
KEPT = timedelta(hours=1)
MOST_SESSIONS = 2_000


class SeenSession(BaseModel):
    """A session as pg_stat_activity showed it. ``id`` as in PostgreSQL's log: start and process id, hexadecimal.

    ``address`` is empty on a Unix socket; ``seen_at`` is when it was last there.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    role: str
    address: str
    started_at: datetime
    seen_at: datetime


class _Content(BaseModel):
    server: str
    sessions: tuple[SeenSession, ...]


def session_id(started: int, pid: int) -> str:
    """Return a session's id in the log, from its start in whole seconds since 1970 and its process id."""
    return f"{started:x}.{pid:x}"


def remember(known: Iterable[SeenSession], now_there: Iterable[SeenSession], now: datetime) -> list[SeenSession]:
    """Return what to keep of what was known, with what is there now; of too many, those last seen. Pure."""
    sessions = {session.id: session for session in known if now - session.seen_at < KEPT}
    sessions.update((session.id, session) for session in now_there)
    return sorted(sessions.values(), key=lambda session: (session.seen_at, session.id))[-MOST_SESSIONS:]


def write_sessions(path: Path, server: str, sessions: Iterable[SeenSession]) -> None:
    """Replace the file, all of it at once. Raises OSError."""
    replace_file(path, _Content(server=server, sessions=tuple(sessions)).model_dump_json().encode(), mode=MODE)


def read_sessions(path: Path, server: str) -> list[SeenSession]:
    """Read the sessions of a server; none where the file is missing or of another one. Raises OSError otherwise."""
    try:
        content = _Content.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return []
    return list(content.sessions) if content.server == server else []


def sessions_file(grants: Path) -> Path:
    """Where the file is, given grants.json."""
    return grants.with_name("sessions.json")
