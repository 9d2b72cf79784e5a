"""Requests for keys as people write them, checked before anything is written. Pure.

Messages name the option of ``vaultbrix keys`` that is wrong, and what to write instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from vaultbrix.api.apikey import APIKey, KeyKind
from vaultbrix.api.meta import API_VERSION, format_duration, parse_duration, rfc3339
from vaultbrix.runtime.usage import Misused, parse_span, parse_time


@dataclass(frozen=True)
class Life:
    """When a key is to end: at most one of the two; with neither it lasts until it is revoked."""

    ttl: timedelta | None = None
    expires_at: datetime | None = None


def parse_life(lasting: str | None, until: str | None, now: datetime) -> Life:
    """When a new key is to end, of ``--for`` and ``--until``. Raises Misused."""
    if lasting is not None and until is not None:
        raise Misused("give at most one of --for (such as 720h) and --until (such as 2026-12-01T18:00:00Z)")
    if lasting is not None:
        return Life(ttl=parse_span("--for", lasting))
    if until is None:
        return Life()
    end = parse_time("--until", until)
    if end <= now:
        raise Misused(f"--until {until}: has passed; give a later time, or --for")
    return Life(expires_at=end)


def parse_overlap(text: str) -> timedelta:
    """How long an old key stays good beside a new one, of ``--overlap``; 0s: not at all. Raises Misused."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Misused(f"--overlap {text}: {error}; 0s ends the old key at once") from None


def api_key_manifest(
    namespace: str,
    name: str,
    tenant: str,
    *,
    kind: KeyKind,
    life: Life,
    cidrs: Sequence[str],
    overlap: timedelta,
    secret_name: str,
    reason: str,
    requested_by: str,
) -> dict[str, Any]:
    """The manifest of the APIKey to create; without ``name`` the API server makes one from tenant and kind."""
    spec: dict[str, Any] = {
        "tenantRef": {"name": tenant},
        "kind": str(kind),
        "reason": reason,
        "requestedBy": requested_by,
        "overlap": format_duration(overlap),
    }
    if life.ttl is not None:
        spec["ttl"] = format_duration(life.ttl)
    if life.expires_at is not None:
        spec["expiresAt"] = rfc3339(life.expires_at)
    if cidrs:
        spec["allowedCIDRs"] = list(cidrs)
    if secret_name:
        spec["secretName"] = secret_name
    metadata = {"namespace": namespace, **({"name": name} if name else {"generateName": f"{tenant}-{kind.lower()}-"})}
    return {"apiVersion": API_VERSION, "kind": APIKey.crd.kind, "metadata": metadata, "spec": spec}
