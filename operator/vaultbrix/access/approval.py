"""Whether a rule may open as far as approval goes: decided on exactly what it gives, by somebody else. Pure.

Operator and agents ask this of spec and metadata alone, on their own. What is in a status decides nothing.
"""

from collections.abc import Iterable
from datetime import datetime

from vaultbrix.access.terms import deadline_of, length_of, terms_sha256
from vaultbrix.api.accessrule import AccessDecision, AccessPhase, AccessRule
from vaultbrix.api.conditions import ConditionType, Reason, find_condition
from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import AccessApproval, PostgresServer

SHORT = 8
"""How much of a sha256 people are shown, and type."""

_WAITING = frozenset({Reason.APPROVAL_NEEDED, Reason.APPROVAL_OUTDATED, Reason.SELF_APPROVAL})


def asked_by(rule: AccessRule, person: str) -> bool:
    """Whether the person asked for the access, or is one of those who did."""
    asked = rule.spec.requested_by
    return person in (asked, *asked.split(","))


def denied(rule: AccessRule) -> AccessDecision | None:
    """The decision that denied the rule for good, whatever has been edited since; None where there is none."""
    decision = rule.spec.decision
    if decision is None or decision.verdict is not Verdict.DENIED or asked_by(rule, decision.by):
        return None
    return decision


def approval(rule: AccessRule) -> AccessDecision | None:
    """The decision that approved exactly what the rule gives now; None where there is none."""
    decision = rule.spec.decision
    if decision is None or decision.verdict is not Verdict.APPROVED or asked_by(rule, decision.by):
        return None
    return decision if decision.sha256 == terms_sha256(rule) else None


def needs_nobody(rule: AccessRule, server: PostgresServer) -> bool:
    """Whether the server lets a rule of this length open without an approval."""
    if server.spec.access_approval is not AccessApproval.REQUIRED:
        return True
    most = server.spec.auto_approve_up_to
    return most is not None and length_of(rule) <= most


def approved(rule: AccessRule, server: PostgresServer) -> bool:
    """Whether the rule may open as far as approval goes."""
    return needs_nobody(rule, server) or approval(rule) is not None


def acceptance(rule: AccessRule, server: PostgresServer) -> tuple[Reason, str]:
    """Of a rule that may open: by whose decision, as a reason and a clause to go on with; empty where none is asked."""
    if server.spec.access_approval is not AccessApproval.REQUIRED:
        return Reason.ACCEPTED, ""
    decision = approval(rule)
    if decision is not None:
        return Reason.APPROVED, f"; approved by {decision.by}"
    return Reason.AUTO_APPROVED, "; so short that it needs no approval (spec.autoApproveUpTo)"


def objection(rule: AccessRule, server: PostgresServer) -> tuple[Reason, str] | None:
    """Why the rule has to wait for an approval, and for whose; None where it may open."""
    if approved(rule, server):
        return None
    sha256, decision = terms_sha256(rule), rule.spec.decision
    how = (
        f"somebody else than {rule.spec.requested_by} decides: vaultbrix approve {rule.metadata.name} "
        f"-n {rule.metadata.namespace} (status.sha256 {sha256})"
    )
    if decision is not None and asked_by(rule, decision.by):
        return Reason.SELF_APPROVAL, f"{decision.by} asked for this access, so their decision does not count; {how}"
    if decision is not None:
        return (
            Reason.APPROVAL_OUTDATED,
            f"{decision.by} approved what the rule gave before it was edited (sha256 {decision.sha256[:SHORT]}), not "
            f"what it gives now, so it gives nothing; {how}",
        )
    name = server.metadata.name
    return Reason.APPROVAL_NEEDED, f"PostgresServer {name} wants an approval (spec.accessApproval); {how}"


def closes_until_approved(rule: AccessRule, edited: AccessRule, server: PostgresServer | None) -> bool:
    """Whether an edit would take away what the rule gives until it is approved anew.

    ``server`` is None where it may not be read; then what the operator last said of the rule counts.
    """
    if server is not None:
        return approved(rule, server) and not approved(edited, server)
    accepted = find_condition(rule.status.conditions, ConditionType.ACCEPTED)
    by_itself = accepted is not None and accepted.reason == Reason.AUTO_APPROVED
    return (by_itself or approval(rule) is not None) and terms_sha256(edited) != terms_sha256(rule)


def unguarded(rules: Iterable[AccessRule]) -> dict[str, str]:
    """uid → why a rule's approval does not count, as the operator last said."""
    accepted = ((rule.metadata.uid, find_condition(rule.status.conditions, ConditionType.ACCEPTED)) for rule in rules)
    return {uid: said.message for uid, said in accepted if said and said.reason == Reason.DECISION_UNGUARDED}


def waits_for_decision(rule: AccessRule) -> bool:
    """Whether the rule waits for somebody's decision, as the operator last said."""
    accepted = find_condition(rule.status.conditions, ConditionType.ACCEPTED)
    return rule.status.phase is AccessPhase.PENDING and accepted is not None and accepted.reason in _WAITING


def decision_refused(rule: AccessRule, by: str, now: datetime) -> str | None:
    """Why a decision of that person on the rule as it is would not count, as a predicate; None where it would."""
    status, decision = rule.status, rule.spec.decision
    if decision is not None and decision.verdict is Verdict.DENIED:
        return f"was denied by {decision.by}, which is final; nothing is left to decide"
    if rule.spec.revoked or rule.deleting:
        return "was revoked, so nothing is left to decide"
    if status.closed_at is not None or deadline_of(rule) <= now:
        ended = min(deadline_of(rule), status.closed_at or now)
        return f"ended at {rfc3339(ended)}, so nothing is left to decide"
    if asked_by(rule, by):
        return f"was asked for by {by}, who cannot decide on it; ask somebody else, or end it with vaultbrix revoke"
    if status.sha256 is None:
        return (
            "has not been looked at by the operator yet, so there is no sha256 to decide on; is the operator running?"
        )
    if status.sha256 != terms_sha256(rule):
        return (
            "has a status.sha256 that is not of what it gives: the operator has yet to look at its last change, or "
            "somebody else wrote it; look again soon"
        )
    if decision is not None and decision.sha256 == status.sha256:
        return f"was decided: {decision.verdict} by {decision.by}; that is written once for what a rule gives"
    return None
