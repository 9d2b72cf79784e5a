"""How many days a record is kept. Pure."""

from collections import OrderedDict
from collections.abc import Mapping

from vaultbrix.audit.records import DEFAULT_DAYS, Record

# Sessions whose last statement is remembered.
_MOST_SESSIONS = 10_000


class Keeping:
    """Days by tenant and class; ``""`` is any. The closest match counts: both, tenant, class, neither.

    What belongs to a statement, its duration and its lines of the gate, is kept as long as the statement.
    """

    def __init__(self, policy: Mapping[tuple[str, str], int]) -> None:
        self._policy = policy
        self._sessions: OrderedDict[str, int] = OrderedDict()

    def days(self, record: Record) -> int:
        """For one record, in the order in which its session wrote them."""
        if record.kind == "statement":
            days = self._match(record.tenant, record.class_ or "")
            self._sessions[record.session_id] = days
            self._sessions.move_to_end(record.session_id)
            if len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
            return days
        if record.kind in ("duration", "gate") and (days := self._sessions.get(record.session_id, 0)):
            return days
        return self._match(record.tenant, "")

    def _match(self, tenant: str, class_: str) -> int:
        if not self._policy:
            return DEFAULT_DAYS
        # A record of several tenants is kept as long as the longest of them asks.
        return max(self._one(name, class_) for name in tenant.split(", "))

    def _one(self, tenant: str, class_: str) -> int:
        for key in ((tenant, class_), (tenant, ""), ("", class_), ("", "")):
            if (days := self._policy.get(key)) is not None:
                return days
        return DEFAULT_DAYS
