"""Refused statements that become requests: which of them do, under which name, as asked by whom."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.ddlapproval import FINAL_PHASES, ApprovalPhase, DDLApproval, Execution
from vaultbrix.api.meta import is_person, rfc3339
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.plan import RejectedText, digest, plan

LABEL = "vaultbrix.com/from-refusal"

# More than a person looks through; a tenant that is refused in a loop must not flood the API server.
MOST_AN_HOUR = 30
MOST_PENDING = 20

_HOUR = timedelta(hours=1)
_NAME_IN_NAME = 200


@dataclass(frozen=True)
class Refusal:
    """One record of the audit store. ``tenant`` and ``person`` hold several names, by comma, where it is not certain
    which; empty when unknown."""

    at: datetime
    role: str
    tenant: str
    person: str
    address: str
    statement: str


@dataclass(frozen=True)
class Request:
    """A DDLApproval to create."""

    name: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Obstacle:
    """Why there is none, where somebody should know. ``key`` is the same for what need not be said twice."""

    reason: str
    message: str
    key: str


def is_of(refusal: Refusal, tenant: Tenant) -> bool:
    """Whether the tenant's own login was refused, or one of a rule of it; those of Jobs and rehearsals are ours."""
    if not is_true(tenant.status.conditions, ConditionType.PROVISIONED):
        # The role of that name may be that of an earlier Tenant, whose statements this one is not to see.
        return False
    return refusal.role == tenant.role or (refusal.role.startswith("tenant_") and refusal.tenant == tenant.display)


def answer(
    refusal: Refusal, tenant: Tenant, approvals: Collection[DDLApproval], now: datetime
) -> Request | Obstacle | None:
    """What to make of a refusal; ``approvals`` are all of the tenant.

    While one of the same text waits or is approved, nothing. After one was denied, or is not valid, nothing until
    that one is deleted: a refusal is no new argument. After one that ran, failed or expired, another one, if the
    refusal came later.
    """
    sha256 = digest(refusal.statement).hex()
    base = f"refused-{tenant.metadata.name[:_NAME_IN_NAME]}-{sha256[:16]}"
    alike = [a for a in approvals if a.status.sha256 == sha256 or re.fullmatch(rf"{base}(-\d+)?", a.metadata.name)]
    if any(_stands(approval, refusal.at) for approval in alike):
        return None
    ours = [a for a in approvals if a.metadata.labels.get(LABEL) == "true"]
    recent = sum(a.metadata.creation_timestamp > now - _HOUR for a in ours)
    pending = sum(a.status.phase in (None, ApprovalPhase.PENDING) for a in ours)
    if recent >= MOST_AN_HOUR or pending >= MOST_PENDING:
        text = (
            f"refused texts make no DDLApproval for now: {recent} were made within an hour (at most {MOST_AN_HOUR}), "
            f"{pending} are pending (at most {MOST_PENDING}); decide on or delete those"
        )
        return Obstacle("TooManyRefusals", text, f"{tenant.display} {now:%Y-%m-%dT%H}")
    try:
        plan(refusal.statement)
    except RejectedText as error:
        text = f"a refused text makes no DDLApproval: {error}"
        return Obstacle("RefusedTextRejected", text, f"{tenant.display} {now:%Y-%m-%dT%H} rejected")
    if refusal.person and not is_person(_people(refusal)):
        text = "a refused text makes no DDLApproval: who may have sent it does not fit into spec.requestedBy"
        return Obstacle("RefusedTextRejected", text, f"{tenant.display} {now:%Y-%m-%dT%H} people")
    taken = {approval.metadata.name for approval in alike}
    name = next(n for i in range(1, len(taken) + 2) if (n := base if i == 1 else f"{base}-{i}") not in taken)
    return Request(name, _spec(refusal, tenant))


def asked_by(refusal: Refusal, tenant: Tenant) -> str:
    """The person; all of them where it may have been any; for an unknown one the tenant, as no user is named."""
    return _people(refusal) or f"tenant:{tenant.display}"


def _people(refusal: Refusal) -> str:
    return ",".join(part for part in refusal.person.split(", ") if part)


def _stands(approval: DDLApproval, at: datetime) -> bool:
    status = approval.status
    if status.phase not in FINAL_PHASES or status.phase in (ApprovalPhase.DENIED, ApprovalPhase.INVALID):
        return True
    ended = [when for when in (status.finished_at, status.expires_at if not status.finished_at else None) if when]
    return at <= max(ended, default=approval.metadata.creation_timestamp)


def _spec(refusal: Refusal, tenant: Tenant) -> dict[str, Any]:
    who = "" if refusal.person else "; it is not known by whom"
    origin = f" from {refusal.address}" if refusal.address else ""
    return {
        "tenantRef": {"name": tenant.metadata.name},
        "sql": refusal.statement,
        "reason": f"refused by the gate at {rfc3339(refusal.at)}{origin}{who}",
        "requestedBy": asked_by(refusal, tenant),
        "execution": str(Execution.SESSION),
    }
