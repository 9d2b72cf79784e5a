"""What the agent tells the API server: its entry in ``status.agents`` and the condition Enforced of each rule."""

import asyncio
from datetime import datetime
from typing import Any

import structlog

from vaultbrix.adapters.kube import Conflict, Kube, NotFound, resource_type
from vaultbrix.api.accessrule import AccessRule, AgentReport
from vaultbrix.api.conditions import Condition, ConditionType, Reason, condition
from vaultbrix.domain.access import Grant
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)


def report(
    rule: AccessRule, grant: Grant | None, errors: dict[str, str], *, agent: str, now: datetime
) -> dict[str, Any] | None:
    """The status to apply for a rule, or None when what it says already is right.

    ``grant`` is what is enforced for the rule now, None when it is closed or not open yet.
    """
    mine = next((a for a in rule.status.agents if a.name == agent), None)
    if grant is None and mine is None:
        return None
    opened = grant is not None
    error = "; ".join(f"{layer}: {text}" for layer, text in sorted(errors.items()))
    entry = AgentReport(
        name=agent,
        generation=grant.generation if grant else rule.metadata.generation,
        hba=opened and "hba" not in errors,
        kernel=opened and "kernel" not in errors,
        at=now,
        error=error[:1024],
    )
    told = _enforced(rule, grant, error, now)
    if mine is not None and mine.model_copy(update={"at": now}) == entry and told in rule.status.conditions:
        return None
    return {"agents": [entry.dump()], "conditions": [told.dump()]}


def _enforced(rule: AccessRule, grant: Grant | None, error: str, now: datetime) -> Condition:
    if grant is not None and not error:
        status, reason, message = (
            True,
            Reason.ENFORCED,
            "kernel, pg_hba.conf and sessions are as the rule says",
        )
    elif error:
        status, reason, message = False, Reason.AGENT_FAILED, error
    else:
        status, reason, message = False, Reason.CLOSED, "no address of this rule is let in by it"
    return condition(
        ConditionType.ENFORCED,
        status,
        reason,
        message,
        generation=grant.generation if grant else rule.metadata.generation,
        now=now,
        previous=rule.status.conditions,
    )


class Reporter:
    """Writes reports; the latest for a rule replaces one that still waits. Never in the way of enforcement."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._waiting: dict[tuple[str, str], dict[str, Any]] = {}
        self._changed = asyncio.Event()

    def put(self, rule: AccessRule, status: dict[str, Any]) -> None:
        """Have the status written."""
        self._waiting[rule.key] = status
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled; what cannot be written is kept and tried again."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            batch, self._waiting = self._waiting, {}
            done = await asyncio.gather(*(self._write(key, status) for key, status in batch.items()))
            if not all(done):
                await asyncio.sleep(1)
                self._changed.set()

    async def _write(self, key: tuple[str, str], status: dict[str, Any]) -> bool:
        namespace, name = key
        body = {"metadata": {"namespace": namespace, "name": name}, "status": status}
        try:
            await self._kube.apply(resource_type(AccessRule), body, subresource="status")
        except (NotFound, Conflict):
            return True
        except Expected as error:
            log.warning("report not written", rule=f"{namespace}/{name}", message=error.message)
            self._waiting.setdefault(key, status)
            return False
        return True
