"""Whether a rule may open as far as approval goes: decided on exactly what it gives, by somebody else. Pure.

Operator and agents ask this of spec and metadata alone, on their own. What is in a status decides nothing.
"""

from vaultbrix.access.terms import length_of, terms_sha256
from vaultbrix.api.accessrule import AccessDecision, AccessRule
from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.api.postgresserver import AccessApproval, PostgresServer

SHORT = 8
"""How much of a sha256 people are shown, and type."""


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


WAITING_REASONS = frozenset({Reason.APPROVAL_NEEDED, Reason.APPROVAL_OUTDATED, Reason.SELF_APPROVAL})
