"""DDLApproval decisions: from the object and what the world says about its run to phase and next step."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import (
    FINAL_PHASES,
    ApprovalPhase,
    DDLApproval,
    Execution,
    ExecutionError,
    Progress,
    Verdict,
)
from vaultbrix.api.meta import rfc3339


class Step(StrEnum):
    """What the controller does next."""

    NOTHING = "nothing"
    ISSUE = "issue a pass, and start the Job where there is to be one"
    OBSERVE = "wait for the Job, or for the tenant to use the pass"
    CLOSE = "close the pass and remove login, Secret and Job"


@dataclass(frozen=True)
class RunState:
    """What is known of a run from the ledger, the pass and the Job.

    ``ledger`` is true once all of the text took effect for good, and ``executed`` counts the statements that did;
    ``unfinished`` is the place of one outside a transaction that was begun and of which nobody said how it ended.
    ``unneeded``: nothing of the text asks for a pass. ``orphaned``: it was begun, and the Tenant is gone.
    """

    ledger: bool = False
    job_exists: bool = False
    job_failed: bool = False
    pass_exists: bool = False
    unneeded: bool = False
    orphaned: bool = False
    executed: int = 0
    unfinished: int | None = None
    error: ExecutionError | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class ApprovalVerdict:
    """Phase, why, and the next step."""

    phase: ApprovalPhase
    reason: Reason
    message: str
    step: Step


LOGIN_PREFIX = "vaultbrix_d_"
REHEARSAL_PREFIX = "vaultbrix_r_"


def login_name(uid: str) -> str:
    """The one-time login of an approval's Job; derived, so that agent and operator agree without talking.

    No Tenant can have it: a tenant's role begins with ``tenant_``.
    """
    return LOGIN_PREFIX + uid.replace("-", "")


def rehearsal_login(uid: str) -> str:
    """The login that an approval is rehearsed with; never that of its Job."""
    return REHEARSAL_PREFIX + uid.replace("-", "")


def login_uid(login: str) -> str:
    """The uid of the approval that a Job's login belongs to. Raises ValueError for any other name."""
    return str(UUID(login.removeprefix(LOGIN_PREFIX)))


def asked_for_by(approval: DDLApproval, person: str) -> bool:
    """Whether the person asked for the change, or is one of those who may have."""
    asked = approval.spec.requested_by
    return person in (asked, *asked.split(","))


def refused_decision(approval: DDLApproval, sha256: str) -> tuple[Reason, str] | None:
    """Why a decision does not count, or None where there is none or it counts.

    Where a refusal became a request and several people may have caused it, all are named and none of them decides.
    """
    decision = approval.spec.decision
    if decision is None:
        return None
    if asked_for_by(approval, decision.by):
        return (
            Reason.SELF_APPROVAL,
            f"{decision.by} asked for this change and cannot decide on it; another admin decides on a new DDLApproval",
        )
    if approval.status.sha256 is None:
        return (
            Reason.OUTDATED_DECISION,
            "it was decided before the operator had shown what it does; decide on a new DDLApproval, "
            "once status.sha256 is there",
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

    The ledger, written in the DDL's own transaction, is the only proof of success, and it wins over everything that
    Jobs and clocks say.
    """
    status, session = approval.status, approval.spec.execution is Execution.SESSION
    if run.ledger and status.phase is not ApprovalPhase.SUCCEEDED:
        text = "the tenant ran it" if session else "the text ran and committed"
        return ApprovalVerdict(ApprovalPhase.SUCCEEDED, Reason.SUCCEEDED, text, Step.CLOSE)
    if status.phase in FINAL_PHASES:
        return ApprovalVerdict(status.phase, Reason.WAITING, "", Step.NOTHING)
    if run.orphaned:
        text = f"Tenant {approval.spec.tenant_ref.name} was deleted meanwhile; {_ran(run.executed)}"
        return ApprovalVerdict(ApprovalPhase.FAILED, Reason.TENANT_NOT_FOUND, text, Step.CLOSE)
    if run.job_failed:
        return _failed(run)
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
        text = f"the approval ended at {rfc3339(status.expires_at)}"
        text += f"; {_used(run.executed)}" if session else ""
        return ApprovalVerdict(ApprovalPhase.EXPIRED, Reason.EXPIRED, text, Step.CLOSE)
    if session and run.unneeded:
        return ApprovalVerdict(
            ApprovalPhase.SUCCEEDED,
            Reason.SUCCEEDED,
            f"approved by {decision.by}; no statement of it asks for a pass: the tenant runs it as it is, at any time",
            Step.CLOSE,
        )
    if session and run.pass_exists:
        text = f"approved by {decision.by}; the tenant may run it, once; {_used(run.executed)}"
        return ApprovalVerdict(ApprovalPhase.APPROVED, Reason.ISSUED, text, Step.OBSERVE)
    return ApprovalVerdict(ApprovalPhase.APPROVED, Reason.APPROVED, f"approved by {decision.by}", Step.ISSUE)


def effect_grew(grown: list[str]) -> ApprovalVerdict:
    """A run that the gate refused because it would have taken along what was not there at the rehearsal."""
    names = ", ".join(grown[:_SHOWN]) + (f" and {len(grown) - _SHOWN} more" if len(grown) > _SHOWN else "")
    text = f"nothing ran: besides what was shown it would now drop {names}; submit it again in a new DDLApproval"
    return ApprovalVerdict(ApprovalPhase.FAILED, Reason.EFFECT_GREW, text, Step.CLOSE)


_SHOWN = 8


def _used(executed: int) -> str:
    return f"{executed} of its gated statements ran so far" if executed else "none of its gated statements ran so far"


def _ran(executed: int) -> str:
    return f"{executed} of its statements took effect" if executed else "none of its statements took effect"


def _failed(run: RunState) -> ApprovalVerdict:
    error = run.error
    text = error.message if error else "the Job failed"
    before = f"; the {run.executed} before it took effect and stay" if run.executed else ""
    if run.unfinished is not None and not (error and error.sqlstate):
        text = (
            f"statement {run.unfinished} was begun and nobody knows whether it took effect{before}; nothing is run "
            "twice. Look at the objects that it names, such as an INVALID index, and submit what is left"
        )
        return ApprovalVerdict(ApprovalPhase.FAILED, Reason.INTERRUPTED, text, Step.CLOSE)
    reason = Reason.STATEMENT_FAILED if error and error.sqlstate else Reason.JOB_FAILED
    if error and error.statement:
        text = f"statement {error.statement}: {error.sqlstate} {text}{before}"
        if error.statement == run.unfinished:
            text += "; it ran outside a transaction, so look for what it left, such as an INVALID index"
    return ApprovalVerdict(ApprovalPhase.FAILED, reason, text, Step.CLOSE)
