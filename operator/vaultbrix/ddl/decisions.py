"""DDLApproval decisions: from the object and what the world says about its run to phase and next step."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from vaultbrix.admission.decisions import Objection
from vaultbrix.api.conditions import (
    Condition,
    ConditionType,
    Reason,
    State,
    conditions,
    failed_states,
    find_condition,
    is_true,
    ready_states,
)
from vaultbrix.api.ddlapproval import (
    FINAL_PHASES,
    ApprovalPhase,
    DDLApproval,
    DDLApprovalStatus,
    Execution,
    ExecutionError,
    Progress,
    Rehearsal,
    Verdict,
)
from vaultbrix.api.login_names import JOB_LOGIN_PREFIX, job_login
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.parse.text import RejectedText
from vaultbrix.ddl.plan import Plan
from vaultbrix.runtime.counted import verb
from vaultbrix.runtime.errors import Blocked, Expected


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
    ``unfinished`` is the place of one outside a transaction that was begun and of which nobody said how it ended, and
    ``left`` what it may have left behind, in words.
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
    left: str = ""
    error: ExecutionError | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class ApprovalVerdict:
    """Phase, why, and the next step."""

    phase: ApprovalPhase
    reason: Reason
    message: str
    step: Step


def run_name(uid: str) -> str:
    """Name of an approval's Job and Secret."""
    return f"ddl-{uid}"


LOGIN_PREFIX = JOB_LOGIN_PREFIX
REHEARSAL_PREFIX = "vaultbrix_r_"


def login_name(uid: str) -> str:
    """The one-time login of an approval's Job; derived, so that agent and operator agree without talking.

    No Tenant can have it: a tenant's role begins with ``tenant_``.
    """
    return job_login(uid)


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


