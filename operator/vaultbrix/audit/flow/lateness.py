"""How late the record is, without asking what stands in it: when was everything written by then stored. Pure."""

from collections.abc import Mapping


class Lateness:
    """Marks how much was in the log at a time, and waits until as much is stored.

    Times are seconds of a clock that is never set. ``late``: seconds that the record is late by already, as is known
    from before.
    """

    def __init__(self, now: float, late: float = 0.0) -> None:
        self._complete = now - max(0.0, late)
        self._mark: tuple[float, Mapping[str, int]] | None = None

    @property
    def complete(self) -> float:
        """The latest time for which it is known that all that had been logged by then is stored."""
        return self._complete

    def seconds(self, now: float) -> float:
        """Seconds between ``complete`` and now: so late is the record."""
        return max(0.0, now - self._complete)

    def look(self, now: float, written: Mapping[str, int], stored: Mapping[str, int]) -> None:
        """Take in bytes by file that are ``written`` at ``now``, and the bytes of each that are ``stored``."""
        if self._mark is not None:
            at, marked = self._mark
            # A file that is smaller now was overwritten, and one that is gone can be read no more: there is a gap.
            if any(stored.get(name, 0) < min(size, written.get(name, 0)) for name, size in marked.items()):
                return
            self._complete = max(self._complete, at)
        if all(stored.get(name, 0) >= size for name, size in written.items()):
            self._complete, self._mark = now, None
        else:
            self._mark = (now, dict(written))
