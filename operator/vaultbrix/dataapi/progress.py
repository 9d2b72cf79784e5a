"""How far a change of a key has got, and how long the key still lasts, for people. Pure."""

from datetime import datetime
from enum import Enum

from vaultbrix.api.apikey import APIKey, KeyPhase, KeyReceipt
from vaultbrix.api.conditions import ConditionType, Reason, find_condition
from vaultbrix.dataapi.decisions import deadline_of
from vaultbrix.runtime.durations import span

_FINAL = frozenset({KeyPhase.REJECTED, KeyPhase.EXPIRED, KeyPhase.REVOKED})


class Progress(Enum):
    """How far a key is on its way to be good.

    ``WAITING``: the operator is still at it. ``READY``: the key in the Secret is good. ``NEVER``: nothing but a change
    by somebody will make it so.
    """

    WAITING = "waiting"
    READY = "ready"
    NEVER = "never"


def progress(api_key: APIKey) -> Progress:
    """How far the last change of the key (its generation) is on its way to be in force."""
    ready = find_condition(api_key.status.conditions, ConditionType.READY)
    # One that has ended may have no Ready.
    seen = ready.observed_generation if ready is not None else api_key.status.observed_generation
    if seen < api_key.metadata.generation:
        return Progress.WAITING
    if ready is None:
        return Progress.NEVER if api_key.status.phase in _FINAL else Progress.WAITING
    if ready.status == "True":
        return Progress.READY
    if api_key.status.phase in _FINAL or ready.reason == Reason.TENANT_SUSPENDED:
        return Progress.NEVER
    return Progress.WAITING


def ended_at(api_key: APIKey, now: datetime) -> datetime | None:
    """When the key ended; None while it may still be good."""
    if api_key.status.closed_at is not None:
        return api_key.status.closed_at
    if api_key.spec.revoked or api_key.deleting:
        return now
    deadline = deadline_of(api_key)
    return deadline if deadline is not None and deadline <= now else None


def time_left(api_key: APIKey, now: datetime) -> str:
    """``until revoked``, ``29d23h left``, ``ended 5m ago``; ``not made`` for a key that was rejected."""
    ended = ended_at(api_key, now)
    if ended is not None:
        return f"ended {span(now - ended)} ago"
    if api_key.status.phase is KeyPhase.REJECTED:
        return "not made"
    deadline = deadline_of(api_key)
    return "until revoked" if deadline is None else f"{span(deadline - now)} left"


def receipt_line(receipt: KeyReceipt | None) -> str:
    """``3 requests, 2 refused since``, with the key that was replaced before it; empty where nothing has ended."""
    if receipt is None:
        return ""
    counts = "not counted"
    if receipt.requests is not None:
        requests = f"{receipt.requests} request{'s' if receipt.requests != 1 else ''}"
        counts = f"{requests}, {receipt.refused or 0} refused since"
    return f"{receipt.prefix}…: {counts}" if receipt.prefix else counts