def decide(
    approval: DDLApproval, sha256: str, run: RunState, now: datetime, *, objection: Objection | None = None
) -> ApprovalVerdict:
    """Where the approval stands. The text is known to parse; ``sha256`` is its hash.

    ``objection`` says why a decision does not count that was not taken over yet.

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
    if objection is not None:
        phase, step = (ApprovalPhase.DENIED, Step.CLOSE) if objection.final else (ApprovalPhase.PENDING, Step.NOTHING)
        return ApprovalVerdict(phase, Reason.DECISION_UNGUARDED, objection.message, step)
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


def effect_grew(grown: list[str], error: ExecutionError | None = None) -> ApprovalVerdict:
    """A run that the gate refused because it would have taken along what was not there at the rehearsal.

    ``error`` is what the gate said, and at which statement.
    """
    names = ", ".join(grown[:_SHOWN]) + (f" and {len(grown) - _SHOWN} more" if len(grown) > _SHOWN else "")
    place = f"{error.place}: " if error and error.place else ""
    text = f"{place}nothing ran: besides what was shown it would now drop {names}; submit it again in a new DDLApproval"
    return ApprovalVerdict(ApprovalPhase.FAILED, Reason.EFFECT_GREW, text, Step.CLOSE)


_SHOWN = 8


def _used(executed: int) -> str:
    return f"{executed} of its gated statements ran so far" if executed else "none of its gated statements ran so far"


def _ran(executed: int) -> str:
    return f"{executed} of its statements took effect" if executed else "none of its statements took effect"


def _failed(run: RunState) -> ApprovalVerdict:
    error = run.error or ExecutionError(message="the Job failed")
    before = (
        f"; the {run.executed} before it took effect and {verb(run.executed, 'stays', 'stay')}" if run.executed else ""
    )
    look = f"Look at {run.left or 'the objects that it names'}"
    if run.unfinished is not None and not error.sqlstate:
        text = (
            f"{error.place or f'statement {run.unfinished}'}: it was begun and nobody knows whether it took effect"
            f"{before}; nothing is run twice. {look}; then submit what is left"
        )
        return ApprovalVerdict(ApprovalPhase.FAILED, Reason.INTERRUPTED, text, Step.CLOSE)
    if not error.statement:
        reason = Reason.STATEMENT_FAILED if error.sqlstate else Reason.JOB_FAILED
        return ApprovalVerdict(ApprovalPhase.FAILED, reason, error.message, Step.CLOSE)
    text = f"{error.in_one_line}{before}"
    if error.statement == run.unfinished:
        text += f"; it ran outside a transaction and may have done a part of its work. {look}"
    reason = Reason.STATEMENT_FAILED if error.sqlstate else Reason.JOB_FAILED
    return ApprovalVerdict(ApprovalPhase.FAILED, reason, text, Step.CLOSE)


def approval_status(
    approval: DDLApproval,
    plan: Plan,
    verdict: ApprovalVerdict,
    run: RunState,
    rehearsal: Rehearsal | None,
    rehearsed: State,
    now: datetime,
) -> DDLApprovalStatus:
    """The whole status of an approval whose text is understood. ``rehearsed`` is what condition Rehearsed says."""
    old, now = approval.status, now.replace(microsecond=0)
    decided = verdict.phase not in (ApprovalPhase.PENDING, ApprovalPhase.INVALID)
    decided_at = old.decided_at or (now if decided else None)
    ran = verdict.phase in (ApprovalPhase.SUCCEEDED, ApprovalPhase.FAILED)
    running = verdict.phase is ApprovalPhase.RUNNING
    approved = approval.spec.decision is not None and approval.spec.decision.verdict is Verdict.APPROVED
    by_job = approval.spec.execution is Execution.JOB
    started = running or ran or (run.executed > 0 and not by_job)
    error = run.error if verdict.phase is ApprovalPhase.FAILED else None
    executed = State(verdict.phase is ApprovalPhase.SUCCEEDED, verdict.reason, verdict.message)
    return DDLApprovalStatus(
        observed_generation=approval.metadata.generation,
        phase=verdict.phase,
        sha256=plan.sha256,
        statements=list(plan.statements),
        decided_at=decided_at,
        expires_at=old.expires_at or (decided_at + approval.spec.valid_for if decided_at and approved else None),
        rehearsal=rehearsal,
        progress=run.progress if running else None,
        executed=max(old.executed, run.executed),
        job_name=old.job_name or (run_name(approval.metadata.uid) if (running or ran) and by_job else None),
        started_at=old.started_at or (now if started else None),
        finished_at=old.finished_at or (now if ran else None),
        error=_named(error, verdict),
        conditions=_conditions(
            approval,
            {
                ConditionType.PARSED: _parsed(plan),
                ConditionType.REHEARSED: rehearsed,
                ConditionType.DECIDED: _decided(approval, plan.sha256, verdict),
                ConditionType.PASS_ISSUED: _pass_issued(verdict.phase, run),
                ConditionType.EXECUTED: executed,
                **_readiness(verdict.phase, executed),
            },
            now,
        ),
    )


def blocked_status(approval: DDLApproval, plan: Plan, failure: Expected, now: datetime) -> DDLApprovalStatus:
    """The status while something stands in the way of the next step: all else is as it was."""
    states = {
        ConditionType.PARSED: _parsed(plan),
        ConditionType.REHEARSED: None,
        ConditionType.DECIDED: None,
        ConditionType.PASS_ISSUED: None,
        ConditionType.EXECUTED: None,
        **ready_states(State(False, failure.reason, failure.message)),
    }
    generation = approval.metadata.generation
    return approval.status.model_copy(
        update={"observed_generation": generation, "conditions": _conditions(approval, states, now)}
    )


def invalid_status(approval: DDLApproval, error: RejectedText, now: datetime) -> DDLApprovalStatus:
    """The status of an approval whose text cannot be one."""
    reason = Reason.SYNTAX_ERROR if error.syntax else Reason.NOT_SUPPORTED
    state = State(False, reason, f"{error}; correct it in a new DDLApproval")
    return DDLApprovalStatus(
        observed_generation=approval.metadata.generation,
        phase=ApprovalPhase.INVALID,
        conditions=_conditions(approval, {ConditionType.PARSED: state, **failed_states(state)}, now),
    )


def _readiness(phase: ApprovalPhase, ready: State) -> dict[ConditionType, State]:
    """Ready and Stalled: one that has ended in any way but that its text ran will never be Ready."""
    ended = phase in FINAL_PHASES and phase is not ApprovalPhase.SUCCEEDED
    return failed_states(ready) if ended else ready_states(ready)


def ended_status(approval: DDLApproval, now: datetime) -> DDLApprovalStatus:
    """The status of an approval that is at its end and stays so: as it is, with Stalled beside its Ready."""
    status = approval.status
    ready = find_condition(status.conditions, ConditionType.READY)
    states: dict[ConditionType, State] = {}
    if status.phase is not None and ready is not None:
        reason = next((known for known in Reason if known == ready.reason), Reason.WAITING)
        states = _readiness(status.phase, State(ready.status == "True", reason, ready.message))
    states.pop(ConditionType.READY, None)
    kept = [one for one in status.conditions if one.type != ConditionType.STALLED]
    generation = approval.metadata.generation
    return status.model_copy(
        update={"observed_generation": generation, "conditions": [*kept, *_conditions(approval, states, now)]}
    )


def _conditions(approval: DDLApproval, states: Mapping[ConditionType, State | None], now: datetime) -> list[Condition]:
    return conditions(states, approval.status.conditions, generation=approval.metadata.generation, now=now)


def _parsed(plan: Plan) -> State:
    count = len(plan.statements)
    return State(True, Reason.PARSED, f"{count} statement{'s' if count > 1 else ''}")


def _decided(approval: DDLApproval, sha256: str, verdict: ApprovalVerdict) -> State:
    decision = approval.spec.decision
    if decision is None:
        return State(False, Reason.UNDECIDED, "no admin has decided yet")
    refused = refused_decision(approval, sha256)
    if refused is not None:
        return State(False, *refused)
    if verdict.reason is Reason.DECISION_UNGUARDED:
        return State(False, verdict.reason, verdict.message)
    return State(True, Reason(str(decision.verdict)), f"{decision.verdict} by {decision.by}")


def _pass_issued(phase: ApprovalPhase, run: RunState) -> State:
    if phase is ApprovalPhase.RUNNING or (phase is ApprovalPhase.APPROVED and run.pass_exists):
        return State(True, Reason.ISSUED, "the gate lets the text through once")
    reason = Reason.CLOSED if phase in FINAL_PHASES else Reason.WAITING
    return State(False, reason, "the gate lets nothing through for this approval")


def _named(error: ExecutionError | None, verdict: ApprovalVerdict) -> ExecutionError | None:
    """The error with what is known better than PostgreSQL's own words say it."""
    if error is None or verdict.reason not in (Reason.EFFECT_GREW, Reason.INTERRUPTED):
        return error
    return error.model_copy(update={"message": verdict.message.removeprefix(f"{error.place}: ")[:1024]})


def obstacle(server: PostgresServer | None, tenant: Tenant | None, name: str) -> Blocked | None:
    """What keeps texts of the Tenant of that name from running now."""
    if (
        tenant is None
        or server is None
        or tenant.deleting
        or not is_true(tenant.status.conditions, ConditionType.PROVISIONED)
    ):
        return Blocked(
            Reason.TENANT_NOT_READY, f"Tenant {name} does not exist or is not provisioned; see its conditions"
        )
    if tenant.spec.suspended:
        return Blocked(Reason.TENANT_SUSPENDED, f"Tenant {tenant.display} is suspended (spec.suspended)")
    return None
