"""Decides what the agent reports on a rule: its entry in ``status.agents`` and the condition Enforced. Pure."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from vaultbrix.agent.watchdog.tally import NONE_ENDED, RuleEnds
from vaultbrix.api.accessrule import AccessRule, AgentReport
from vaultbrix.api.conditions import Condition, ConditionType, Reason, State, condition
from vaultbrix.grants.grant import Grant

# If several layers failed, the first of them here gives the condition's reason.
_REASONS = {
    "clock": Reason.CLOCK_SKEW,
    "audit": Reason.AUDIT_NOT_FLOWING,
    "approval": Reason.DECISION_UNGUARDED,
    "state": Reason.AGENT_FAILED,
    "kernel": Reason.KERNEL_FAILED,
    "hba": Reason.HBA_FAILED,
    "sessions": Reason.SESSIONS_FAILED,
}


# metav1.validation: FieldManagerMaxLength.
_LONGEST_FIELD_MANAGER = 128


def field_manager(agent: str) -> str:
    """The name under which an agent applies what it reports.

    With one name for all, each agent's report would take away the entries of the others of its server.
    """
    return f"vaultbrix-agent-{agent}"[:_LONGEST_FIELD_MANAGER]


@dataclass(frozen=True)
class RuleFacts:
    """How a rule is enforced here. ``grant`` is None while it is not open; ``errors`` are messages by layer."""

    grant: Grant | None
    errors: dict[str, str] = field(default_factory=dict)
    open_sessions: int = 0
    terminated_sessions: int = 0
    watchdog: RuleEnds = NONE_ENDED


def report(rule: AccessRule, facts: RuleFacts, *, agent: str, now: datetime) -> dict[str, Any] | None:
    """Return the status to apply to a rule, as JSON, or None when it already says so.

    ``agent`` is the name of the agent that reports.
    """
    previous = next((a for a in rule.status.agents if a.name == agent), None)
    if facts.grant is None and previous is None and not facts.errors:
        return None
    grant, errors = facts.grant, facts.errors
    error = "; ".join(f"{layer}: {text}" for layer, text in sorted(errors.items()))
    ended = facts.watchdog
    if previous is not None and ended.sessions < previous.ended_by_watchdog:
        # The agent was started anew, and has ended none since.
        ended = RuleEnds(previous.ended_by_watchdog, previous.watchdog)
    entry = AgentReport(
        name=agent,
        generation=grant.generation if grant else rule.metadata.generation,
        hba=grant is not None and "hba" not in errors,
        kernel=grant is not None and "kernel" not in errors,
        sessions="sessions" not in errors,
        open_sessions=facts.open_sessions,
        # The agent forgets the count a moment after the end; a later report must not take it back.
        terminated_sessions=max(facts.terminated_sessions, previous.terminated_sessions if previous else 0),
        ended_by_watchdog=ended.sessions,
        watchdog=ended.message,
        at=now,
        error=error[:1024],
    )
    enforced = _enforced(rule, grant, errors, error, now)
    if previous is not None and replace(previous, at=now) == entry and enforced in rule.status.conditions:
        return None
    return {"agents": [entry.dump()], "conditions": [enforced.dump()]}


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
