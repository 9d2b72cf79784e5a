"""How long a rule still lasts, for people."""

from datetime import datetime, timedelta

from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.domain.access import deadline_of, start_of


def span(value: timedelta) -> str:
    """A duration in its two largest units, rounded down: ``3d04h``, ``1h03m``, ``12m``, ``45s``."""
    total = max(0, int(value.total_seconds()))
    days, hours, minutes = total // 86400, total // 3600, total // 60
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m" if minutes else f"{total}s"


def ended_at(rule: AccessRule, now: datetime) -> datetime | None:
    """When the rule ended; None while it may still give access."""
    if rule.status.closed_at is not None:
        return rule.status.closed_at
    deadline = deadline_of(rule)
    if rule.spec.revoked or rule.deleting or rule.status.phase in (AccessPhase.EXPIRED, AccessPhase.REVOKED):
        return min(deadline, now)
    return deadline if deadline <= now else None


def countdown(rule: AccessRule, now: datetime) -> str:
    """``1h03m left``, ``opens in 3m``, ``ended 5m ago``; ``not open`` for a rule that was rejected."""
    ended = ended_at(rule, now)
    if ended is not None:
        return f"ended {span(now - ended)} ago"
    if rule.status.phase is AccessPhase.REJECTED:
        return "not open"
    start = start_of(rule)
    if start > now and rule.spec.starts_at is not None:
        return f"opens in {span(start - now)}"
    return f"{span(deadline_of(rule) - now)} left"
