"""What to make of the difference between this machine's clock and the API server's. Pure."""

from datetime import datetime, timedelta

# A smaller difference may come from the network, and from answers that date themselves in whole seconds.
TOLERANCE_SECONDS = 5


def clock_skew_seconds(skew: timedelta) -> int:
    """Return the difference of two clocks in whole seconds, 0 where it is within the tolerance."""
    seconds = round(skew.total_seconds())
    return seconds if abs(seconds) > TOLERANCE_SECONDS else 0


def never_behind(wall: datetime, skew: timedelta) -> datetime:
    """Return the time by which rules end: this machine's, or the API server's if this machine's clock is behind.

    ``skew`` is this machine's clock minus the API server's. So a clock that was set back prolongs no rule.
    """
    return wall - skew if skew < -timedelta(seconds=TOLERANCE_SECONDS) else wall
