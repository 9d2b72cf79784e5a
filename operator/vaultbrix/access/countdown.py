"""How long a rule still lasts, or since when it has ended, for people. Pure."""

from datetime import datetime

from vaultbrix.access.terms import deadline_of, start_of
from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.runtime.durations import span


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
