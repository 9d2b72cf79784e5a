"""What needs somebody's attention now: the answer of ``vaultbrix status``."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from vaultbrix.access.countdown import ended_at
from vaultbrix.access.decisions import deadline_of, start_of
from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.conditions import Condition, ConditionType, is_true
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.review import by_urgency, waiting

SOON = timedelta(hours=1)


@dataclass(frozen=True)
class Overview:
    """Objects by what is to be known of them. ``open_rules`` counts them; the others are the objects themselves."""

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
    """Sort objects out; the most urgent first."""
    alive = [r for r in rules if ended_at(r, now) is None]
    opened = [r for r in alive if r.status.phase is AccessPhase.OPEN]
    # One that waits for its startsAt is as it should be.
    due = [r for r in alive if start_of(r) <= now or r.status.phase is AccessPhase.REJECTED]
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


def _key(resource: Tenant | AccessRule) -> tuple[str, str]:
    return resource.key


def not_true(conditions: Iterable[Condition]) -> list[Condition]:
    """Conditions that are not True, Ready last: it says in short what the others say."""
    found = [c for c in conditions if c.status != "True"]
    return sorted(found, key=lambda c: c.type == ConditionType.READY)
