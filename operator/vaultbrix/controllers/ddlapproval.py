"""DDLApproval: parse, wait for the decision, run once, report. The ledger in the database is the only proof."""

import asyncio
from datetime import datetime, timedelta
from functools import lru_cache

from vaultbrix.adapters.kube import NotFound, resource_type
from vaultbrix.api.conditions import Condition, ConditionType, Reason, is_true
from vaultbrix.api.ddlapproval import FINAL_PHASES, ApprovalPhase, DDLApproval, DDLApprovalStatus, Verdict
from vaultbrix.controllers.context import Context
from vaultbrix.controllers.ddlrun import Run
from vaultbrix.controllers.status import Conditions, set_finalizer, write_status
from vaultbrix.domain.approval import ApprovalVerdict, RunState, Step, decide, refused_decision
from vaultbrix.domain.ddlplan import Plan, RejectedText, plan
from vaultbrix.runtime.errors import Blocked, Expected

FINALIZER = "vaultbrix.com/run"

# How often a running Job is looked at.
OBSERVE_EVERY = timedelta(seconds=1)

_planned = lru_cache(maxsize=256)(plan)


async def reconcile(context: Context, known: DDLApproval, now: datetime) -> datetime | None:
    """Take the approval one step further. Raises Expected after the status says so."""
    try:
        # Read afresh: what is decided here happens once, and must not rest on a stale copy.
        raw = await context.kube.get(resource_type(DDLApproval), *known.key)
    except NotFound:
        return None
    approval = DDLApproval.parse(raw)
    started = FINALIZER in approval.metadata.finalizers
    if approval.deleting:
        if started:
            run = _run(context, approval)
            if run is not None:
                await run.withdraw()
            await set_finalizer(context.kube, approval, FINALIZER, present=False)
        return None
    if approval.status.phase in FINAL_PHASES and not started:
        return None
    try:
        planned = await asyncio.to_thread(_planned, approval.spec.sql)
    except RejectedText as error:
        await _invalid(context, approval, error, now)
        return None
    try:
        return await _advance(context, approval, planned, now)
    except Expected as error:
        await _failing(context, approval, planned, error, now)
        raise


async def _advance(context: Context, approval: DDLApproval, planned: Plan, now: datetime) -> datetime | None:
    run = _run(context, approval)
    started = FINALIZER in approval.metadata.finalizers
    state = await run.gather() if started and run is not None else RunState()
    verdict = decide(approval, planned.sha256, state, now)
    if verdict.step is Step.ISSUE:
        return await _start(context, approval, planned, verdict, now)
    if verdict.step is Step.CLOSE and started and run is not None and await run.close():
        verdict = decide(approval, planned.sha256, RunState(ledger=True), now)
    if verdict.phase is not approval.status.phase or verdict.step is not Step.NOTHING or not approval.status.sha256:
        status = _status(approval, planned, verdict, state, now)
        approval = await write_status(context.kube, context.approvals, approval, status)
    if verdict.step is Step.OBSERVE:
        return now + OBSERVE_EVERY
    if verdict.phase in FINAL_PHASES:
        await set_finalizer(context.kube, approval, FINALIZER, present=False)
    return None


async def _start(
    context: Context, approval: DDLApproval, planned: Plan, verdict: ApprovalVerdict, now: datetime
) -> datetime:
    # The deadline is written before anything happens, so that no crash gives the approval a second life.
    approval = await write_status(
        context.kube, context.approvals, approval, _status(approval, planned, verdict, RunState(), now)
    )
    expires_at = approval.status.expires_at
    if expires_at is None:
        return now
    approval = await set_finalizer(context.kube, approval, FINALIZER, present=True)
    run = _run(context, approval)
    if run is None or not is_true(run.tenant.status.conditions, ConditionType.PROVISIONED):
        raise Blocked(
            Reason.TENANT_NOT_READY,
            f"Tenant {approval.spec.tenant_ref.name} does not exist or is not provisioned; see its conditions",
        )
    if run.tenant.spec.suspended:
        raise Blocked(Reason.TENANT_SUSPENDED, f"Tenant {run.tenant.display} is suspended (spec.suspended)")
    await run.start(planned, expires_at)
    return now


