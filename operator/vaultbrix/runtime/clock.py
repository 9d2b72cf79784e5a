"""When two clocks differ enough to matter."""

from datetime import datetime, timedelta

# Below this the network and the whole seconds of the API server's answers explain a difference.
TOLERANCE_SECONDS = 5


def clock_skew_seconds(skew: timedelta) -> int:
    """Whole seconds of a difference, 0 up to the tolerance."""
    seconds = round(skew.total_seconds())
    return seconds if abs(seconds) > TOLERANCE_SECONDS else 0


def never_behind(wall: datetime, skew: timedelta) -> datetime:
    """The time to close by: this machine's, or the API server's where this machine's has fallen behind it.

    ``skew`` is this machine's clock minus the API server's. So a clock that was set back prolongs nothing.
    """
    return wall - skew if skew < -timedelta(seconds=TOLERANCE_SECONDS) else wall
