"""Line numbers that are missing: PostgreSQL numbers the lines of a session from 1, without holes. Pure.

A hole is told once every file has been read: after a clock stepped back, the file with a session's later lines may be
read before the one with its earlier lines.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from vaultbrix.audit.records import session_parts
from vaultbrix.audit.shipping.followed import Gap

# Session, line number, and the line's place in its file.
Seen = tuple[str, int, int]

# Sessions that are remembered; of others, the store is asked.
_MOST_SESSIONS = 20_000
# A session that is older may have lines that are not kept any more.
_LONGEST_SESSION = timedelta(days=30)


@dataclass(frozen=True)
class Hole:
    """Lines of a session that are missing so far; ``file`` and ``position``: where the next one stands."""

    session: str
    first: int
    last: int
    file: str
    position: int

    def gap(self) -> Gap:
        """The gap that says which lines never came."""
        lines = f"line {self.first}" if self.first == self.last else f"lines {self.first} to {self.last}"
        return Gap(self.file, self.position, f"{lines} of session {self.session} never came")


class Numbers:
    """How far the lines of each session have come.

    ``began``: when the server's first batch was stored; what a session wrote before that may never have been here.
    ``since``: from when on all sessions are known here; older ones may have lines in the store.
    """

    def __init__(self, began: datetime, missing: Iterable[Hole] = (), *, since: datetime) -> None:
        self._began = began
        self._next: OrderedDict[str, int] = OrderedDict()
        self._missing: dict[str, list[Hole]] = {}
        # Of each hole: the look at the directory that found it.
        self._found_at: dict[Hole, int] = {}
        self._late: list[tuple[str, int]] = []
        # Sessions of which lines in the batch may be stored already: a file may be read again, or be a copy.
        self.suspects: set[str] = set()
        self._since = since
        self._changed: set[str] = set()
        for hole in missing:
            self._add(hole, 0)
        self._changed.clear()

    def take(self, file: str, seen: Sequence[Seen], look: int) -> dict[str, Seen]:
        """Lines in the order in which they stand in a file; returns the first of each session not known here."""
        unknown: dict[str, Seen] = {}
        following = self._next
        self.suspects = set()
        for line in seen:
            session, number, position = line
            expected = following.get(session)
            if expected == number:
                following[session] = number + 1
                continue
            if number < expected if expected is not None else self._is_missing(session, number):
                self._late.append((session, number))
                self.suspects.add(session)
                continue
            if expected is None:
                begun = _began(session)
                if begun is None or begun < self._since:
                    self.suspects.add(session)
                if number != 1:
                    unknown[session] = line
            else:
                self._add(Hole(session, expected, number - 1, file, position), look)
            following[session] = number + 1
            following.move_to_end(session)
        while len(following) > _MOST_SESSIONS:
            following.popitem(last=False)
        return unknown

    def settle(
        self, file: str, unknown: Mapping[str, Seen], stored: Mapping[str, int], look: int, now: datetime
    ) -> None:
        """Holes before the first lines of sessions, given the last line before each that is stored (0: none)."""
        for session, number, position in unknown.values():
            last = stored.get(session, 0)
            began = _began(session)
            # Without any line before it: only if it would have been seen to begin.
            if last == 0 and not (began and began >= self._began and now - began < _LONGEST_SESSION):
                continue
            if last + 1 < number:
                self._add(Hole(session, last + 1, number - 1, file, position), look)
        for session, number in self._late:
            self._fill(session, number)
        self._late.clear()

    def reached(self, last: Mapping[str, int], look: int) -> None:
        """Sessions of which lines came again: how far they are stored. What lies before that is told or stored."""
        for session, number in last.items():
            self._next[session] = max(self._next.get(session, 1), number + 1)
            for hole in list(self._missing.get(session, [])):
                if self._found_at[hole] == look and hole.first <= number:
                    self._drop(hole)
                    if hole.last > number:
                        self._add(replace(hole, first=number + 1), look)

    def knows(self, session: str) -> bool:
        """Whether a line of a session was read; where it was not lately, the store knows."""
        return session in self._next

    def due(self, look: int) -> list[Hole]:
        """Holes that stayed although all that the directory showed at this look, or later, is read."""
        return [hole for hole, found_at in self._found_at.items() if found_at < look]

    def told(self, holes: Iterable[Hole]) -> None:
        """Forget these holes: they are gaps in the record now."""
        for hole in holes:
            self._drop(hole)

    def changes(self) -> dict[str, list[Hole]]:
        """The holes of each session for which they changed since they were last stored."""
        return {session: self._missing.get(session, []) for session in self._changed}

    def stored(self) -> None:
        """Note that the store has what ``changes`` gave."""
        self._changed.clear()

    def _is_missing(self, session: str, number: int) -> bool:
        return any(hole.first <= number <= hole.last for hole in self._missing.get(session, ()))

    def _add(self, hole: Hole, look: int) -> None:
        """Note what of a hole is not known to be missing yet: the line behind it may come again."""
        known = self._missing.setdefault(hole.session, [])
        first = hole.first
        for other in sorted(known, key=lambda other: other.first):
            if first <= other.last and other.first <= hole.last:
                self._note(replace(hole, first=first, last=other.first - 1), look)
                first = other.last + 1
        self._note(replace(hole, first=first), look)

    def _note(self, hole: Hole, look: int) -> None:
        if hole.first > hole.last:
            return
        self._missing[hole.session].append(hole)
        self._found_at[hole] = look
        self._changed.add(hole.session)

    def _drop(self, hole: Hole) -> int:
        holes = self._missing[hole.session]
        holes.remove(hole)
        if not holes:
            del self._missing[hole.session]
        self._changed.add(hole.session)
        return self._found_at.pop(hole)

    def _fill(self, session: str, number: int) -> None:
        for hole in self._missing.get(session, []):
            if hole.first <= number <= hole.last:
                look = self._drop(hole)
                for first, last in ((hole.first, number - 1), (number + 1, hole.last)):
                    if first <= last:
                        self._add(replace(hole, first=first, last=last), look)
                return


def _began(session: str) -> datetime | None:
    parts = session_parts(session)
    return parts[0] if parts else None
