"""Which request of the data API the lines of PostgREST's sessions belong to. Pure.

Such a session serves one request after another, each in a transaction of its own that begins with a line of kind
``request``, before anything that a tenant can have a say in. What follows in that transaction is the request's, and so
is what follows without any transaction, such as the duration of its end.

A tenant can have ``vaultbrix.pre_request()`` called within the transaction, by a view or a constraint, so that the line
looks the same. Therefore the first such line of a transaction counts, and only where no line before it is missing. What
a tenant leaves behind in a session, such as a prepared statement, works before that line in the next request of its own
PostgREST: so the line counts only for roles of the tenant whose login the session has (vaultbrix.audit.records).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

from vaultbrix.audit.records import KEY, Record, Request, address_of, request_of

# Sessions that are remembered; of others, the store is asked.
_MOST_SESSIONS = 10_000
# What stands before the names of users in the column of persons.
USER = "user:"
_BEGINNINGS = ("connection", "authentication")


class Caller(NamedTuple):
    """Whose a request is, as the columns of a record say it."""

    role: str | None
    tenant: str
    person: str
    authorization: str
    address: str | None


@dataclass
class Session:
    """How far a session has come: its last line, its last transaction, and whose request that serves.

    ``whole``: no line is missing since the transaction, or its request, began.
    """

    line: int
    vxid: str = ""
    caller: Caller | None = None
    whole: bool = False


# What the store knows of a session before one of its lines; None where it has none of it.
Recall = Callable[[str, int], Session | None]


def nothing_stored(_session: str, _line: int) -> Session | None:
    """What an empty store knows."""
    return None


class Requests:
    """What PostgREST's sessions are at. Lines come as each session wrote them."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def forget(self) -> None:
        """Go on from what the store holds."""
        self._sessions.clear()

    def attribute(self, record: Record, recall: Recall) -> None:
        """Say in a record of such a session whose request it belongs to. What is no request becomes ``forged``."""
        session, vxid = self._session(record, recall), record.vxid or ""
        follows = session.line == record.line_num - 1
        if vxid not in ("", session.vxid) and not vxid.endswith("/0"):
            session.vxid, session.caller, session.whole = vxid, None, follows
        elif not follows:
            session.whole = False
        session.line = record.line_num
        within = vxid == session.vxid
        if record.kind == "request":
            request = request_of(record.message or "")
            if request and within and session.whole and session.caller is None:
                session.caller = caller_of(request)
            else:
                record.kind, record.object_name = "forged", None
        if record.kind == "disconnection":
            del self._sessions[record.session_id]
        elif session.caller and (within or session.whole):
            record.role, record.tenant, record.person, record.authorization, record.address = session.caller

    def lost(self, session_id: str, line: int) -> None:
        """Note a line that could not be read."""
        if session := self._sessions.get(session_id):
            session.line, session.whole = line, False

    def _session(self, record: Record, recall: Recall) -> Session:
        key, before = record.session_id, record.line_num - 1
        session = self._sessions.get(key)
        if session is None and (before == 0 or record.kind in _BEGINNINGS):
            session = Session(before)
        elif session is None or session.line != before:
            stored = recall(key, record.line_num)
            # Of lines of this batch the store knows nothing yet.
            if session is None or session.line > before or (stored and stored.line > session.line):
                session = stored or Session(0)
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session


def caller_of(request: Request) -> Caller:
    """Whose a request is, as the columns of a record say it."""
    person = USER + _one_name(request.subject) if request.subject else ""
    return Caller(request.role, request.tenant, person, KEY + request.key, address_of(request.client)[0])


def _one_name(subject: str) -> str:
    """A user's name with commas and what cannot be shown percent-encoded: the column lists persons by commas."""
    return "".join(c if c.isprintable() and c not in ",%" else quote(c) for c in subject)
