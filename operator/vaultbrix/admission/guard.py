"""Which decisions count: those that the admission policies have checked."""

from datetime import datetime

from vaultbrix.admission.decisions import Objection
from vaultbrix.admission.policies import Policies
from vaultbrix.api.meta import ObjectMeta


class Guard:
    """Which decisions on objects of one kind count.

    That a decision was checked is known where its object was created, or was last seen undecided, after the policies
    were in force as they are. What an object says itself of when it was decided can be written by who edits it.

    ``terms`` are what is decided on, where that may change in the life of an object.
    """

    def __init__(self, policies: Policies, kind: str) -> None:
        self._policies = policies
        self._kind = kind
        self._undecided: dict[str, tuple[str, datetime]] = {}
        self._taken: dict[str, str] = {}

    def saw_undecided(self, meta: ObjectMeta, at: datetime, terms: str = "") -> None:
        """Note that the object, read after that time, was without a decision on these terms."""
        self._undecided[meta.uid] = (terms, at)

    def take(self, meta: ObjectMeta, terms: str = "") -> None:
        """Note that the decision on these terms is taken over: that stays."""
        self._taken[meta.uid] = terms

    def taken(self, meta: ObjectMeta, terms: str = "") -> bool:
        """Whether the decision on these terms is taken over."""
        return self._taken.get(meta.uid) == terms

    def forget(self, uid: str) -> None:
        """Forget an object that is at its end."""
        self._undecided.pop(uid, None)
        self._taken.pop(uid, None)

    def undecided_at(self, meta: ObjectMeta, terms: str = "") -> datetime:
        """When the object last had no decision on these terms, as far as is known."""
        seen_terms, seen = self._undecided.get(meta.uid, (terms, meta.creation_timestamp))
        return max(seen, meta.creation_timestamp) if seen_terms == terms else meta.creation_timestamp

    async def objection(self, meta: ObjectMeta, terms: str = "") -> Objection | None:
        """Why its decision does not count; None where it does, or is taken over already."""
        if self.taken(meta, terms):
            return None
        return await self._policies.objection(self._kind, self.undecided_at(meta, terms))

    def known_objection(self, meta: ObjectMeta, terms: str = "") -> Objection | None:
        """The same by the last look at the policies, for a decision that was read before that look."""
        if self.taken(meta, terms):
            return None
        return self._policies.known_objection(self._kind, self.undecided_at(meta, terms))
