"""The receipt of an ended key: which records are its, whether the audit store has them all, when to ask again."""

from dataclasses import dataclass
from datetime import datetime

from vaultbrix.api.apikey import APIKey, KeyReceipt
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.audit.receipts.decisions import AFTER, BEFORE, FIRST_PAUSE, next_attempt
from vaultbrix.audit.records import KEY

NOT_YET = "not counted yet"


@dataclass(frozen=True)
class Window:
    """Which records of a server are a key's. ``key`` is as stored; ``sha256`` names one of its texts, None all."""

    server: str
    key: str
    sha256: str | None
    since: datetime
    closed_at: datetime


@dataclass(frozen=True)
class Usage:
    """What the store holds of a window up to ``until``; ``refused`` counts from the end on.

    ``damaged``: some of it is known to be missing.
    """

    requests: int
    refused: int
    first_used_at: datetime | None
    last_used_at: datetime | None
    last_address: str | None
    until: datetime
    damaged: bool


def window(api_key: APIKey, begun: KeyReceipt, *, server: str) -> Window:
    """From the creation on, so that an earlier key of its name does not count."""
    return Window(
        server=server,
        key=f"{KEY}{api_key.display}",
        # As much of it as the gateway tells.
        sha256=begun.sha256[:16] if begun.sha256 is not None else None,
        since=begun.created_at - BEFORE,
        closed_at=begun.closed_at,
    )


def complete_until(asked: Window, newest: datetime | None) -> datetime | None:
    """Up to when the store holds all, by its newest record; None where it may not hold all from before the end."""
    until = newest - AFTER if newest is not None else None
    return until if until is not None and until >= asked.closed_at else None


def blank(begun: KeyReceipt, message: str) -> KeyReceipt:
    """The receipt without counts, and why there are none."""
    return KeyReceipt(
        sha256=begun.sha256,
        prefix=begun.prefix,
        created_at=begun.created_at,
        closed_at=begun.closed_at,
        reason=begun.reason,
        message=message[:1024],
    )


def receipt(begun: KeyReceipt, asked: Window, usage: Usage | None) -> KeyReceipt:
    """The receipt from what the store holds; None says that it may not hold all from before the end yet."""
    if usage is None:
        known = f"all that server {asked.server} logged up to {rfc3339(asked.closed_at)}"
        return blank(begun, f"the audit store does not hold yet {known}")
    damage = "lines of the log are known to be missing, so it may be more; see audit.gap and audit.quarantine"
    return blank(begun, damage if usage.damaged else "").model_copy(
        update={
            "requests": usage.requests,
            "refused": usage.refused,
            "first_used_at": _whole_second(usage.first_used_at),
            "last_used_at": _whole_second(usage.last_used_at),
            "last_address": usage.last_address,
            "complete_until": None if usage.damaged else _whole_second(usage.until),
        }
    )


def receipt_to_show(api_key: APIKey, counted: KeyReceipt | None, server: PostgresServer | None) -> KeyReceipt | None:
    """The receipt that belongs into the status, None before an end.

    ``api_key`` has the status that is about to be written; ``counted`` is what was counted since it was last written.
    """
    begun = api_key.status.receipt
    if begun is None:
        return None
    if counted is not None and (counted.sha256, counted.closed_at) == (begun.sha256, begun.closed_at):
        return counted
    if begun.requests is not None or begun.message:
        return begun
    if server is None or server.spec.audit_secret_ref is None:
        name = f"PostgresServer {server.metadata.name}" if server else "the tenant's PostgresServer"
        return blank(begun, f"{name} names no audit store (spec.auditSecretRef); nothing is counted")
    return blank(begun, NOT_YET)


def count_due(api_key: APIKey, server: PostgresServer | None, now: datetime) -> datetime | None:
    """When the audit store is to be asked for what was used, None when there is no more to ask.

    It is asked to the last, however complete its answer: the key may still be tried. It is asked once even where the
    operator was away all that time.
    """
    begun = api_key.status.receipt
    if begun is None or api_key.deleting or server is None or server.spec.audit_secret_ref is None:
        return None
    again = next_attempt(begun.closed_at, now)
    if again is None and begun.requests is None and begun.message in ("", NOT_YET):
        return now + FIRST_PAUSE
    return again


def _whole_second(at: datetime | None) -> datetime | None:
    # As the status holds it: else what was counted would never be what is written.
    return at.replace(microsecond=0) if at is not None else None
