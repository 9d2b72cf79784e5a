"""When two clocks differ enough to matter."""

from datetime import timedelta

# Below this the network and the whole seconds of the API server's answers explain a difference.
TOLERANCE_SECONDS = 5


def clock_skew_seconds(skew: timedelta) -> int:
    """Whole seconds of a difference, 0 up to the tolerance."""
    seconds = round(skew.total_seconds())
    return seconds if abs(seconds) > TOLERANCE_SECONDS else 0