def _run(context: Context, approval: DDLApproval) -> Run | None:
    tenant = context.tenants.get(approval.metadata.namespace, approval.spec.tenant_ref.name)
    server = context.server_of(tenant) if tenant else None
    return Run(context, approval, tenant, server) if tenant and server else None


async def _invalid(context: Context, approval: DDLApproval, error: RejectedText, now: datetime) -> None:
    reason = Reason.SYNTAX_ERROR if error.syntax else Reason.NOT_SUPPORTED
    message = f"{error}; correct it in a new DDLApproval"
    conditions = Conditions(approval, approval.status.conditions, now)
    conditions.set(ConditionType.PARSED, False, reason, message)
    conditions.set(ConditionType.READY, False, reason, message)
    status = DDLApprovalStatus(
        observed_generation=approval.metadata.generation,
        phase=ApprovalPhase.INVALID,
        conditions=conditions.all(),
    )
    await write_status(context.kube, context.approvals, approval, status)


async def _failing(context: Context, approval: DDLApproval, planned: Plan, error: Expected, now: datetime) -> None:
    conditions = Conditions(approval, approval.status.conditions, now)
    for type_ in (ConditionType.DECIDED, ConditionType.PASS_ISSUED, ConditionType.EXECUTED):
        conditions.keep(type_)
    conditions.set(ConditionType.PARSED, True, Reason.PARSED, f"{len(planned.statements)} statements")
    conditions.set(ConditionType.READY, False, error.reason, error.message)
    fresh = context.approvals.get(*approval.key) or approval
    status = fresh.status.model_copy(update={"conditions": conditions.all()})
    await write_status(context.kube, context.approvals, fresh, status)


def _status(
    approval: DDLApproval, planned: Plan, verdict: ApprovalVerdict, run: RunState, now: datetime
) -> DDLApprovalStatus:
    old = approval.status
    decided = verdict.phase not in (ApprovalPhase.PENDING, ApprovalPhase.INVALID)
    decided_at = old.decided_at or (now.replace(microsecond=0) if decided else None)
    running = verdict.phase is ApprovalPhase.RUNNING
    ran = verdict.phase in (ApprovalPhase.SUCCEEDED, ApprovalPhase.FAILED)
    approved = approval.spec.decision is not None and approval.spec.decision.verdict is Verdict.APPROVED
    return DDLApprovalStatus(
        observed_generation=approval.metadata.generation,
        phase=verdict.phase,
        sha256=planned.sha256,
        statements=list(planned.statements),
        decided_at=decided_at,
        expires_at=old.expires_at or (decided_at + approval.spec.valid_for if decided_at and approved else None),
        job_name=old.job_name or (f"ddl-{approval.metadata.uid}" if running or ran else None),
        started_at=old.started_at or (now.replace(microsecond=0) if running or ran else None),
        finished_at=old.finished_at or (now.replace(microsecond=0) if ran else None),
        error=run.error if verdict.phase is ApprovalPhase.FAILED else None,
        conditions=_conditions(approval, planned, verdict, now),
    )


def _conditions(approval: DDLApproval, planned: Plan, verdict: ApprovalVerdict, now: datetime) -> list[Condition]:
    phase = verdict.phase
    conditions = Conditions(approval, approval.status.conditions, now)
    conditions.set(ConditionType.PARSED, True, Reason.PARSED, f"{len(planned.statements)} statements")
    decision = approval.spec.decision
    refused = refused_decision(approval, planned.sha256)
    if decision is None:
        conditions.set(ConditionType.DECIDED, False, Reason.UNDECIDED, "no admin has decided yet")
    elif refused is not None:
        conditions.set(ConditionType.DECIDED, False, *refused)
    else:
        conditions.set(
            ConditionType.DECIDED, True, Reason(str(decision.verdict)), f"{decision.verdict} by {decision.by}"
        )
    issued = phase is ApprovalPhase.RUNNING
    conditions.set(
        ConditionType.PASS_ISSUED,
        issued,
        Reason.ISSUED if issued else Reason.CLOSED if phase in FINAL_PHASES else Reason.WAITING,
        "the gate lets the text through once" if issued else "the gate lets nothing through for this approval",
    )
    succeeded = phase is ApprovalPhase.SUCCEEDED
    for type_ in (ConditionType.EXECUTED, ConditionType.READY):
        conditions.set(type_, succeeded, verdict.reason, verdict.message)
    return conditions.all()
