"""When the audit store is asked what something was used for that has ended."""

from datetime import datetime, timedelta

# Clocks of API server and PostgreSQL differ a little, and a creation's time is cut to the second.
BEFORE = timedelta(seconds=1)
# The last lines are written a moment after the end.
AFTER = timedelta(seconds=5)

FIRST_PAUSE = timedelta(seconds=6)
LONGEST_PAUSE = timedelta(minutes=10)
GIVE_UP_AFTER = timedelta(hours=1)


def next_attempt(closed_at: datetime, now: datetime) -> datetime | None:
    """When to ask the store (again): pauses as long as the time since the end, for an hour; None after that."""
    last = closed_at + GIVE_UP_AFTER
    if now >= last:
        return None
    return min(last, now + min(LONGEST_PAUSE, max(FIRST_PAUSE, now - closed_at)))
