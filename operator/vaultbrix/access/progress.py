"""How far a change of a rule has got, from what operator and agents report in its status. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from vaultbrix.access.terms import start_of
from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.conditions import Condition, ConditionType, Reason, find_condition


class Progress(Enum):
    """How far a rule is on its way to be in force.

    ``WAITING``: operator or agents are still at it. ``READY``: it is in force. ``LATER``: it is accepted, and opens by
    itself at its startsAt. ``NEVER``: nothing but a change by somebody will open it.
    """

    WAITING = "waiting"
    READY = "ready"
    LATER = "later"
    NEVER = "never"


_FINAL = frozenset({AccessPhase.REJECTED, AccessPhase.EXPIRED, AccessPhase.REVOKED})


def opening(rule: AccessRule, now: datetime) -> Progress:
    """How far the last change of the rule (its generation) is on its way to be in force."""
    ready = find_condition(rule.status.conditions, ConditionType.READY)
    # One that has ended may have no Ready.
    seen = ready.observed_generation if ready is not None else rule.status.observed_generation
    if seen < rule.metadata.generation:
        return Progress.WAITING
    if ready is None:
        return Progress.NEVER if rule.status.phase in _FINAL else Progress.WAITING
    if ready.status == "True":
        return Progress.READY
    if rule.status.phase in _FINAL or ready.reason == Reason.TENANT_SUSPENDED:
        return Progress.NEVER
    if ready.reason == Reason.NOT_YET and start_of(rule) > now:
        return Progress.LATER
    return Progress.WAITING


def closed(rule: AccessRule) -> bool:
    """Whether the rule has ended, and every agent that once opened it says that nothing of it is left.

    One that was open and that no agent has reported on may be in force somewhere, for all that is known.
    """
    if rule.status.phase not in (AccessPhase.EXPIRED, AccessPhase.REVOKED):
        return False
    if rule.status.opened_at is not None and not rule.status.agents:
        return False
    return all(
        a.generation >= rule.metadata.generation and a.sessions and not (a.hba or a.kernel or a.error)
        for a in rule.status.agents
    )


@dataclass(frozen=True)
class Remainder:
    """What one agent has not closed of a rule that was revoked: its name, the layers left, and its last error."""

    agent: str
    layers: tuple[str, ...]
    error: str


def remainders(rule: AccessRule) -> list[Remainder]:
    """The agents that have not closed the rule yet, or have not reported on its last change."""
    open_somewhere = []
    for agent in rule.status.agents:
        left = (("kernel", agent.kernel), ("pg_hba", agent.hba), ("sessions", not agent.sessions))
        layers = tuple(name for name, is_open in left if is_open)
        if layers or agent.error or agent.generation < rule.metadata.generation:
            open_somewhere.append(Remainder(agent.name, layers, agent.error))
    return open_somewhere


def sessions_ended(rule: AccessRule) -> int:
    """How many sessions were ended with the rule, over all agents."""
    return max(rule.status.sessions.terminated, sum(a.terminated_sessions for a in rule.status.agents))


def sessions_open(rule: AccessRule) -> int:
    """How many sessions are open under the rule, over all agents."""
    return max(rule.status.sessions.open, sum(a.open_sessions for a in rule.status.agents))


def lacking(rule: AccessRule) -> list[Condition]:
    """What keeps the rule from being Ready: the conditions that are not True; Ready itself only if it is alone."""
    not_true = [c for c in rule.status.conditions if c.status != "True"]
    return [c for c in not_true if c.type != ConditionType.READY] or not_true


def readiness(conditions: Iterable[Condition], closed_reason: str | None = None) -> str:
    """The condition Ready in one word: ``True``, or the reason why not; ``Waiting`` where it is not written yet.

    ``closed_reason`` is why the object ended, after which it may have no Ready.
    """
    ready = find_condition(conditions, ConditionType.READY)
    if ready is None:
        return closed_reason or "Waiting"
    return "True" if ready.status == "True" else ready.reason
