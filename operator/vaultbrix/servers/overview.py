"""What needs somebody's attention now: the answer of ``vaultbrix status``. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from vaultbrix.access.approval import waits_for_decision
from vaultbrix.access.countdown import ended_at
from vaultbrix.access.terms import deadline_of, start_of
from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.conditions import Condition, ConditionType, find_condition, is_true
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import Resource, rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.review import by_urgency, waiting, worst

SOON = timedelta(hours=1)


@dataclass(frozen=True)
class Overview:
    """Objects by what is to be known of them, in the order in which they matter.

    ``open_rules`` is a number; ``ending`` are the open rules that end within the hour.
    """

    servers: tuple[PostgresServer, ...]
    tenants_not_ready: tuple[Tenant, ...]
    open_rules: int
    ending: tuple[AccessRule, ...]
    rules_not_ready: tuple[AccessRule, ...]
    approvals_waiting: tuple[DDLApproval, ...]


def overview(
    servers: Iterable[PostgresServer],
    tenants: Iterable[Tenant],
    rules: Iterable[AccessRule],
    approvals: Iterable[DDLApproval],
    now: datetime,
) -> Overview:
    """Sort out what needs attention at ``now``."""
    alive = [r for r in rules if ended_at(r, now) is None]
    opened = [r for r in alive if r.status.phase is AccessPhase.OPEN]
    # A rule that waits for its startsAt is as it should be, unless somebody has to decide on it before.
    due = [r for r in alive if start_of(r) <= now or r.status.phase is AccessPhase.REJECTED or waits_for_decision(r)]
    return Overview(
        servers=tuple(sorted(servers, key=lambda s: s.metadata.name)),
        tenants_not_ready=tuple(
            sorted((t for t in tenants if not is_true(t.status.conditions, ConditionType.READY)), key=_key)
        ),
        open_rules=len(opened),
        ending=tuple(sorted((r for r in opened if deadline_of(r) - now <= SOON), key=deadline_of)),
        rules_not_ready=tuple(
            sorted((r for r in due if not is_true(r.status.conditions, ConditionType.READY)), key=_key)
        ),
        approvals_waiting=tuple(by_urgency(a for a in approvals if waiting(a))),
    )


def dump(overview: Overview, not_seen: Iterable[str]) -> dict[str, Any]:
    """As JSON, as ``vaultbrix status -o json`` prints it; ``not_seen`` says what the person may not read."""
    return {
        "servers": [
            {
                "name": s.metadata.name,
                "ready": is_true(s.status.conditions, ConditionType.READY),
                "version": s.status.version,
                "agents": [a.name for a in s.status.agents],
                "openRules": s.status.open_rules,
                "tenants": s.status.tenants,
                "notTrue": [c.dump() for c in not_true(s.status.conditions)],
            }
            for s in overview.servers
        ],
        "tenantsNotReady": [
            {**_reference(t), **why_not_ready(t.status.conditions)} for t in overview.tenants_not_ready
        ],
        "openRules": overview.open_rules,
        "rulesEnding": [{**_reference(r), "expiresAt": rfc3339(deadline_of(r))} for r in overview.ending],
        "rulesNotReady": [{**_reference(r), **why_not_ready(r.status.conditions)} for r in overview.rules_not_ready],
        "approvalsWaiting": [
            {
                **_reference(a),
                "requestedBy": a.spec.requested_by,
                "reason": a.spec.reason,
                "danger": _danger(a),
            }
            for a in overview.approvals_waiting
        ],
        "notSeen": list(not_seen),
    }


def why_not_ready(conditions: Iterable[Condition]) -> dict[str, str]:
    """``reason`` and ``message`` of the condition Ready; ``Waiting`` where the operator has not written it yet."""
    ready = find_condition(conditions, ConditionType.READY)
    return {"reason": ready.reason if ready else "Waiting", "message": ready.message if ready else ""}


def _danger(approval: DDLApproval) -> str | None:
    danger = worst(approval.status.statements)
    # A plain text: YAML has no word for a member of an enumeration.
    return str(danger) if danger is not None else None


def _reference(resource: Resource) -> dict[str, str]:
    return {"namespace": resource.metadata.namespace, "name": resource.metadata.name}


def _key(resource: Tenant | AccessRule) -> tuple[str, str]:
    return resource.key


def not_true(conditions: Iterable[Condition]) -> list[Condition]:
    """Conditions that are not True, Ready last: it says in short what the others say."""
    failing = [c for c in conditions if c.status != "True"]
    return sorted(failing, key=lambda c: c.type == ConditionType.READY)
