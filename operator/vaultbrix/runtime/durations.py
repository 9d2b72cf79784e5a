"""Prints spans of time for people. Pure."""

from datetime import timedelta


def span(value: timedelta) -> str:
    """A duration in its two largest units, rounded down: ``3d04h``, ``1h03m``, ``12m``, ``45s``."""
    total = max(0, int(value.total_seconds()))
    days, hours, minutes = total // 86400, total // 3600, total // 60
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m" if minutes else f"{total}s"
