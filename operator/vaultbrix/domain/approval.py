"""DDLApproval decisions: from the object and what the world says about its run to phase and next step."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import FINAL_PHASES, ApprovalPhase, DDLApproval, ExecutionError, Verdict
from vaultbrix.api.meta import rfc3339


class Step(StrEnum):
    """What the controller does next."""

    NOTHING = "nothing"
    ISSUE = "issue a pass and start the Job"
    OBSERVE = "wait for the Job"
    CLOSE = "close the pass and remove login, Secret and Job"


@dataclass(frozen=True)
class RunState:
    """What is known of a run. ``ledger`` is true once the text's own transaction committed."""

    ledger: bool = False
    job_exists: bool = False
    job_failed: bool = False
    error: ExecutionError | None = None


@dataclass(frozen=True)
class ApprovalVerdict:
    """Phase, why, and the next step."""

    phase: ApprovalPhase
    reason: Reason
    message: str
    step: Step


LOGIN_PREFIX = "vaultbrix_d_"


def login_name(uid: str) -> str:
    """The one-time login of an approval's Job; derived, so that agent and operator agree without talking.

    No Tenant can have it: a tenant's role begins with ``tenant_``.
    """
    return LOGIN_PREFIX + uid.replace("-", "")


def login_uid(login: str) -> str:
    """The uid of the approval that a one-time login belongs to. Raises ValueError for any other name."""
    return str(UUID(login.removeprefix(LOGIN_PREFIX)))


def refused_decision(approval: DDLApproval, sha256: str) -> tuple[Reason, str] | None:
    """Why a decision does not count, or None where there is none or it counts."""
    decision = approval.spec.decision
    if decision is None:
        return None
    if decision.by == approval.spec.requested_by:
        return (
            Reason.SELF_APPROVAL,
            f"{decision.by} asked for this change and cannot decide on it; another admin decides on a new DDLApproval",
        )
    if decision.sha256 != sha256:
        return (
            Reason.OUTDATED_DECISION,
            f"spec.decision.sha256 is not that of this text ({sha256}); decide on a new DDLApproval, "
            "with status.sha256 as shown",
        )
    return None


def decide(approval: DDLApproval, sha256: str, run: RunState, now: datetime) -> ApprovalVerdict:
    """Where the approval stands. The text is known to parse; ``sha256`` is its hash.

    The ledger row, written in the DDL's own transaction, is the only proof of success, and it wins over
    everything that Jobs and clocks say.
    """
    status = approval.status
    if run.ledger and status.phase is not ApprovalPhase.SUCCEEDED:
        return ApprovalVerdict(ApprovalPhase.SUCCEEDED, Reason.SUCCEEDED, "the text ran and committed", Step.CLOSE)
    if status.phase in FINAL_PHASES:
        return ApprovalVerdict(status.phase, Reason.WAITING, "", Step.NOTHING)
    if run.job_failed:
        error = run.error
        reason = Reason.STATEMENT_FAILED if error and error.sqlstate else Reason.JOB_FAILED
        text = error.message if error else "the Job failed"
        if error and error.statement:
            text = f"statement {error.statement}: {error.sqlstate} {text}"
        return ApprovalVerdict(ApprovalPhase.FAILED, reason, text, Step.CLOSE)
    if run.job_exists:
        return ApprovalVerdict(ApprovalPhase.RUNNING, Reason.RUNNING, "the Job runs the text", Step.OBSERVE)
    decision = approval.spec.decision
    if decision is None:
        return ApprovalVerdict(
            ApprovalPhase.PENDING,
            Reason.UNDECIDED,
            f"waits for spec.decision with sha256 {sha256}",
            Step.NOTHING,
        )
    refused = refused_decision(approval, sha256)
    if refused is not None:
        return ApprovalVerdict(ApprovalPhase.DENIED, *refused, Step.CLOSE)
    if decision.verdict is Verdict.DENIED:
        text = f"denied by {decision.by}" + (f": {decision.message}" if decision.message else "")
        return ApprovalVerdict(ApprovalPhase.DENIED, Reason.DENIED, text, Step.CLOSE)
    if status.expires_at is not None and now >= status.expires_at:
        return ApprovalVerdict(
            ApprovalPhase.EXPIRED,
            Reason.EXPIRED,
            f"the approval ended at {rfc3339(status.expires_at)}",
            Step.CLOSE,
        )
    return ApprovalVerdict(ApprovalPhase.APPROVED, Reason.APPROVED, f"approved by {decision.by}", Step.ISSUE)
