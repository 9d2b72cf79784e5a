"""What the agent tells the API server of each rule: its entry in ``status.agents`` and the condition Enforced."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from vaultbrix.api.accessrule import AccessRule, AgentReport
from vaultbrix.api.conditions import Condition, ConditionType, Reason, State, condition
from vaultbrix.grants.grant import Grant
from vaultbrix.kube.client import Conflict, Kube, NotFound, resource_type
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import WorkQueue

WRITERS = 8

# In the order in which a layer's error is the reason, if several failed.
_REASONS = {
    "clock": Reason.CLOCK_SKEW,
    "audit": Reason.AUDIT_NOT_FLOWING,
    "state": Reason.AGENT_FAILED,
    "kernel": Reason.KERNEL_FAILED,
    "hba": Reason.HBA_FAILED,
    "sessions": Reason.SESSIONS_FAILED,
}


@dataclass(frozen=True)
class Facts:
    """What holds for a rule here. ``grant`` is None when it is closed or not open yet; ``errors`` by layer."""

    grant: Grant | None
    errors: dict[str, str] = field(default_factory=dict)
    open_sessions: int = 0
    terminated_sessions: int = 0


def report(rule: AccessRule, facts: Facts, *, agent: str, now: datetime) -> dict[str, Any] | None:
    """The status to apply for a rule, or None when what it says already is right."""
    mine = next((a for a in rule.status.agents if a.name == agent), None)
    if facts.grant is None and mine is None and not facts.errors:
        return None
    grant, errors = facts.grant, facts.errors
    error = "; ".join(f"{layer}: {text}" for layer, text in sorted(errors.items()))
    entry = AgentReport(
        name=agent,
        generation=grant.generation if grant else rule.metadata.generation,
        hba=grant is not None and "hba" not in errors,
        kernel=grant is not None and "kernel" not in errors,
        sessions="sessions" not in errors,
        open_sessions=facts.open_sessions,
        # Counted once; a report that comes later knows of none.
        terminated_sessions=max(facts.terminated_sessions, mine.terminated_sessions if mine else 0),
        at=now,
        error=error[:1024],
    )
    told = _enforced(rule, grant, errors, error, now)
    if mine is not None and replace(mine, at=now) == entry and told in rule.status.conditions:
        return None
    return {"agents": [entry.dump()], "conditions": [told.dump()]}


def _enforced(rule: AccessRule, grant: Grant | None, errors: dict[str, str], error: str, now: datetime) -> Condition:
    if error:
        reason = next(reason for layer, reason in _REASONS.items() if layer in errors)
        status, message = False, error
    elif grant is not None:
        status, reason, message = True, Reason.ENFORCED, "kernel, pg_hba.conf and sessions are as the rule says"
    else:
        status, reason, message = False, Reason.CLOSED, "no address of this rule is let in by it"
    return condition(
        ConditionType.ENFORCED,
        State(status, reason, message),
        generation=grant.generation if grant else rule.metadata.generation,
        now=now,
        previous=rule.status.conditions,
    )


class Reporter:
    """Writes reports; the latest for a rule replaces one that still waits. Never in the way of enforcement."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._waiting: dict[tuple[str, str], dict[str, Any]] = {}
        self._queue: WorkQueue[tuple[str, str]] = WorkQueue(self._write, workers=WRITERS)

    def put(self, rule: AccessRule, status: dict[str, Any]) -> None:
        """Have the status written."""
        # The uid keeps a report from landing on another object of the same name.
        metadata = {"namespace": rule.metadata.namespace, "name": rule.metadata.name, "uid": rule.metadata.uid}
        self._waiting[rule.key] = {"metadata": metadata, "status": status}
        self._queue.add(rule.key)

    async def run(self) -> None:
        """Until cancelled; what cannot be written is kept and tried again."""
        await self._queue.run()

    async def _write(self, key: tuple[str, str]) -> None:
        body = self._waiting.pop(key, None)
        if body is None:
            return
        try:
            await self._kube.apply(resource_type(AccessRule), body, subresource="status")
        except (NotFound, Conflict):
            return
        except Expected:
            self._waiting.setdefault(key, body)
            raise
