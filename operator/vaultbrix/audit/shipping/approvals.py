"""Which lines of tenants' own sessions belong to an approved text. Pure.

The gate has PostgreSQL write a line, kind ``gate``, before an approved text does anything: in the same session, in the
message that is the text, byte for byte (vaultbrix.audit.records). What follows up to the end of that message is the
text's. A tenant can have no such line written but by sending an approved text.
"""

from collections.abc import Callable, Sequence

from vaultbrix.audit.records import ApprovedText, Record, approved_text
from vaultbrix.grants.state import AgentState

# Sessions that are remembered; of others, the store is asked.
_MOST_SESSIONS = 10_000
# What ends a client's message.
_ENDINGS = ("duration", "error", "disconnection")
# As pgAudit names it; all else that the gate lets through is of class DDL.
_TRUNCATE = "TRUNCATE TABLE"

# The gate's line that the store has of a session before one of its lines, where the client's message has not ended.
RecallApproval = Callable[[str, int], str | None]


def no_approval(_session: str, _line: int) -> str | None:
    """What an empty store knows."""
    return None


class Approvals:
    """Texts that are under way. Lines come as each session wrote them."""

    def __init__(self) -> None:
        self._texts: dict[str, ApprovedText] = {}
        # Sessions of which the store need not be asked any more.
        self._known: set[str] = set()

    def forget(self) -> None:
        """Go on from what the store holds."""
        self._texts.clear()
        self._known.clear()

    def begin_batch(self) -> None:
        """All lines before this batch are stored, so that the store can be asked of them."""
        if len(self._known) > _MOST_SESSIONS:
            self._known.clear()

    def concern(self, record: Record) -> bool:
        """Whether the record has to be looked at; most need not be, and this is asked for each."""
        return bool(self._texts) or record.class_ == "DDL" or record.kind == "gate" or record.command == _TRUNCATE

    def attribute(
        self, record: Record, before: Sequence[tuple[Record, bytes]], state: AgentState, recall: RecallApproval
    ) -> None:
        """Say in a record who approved the text that it belongs to, and by which approval. ``before``: of its batch."""
        session, kind = record.session_id, record.kind
        if kind == "gate" and record.message and (approved := approved_text(record.message)):
            self._texts[session] = approved
            self._known.add(session)
        text = self._texts.get(session)
        # What is not the first line after the gate's needs no question.
        if text is None and kind == "statement" and session not in self._known:
            self._known.add(session)
            ended = any(r.session_id == session and r.kind in _ENDINGS for r, _ in before)
            if record.line_num > 1 and not ended:
                text = approved_text(recall(session, record.line_num) or "")
            if text is not None:
                self._texts[session] = text
        if text is None:
            return
        record.approver = _with(record.approver, text.by)
        record.authorization = _with(record.authorization, state.approval_of(text.approval))
        if kind in _ENDINGS:
            del self._texts[session]


def _with(names: str, name: str) -> str:
    """A list of names with one more."""
    listed = names.split(", ") if names else []
    return names if not name or name in listed else ", ".join([*listed, name])
