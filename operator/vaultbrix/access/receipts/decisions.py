"""The receipt of an ended rule: which records are its, whether the audit store has them all, when to ask again."""

from dataclasses import dataclass
from datetime import datetime

from vaultbrix.access.decisions import rule_login
from vaultbrix.access.terms import start_of
from vaultbrix.api.accessrule import AccessRule, Receipt, RuleLogin
from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.audit.receipts.decisions import AFTER, BEFORE, GIVE_UP_AFTER, next_attempt

MOST_OBJECTS = 64


@dataclass(frozen=True)
class Window:
    """Which records of a server are a rule's. ``role`` where the rule had a login of its own, which names it alone."""

    server: str
    rule: str
    role: str | None
    since: datetime
    until: datetime


@dataclass(frozen=True)
class Usage:
    """What the store holds of a window. ``damaged``: some of it is known to be missing."""

    sessions: int
    statements: int
    objects: tuple[str, ...]
    damaged: bool


def window(rule: AccessRule, *, server: str, tenant_role: str) -> Window:
    """From the rule's start, so that an earlier one of its name does not count, until all agents have closed it.

    The operator may have been away while it opened, so openedAt would come too late. What agents say makes the window
    longer and never shorter, and no longer than somebody asks.
    """
    closed = [at for at in (rule.status.closed_at, *(agent.at for agent in rule.status.agents)) if at]
    latest = rule.status.closed_at + GIVE_UP_AFTER if rule.status.closed_at else max(closed)
    own = rule.spec.login is RuleLogin.PER_RULE
    return Window(
        server=server,
        rule=rule.display,
        role=rule_login(tenant_role, rule.metadata.uid) if own else None,
        since=start_of(rule) - BEFORE,
        until=min(max(closed), latest) + AFTER,
    )


def blank(rule: AccessRule, closed_at: datetime, message: str) -> Receipt:
    """A receipt without counts, and why there are none."""
    opened_at, decided = rule.status.opened_at, rule.status.decided
    approved = opened_at is not None and decided is not None and decided.verdict is Verdict.APPROVED
    return Receipt(
        opened_at=opened_at,
        approved_by=decided.by if decided is not None and approved else None,
        closed_at=closed_at,
        reason=rule.status.closed_reason or "",
        ended_by_watchdog=sum(agent.ended_by_watchdog for agent in rule.status.agents),
        complete=False,
        message=message[:1024],
    )


def still_open(rule: AccessRule) -> str | None:
    """The agent that has not said yet that it closed the rule, None when all have."""
    return next((a.name for a in rule.status.agents if a.hba or a.kernel or a.open_sessions), None)


def receipt(rule: AccessRule, closed_at: datetime, asked: Window, usage: Usage | None) -> Receipt:
    """The receipt from what the store holds; None says that it may not hold all yet."""
    if usage is None:
        return blank(
            rule,
            closed_at,
            f"the audit store does not hold yet all that server {asked.server} logged up to {rfc3339(asked.until)}",
        )
    if usage.damaged:
        return blank(rule, closed_at, "lines of the log are known to be missing; see audit.gap and audit.quarantine")
    shown = usage.objects[:MOST_OBJECTS]
    more = f"the first {MOST_OBJECTS} objects are listed" if len(usage.objects) > MOST_OBJECTS else ""
    return blank(rule, closed_at, more).model_copy(
        update={
            "sessions": usage.sessions,
            "statements": usage.statements,
            "objects": [name[:255] for name in shown],
            "complete": True,
        }
    )


def receipt_to_show(rule: AccessRule, counted: Receipt | None, server: PostgresServer | None) -> Receipt | None:
    """The receipt that belongs into the status, None before the rule's end.

    ``rule`` has the status that is about to be written; ``counted`` is what was counted since it was last written.
    """
    closed_at = rule.status.closed_at
    if closed_at is None:
        return None
    known = counted or rule.status.receipt
    if known is not None:
        return known
    if server is None or server.spec.audit_secret_ref is None:
        name = f"PostgresServer {server.metadata.name}" if server else "the rule's PostgresServer"
        return blank(rule, closed_at, f"{name} names no audit store (spec.auditSecretRef); nothing is counted")
    return blank(rule, closed_at, "not counted yet")


def count_due(rule: AccessRule, server: PostgresServer | None, now: datetime) -> datetime | None:
    """When the audit store is to be asked for the rule's use, None when there is no more to ask."""
    status = rule.status
    if status.closed_at is None or rule.deleting or (status.receipt is not None and status.receipt.complete):
        return None
    if server is None or server.spec.audit_secret_ref is None:
        return None
    return next_attempt(status.closed_at, now)
