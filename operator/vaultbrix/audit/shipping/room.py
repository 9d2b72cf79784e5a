"""Whether the disk that PostgreSQL logs to is about to be full. Pure."""

from collections import deque

from vaultbrix.api.conditions import Reason
from vaultbrix.audit.flow.report import Problem

# Told below this part of the disk, and no more once there is somewhat more again.
LEAST_FREE = 0.20
ENOUGH_FREE = 0.22
# Told when it would be full sooner, as it went over the last minutes.
SOONEST_SECONDS = 3600.0
WINDOW_SECONDS = 600.0
_SHORTEST_SECONDS = 60.0
# Stored files stay no longer than this while it is told.
_KEPT_SECONDS = 60.0
_GIB = 1024**3


def seconds_kept(keep: float | None, *, disk_fills: bool) -> float | None:
    """How long a file stays that is stored; None: for ever, which is what was asked for even if the disk fills."""
    return keep if keep is None or not disk_fills else min(keep, _KEPT_SECONDS)


class Room:
    """Remembers the free bytes of the last minutes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._short = False

    def look(self, now: float, free: int, total: int) -> tuple[Problem, ...]:
        """The problem, if there is one. ``now``: seconds of a clock that is never set."""
        self._seen.append((now, free))
        while now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        part = free / total if total else 1.0
        self._short = part < (ENOUGH_FREE if self._short else LEAST_FREE)
        left = self._seconds_left(now, free)
        if not self._short and (left is None or left > SOONEST_SECONDS):
            return ()
        soon = "" if left is None else f"; at this rate it is full in {max(1, round(left / 60))} min"
        remedy = (
            "files are removed once they are stored (--keep-stored); enlarge the volume, or see why the store is behind"
        )
        message = f"the disk of PostgreSQL's log has {part:.0%} ({free / _GIB:.1f} GiB) free{soon}: {remedy}"
        return (Problem(Reason.LOG_DISK_FILLING, message),)

    def _seconds_left(self, now: float, free: int) -> float | None:
        since, before = self._seen[0]
        if now - since < _SHORTEST_SECONDS or before <= free:
            return None
        return free * (now - since) / (before - free)
