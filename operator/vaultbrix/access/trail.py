"""What there is to tell of an AccessRule that somebody decides on, for the record. Pure."""

from datetime import datetime

from vaultbrix.access.approval import approval, asked_by, denied, needs_nobody
from vaultbrix.access.terms import deadline_of, start_of, terms_sha256
from vaultbrix.api.accessrule import AccessDecision, AccessRule, AccessRuleStatus
from vaultbrix.api.conditions import ConditionType, Reason, find_condition
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.trail import Happened
from vaultbrix.audit.trail.decisions import Fact, digest, fact


def concerned(rule: AccessRule, server: PostgresServer | None) -> bool:
    """Whether somebody decides on the rule, or has done so: only then there is something to tell."""
    if rule.status.trail is not None or rule.spec.decision is not None:
        return True
    return server is not None and rule.status.closed_at is None and not needs_nobody(rule, server)


def facts_of(rule: AccessRule, status: AccessRuleStatus, now: datetime) -> list[Fact]:
    """All that holds of the rule with the status that is about to be written."""
    found = [_requested(rule, now)]
    decision, good = rule.spec.decision, approval(rule)
    if decision is not None:
        found.append(_decided(rule, status, decision, now))
    if status.opened_at is not None:
        found.append(fact("Opened", Happened.OPENED, status.opened_at, until=status.expires_at))
    if status.closed_at is not None:
        last = good or denied(rule)
        found.append(
            fact(
                "Ended",
                Happened.ENDED,
                status.closed_at,
                reason=status.closed_reason or "",
                why="the AccessRule was deleted" if rule.deleting and status.closed_reason == Reason.REVOKED else "",
                sha256=last.sha256 if last is not None else terms_sha256(rule),
            )
        )
    return found


def _requested(rule: AccessRule, now: datetime) -> Fact:
    spec, meta = rule.spec, rule.metadata
    sha256 = terms_sha256(rule)
    # Whoever edits it asks for something else.
    first = meta.generation <= 1 or rule.status.trail is None
    return fact(
        f"Requested {sha256}",
        Happened.REQUESTED,
        meta.creation_timestamp if first else now,
        by=spec.requested_by,
        sha256=sha256,
        message=spec.reason,
        terms=f"from {', '.join(spec.cidrs)}, login {spec.login}, {rfc3339(start_of(rule))} to "
        f"{rfc3339(deadline_of(rule))}",
        until=deadline_of(rule),
    )


def _decided(rule: AccessRule, status: AccessRuleStatus, decision: AccessDecision, now: datetime) -> Fact:
    counts = decision in (approval(rule), denied(rule))
    reason, why = "", ""
    accepted = find_condition(status.conditions, ConditionType.ACCEPTED)
    if counts and accepted is not None and accepted.reason == Reason.DECISION_UNGUARDED:
        counts, reason, why = False, accepted.reason, accepted.message
    elif asked_by(rule, decision.by):
        reason, why = str(Reason.SELF_APPROVAL), f"{decision.by} asked for this access"
    elif not counts:
        reason, why = str(Reason.APPROVAL_OUTDATED), "the rule gives something else than what was decided on"
    taken = status.decided
    seen = taken is not None and (taken.verdict, taken.sha256) == (decision.verdict, decision.sha256)
    return fact(
        # One that did not count at first may do so later.
        f"Decided {digest(decision.dump())}{f' {reason}' if reason == Reason.DECISION_UNGUARDED else ''}",
        Happened.DECIDED,
        taken.at if seen and taken is not None else now,
        by=decision.by,
        sha256=decision.sha256,
        verdict=str(decision.verdict),
        counts=counts,
        reason=reason,
        why=why,
        message=decision.message,
    )
