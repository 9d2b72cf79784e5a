"""DDLApproval: parse, wait for the decision, run once, report. The ledger in the database is the only proof."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache

from vaultbrix.api.conditions import Condition, ConditionType, Reason, is_true
from vaultbrix.api.ddlapproval import (
    FINAL_PHASES,
    ApprovalPhase,
    DDLApproval,
    DDLApprovalStatus,
    Execution,
    ExecutionError,
    Verdict,
)
from vaultbrix.ddl.decisions import ApprovalVerdict, RunState, Step, decide, effect_grew, refused_decision
from vaultbrix.ddl.plan import Plan, RejectedText, plan
from vaultbrix.ddl.rehearsal import decisions as rehearsal
from vaultbrix.ddl.rehearsal.controller import Rehearsals
from vaultbrix.ddl.run import Run, locate
from vaultbrix.ddl.watch import Watcher
from vaultbrix.kube.cache import Context
from vaultbrix.kube.client import NotFound, resource_type
from vaultbrix.kube.status import Conditions, set_finalizer, write_status
from vaultbrix.runtime.errors import Blocked, Expected

FINALIZER = "vaultbrix.com/run"

# A run is looked at whenever something about it changed; this is for what nobody saw.
LOOK_AGAIN = timedelta(seconds=20)


# Each holds its text and more.
_planned = lru_cache(maxsize=32)(plan)


@dataclass(frozen=True)
class Parts:
    """What is done for approvals beside their own controller, each part with its own memory."""

    rehearsals: Rehearsals = field(default_factory=Rehearsals)
    watcher: Watcher = field(default_factory=Watcher)

    def forget(self, approval: DDLApproval) -> None:
        """Of one that is gone."""
        self.rehearsals.forget(approval)
        self.watcher.forget(approval)


async def reconcile(context: Context, parts: Parts, known: DDLApproval, now: datetime) -> datetime | None:
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
            run = await locate(context, approval)
            if run is not None:
                await run.withdraw()
            await set_finalizer(context.kube, approval, FINALIZER, present=False)
        return None
    if approval.status.phase in FINAL_PHASES and not started:
        return None
    try:
        tenant = context.tenants.get(approval.metadata.namespace, approval.spec.tenant_ref.name)
        planned = await asyncio.to_thread(_planned, approval.spec.sql, schema=tenant.role if tenant else None)
    except RejectedText as error:
        if started:
            # Begun by an operator that read it otherwise.
            run = await locate(context, approval)
            if run is not None:
                await run.withdraw()
        if approval.status.phase not in FINAL_PHASES:
            approval = await _invalid(context, approval, error, now)
        if started:
            await set_finalizer(context.kube, approval, FINALIZER, present=False)
        return None
    work = _Work(context, parts, planned, now)
    try:
        return await work.advance(approval)
    except Expected as error:
        await work.fail(approval, error)
        raise


@dataclass(frozen=True)
class _Work:
    """One look at one approval, whose text is known to parse."""

    context: Context
    parts: Parts
    plan: Plan
    now: datetime

    async def advance(self, approval: DDLApproval) -> datetime | None:
        started = FINALIZER in approval.metadata.finalizers
        run = await locate(self.context, approval) if started else None
        state = await run.gather(self.plan, self.parts.watcher.progress(approval)) if run else RunState()
        tenant = self.context.tenants.get(approval.metadata.namespace, approval.spec.tenant_ref.name)
        orphaned = started and (tenant is None or tenant.deleting)
        if started and run is None and not orphaned:
            raise Blocked(
                Reason.SERVER_NOT_FOUND,
                "the PostgresServer that its run is on is gone; how it went is not known",
            )
        state = replace(state, unneeded=not self.plan.gated and not _nested(approval), orphaned=orphaned)
        verdict = decide(approval, self.plan.sha256, state, self.now)
        if verdict.step is Step.ISSUE:
            return await self._start(approval, verdict)
        if verdict.step is Step.CLOSE and run is not None:
            verdict, state = await self._close(approval, run, verdict, state)
        approval = await self._write(approval, verdict, state)
        if verdict.step is Step.OBSERVE:
            again = self.now + LOOK_AGAIN
            ends = approval.status.expires_at if approval.spec.execution is Execution.SESSION else None
            return min(again, ends) if ends else again
        if verdict.phase in FINAL_PHASES:
            await set_finalizer(self.context.kube, approval, FINALIZER, present=False)
            self.parts.forget(approval)
        return None

    async def _start(self, approval: DDLApproval, verdict: ApprovalVerdict) -> datetime:
        # The deadline is written before anything happens, so that no crash gives the approval a second life.
        approval = await self._write(approval, verdict, RunState())
        expires_at = approval.status.expires_at
        if expires_at is None:
            return self.now
        tenant = self.context.tenants.get(approval.metadata.namespace, approval.spec.tenant_ref.name)
        server = self.context.server_of(tenant) if tenant else None
        if (
            tenant is None
            or server is None
            or tenant.deleting
            or not is_true(tenant.status.conditions, ConditionType.PROVISIONED)
        ):
            raise Blocked(
                Reason.TENANT_NOT_READY,
                f"Tenant {approval.spec.tenant_ref.name} does not exist or is not provisioned; see its conditions",
            )
        if tenant.spec.suspended:
            raise Blocked(Reason.TENANT_SUSPENDED, f"Tenant {tenant.display} is suspended (spec.suspended)")
        approval = await set_finalizer(self.context.kube, approval, FINALIZER, present=True)
        if FINALIZER not in approval.metadata.finalizers:
            return self.now
        await Run(self.context, approval, tenant, server).start(self.plan, expires_at)
        return self.now

    async def _close(
        self, approval: DDLApproval, run: Run, verdict: ApprovalVerdict, state: RunState
    ) -> tuple[ApprovalVerdict, RunState]:
        """End it, and see what came of it up to the last moment."""
        closed = await run.close(self.plan)
        state = replace(state, ledger=closed.ledger, executed=closed.executed)
        if closed.ledger:
            return decide(approval, self.plan.sha256, state, self.now), state
        if verdict.reason is Reason.STATEMENT_FAILED and state.error and state.error.by_gate:
            verdict = await self._explain(approval, run, verdict)
        elif verdict.phase is ApprovalPhase.EXPIRED or state.orphaned:
            verdict = decide(approval, self.plan.sha256, state, self.now)
        return verdict, state

    async def _explain(self, approval: DDLApproval, run: Run, verdict: ApprovalVerdict) -> ApprovalVerdict:
        """Whether the gate refused because the effect has grown, found by another rehearsal."""
        expected = rehearsal.expected_drops(approval.status.rehearsal)
        # What it would say now is not worth holding up rules and tenants behind another rehearsal.
        if expected is None or run.tenant is None or self.parts.rehearsals.busy(run.server):
            return verdict
        try:
            now = await self.parts.rehearsals.rehearse(
                self.context, approval, run.tenant, run.server, self.plan, self.now
            )
        except Expected:
            return verdict
        more = rehearsal.grown(expected, now.drops)
        return effect_grew(more) if more else verdict

    async def _write(self, approval: DDLApproval, verdict: ApprovalVerdict, state: RunState) -> DDLApproval:
        if approval.status.phase in FINAL_PHASES and verdict.step is Step.NOTHING:
            return approval
        status = self._status(approval, verdict, state)
        return await write_status(self.context.kube, self.context.approvals, approval, status)

    async def fail(self, approval: DDLApproval, error: Expected) -> None:
        """Write why nothing goes on now."""
        fresh = self.context.approvals.get(*approval.key) or approval
        conditions = Conditions(approval, fresh.status.conditions, self.now)
        self._parsed(conditions)
        for type_ in (
            ConditionType.REHEARSED,
            ConditionType.DECIDED,
            ConditionType.PASS_ISSUED,
            ConditionType.EXECUTED,
        ):
            conditions.keep(type_)
        conditions.set(ConditionType.READY, False, error.reason, error.message)
        status = fresh.status.model_copy(update={"conditions": conditions.all()})
        await write_status(self.context.kube, self.context.approvals, fresh, status)

    def _status(self, approval: DDLApproval, verdict: ApprovalVerdict, state: RunState) -> DDLApprovalStatus:
        old, now = approval.status, self.now.replace(microsecond=0)
        decided = verdict.phase not in (ApprovalPhase.PENDING, ApprovalPhase.INVALID)
        decided_at = old.decided_at or (now if decided else None)
        ran = verdict.phase in (ApprovalPhase.SUCCEEDED, ApprovalPhase.FAILED)
        running = verdict.phase is ApprovalPhase.RUNNING
        approved = approval.spec.decision is not None and approval.spec.decision.verdict is Verdict.APPROVED
        by_job = approval.spec.execution is Execution.JOB
        started = running or ran or (state.executed > 0 and not by_job)
        error = state.error if verdict.phase is ApprovalPhase.FAILED else None
        return DDLApprovalStatus(
            observed_generation=approval.metadata.generation,
            phase=verdict.phase,
            sha256=self.plan.sha256,
            statements=list(self.plan.statements),
            decided_at=decided_at,
            expires_at=old.expires_at or (decided_at + approval.spec.valid_for if decided_at and approved else None),
            rehearsal=self.parts.rehearsals.of(approval),
            progress=state.progress if running else None,
            executed=max(old.executed, state.executed),
            job_name=old.job_name or (f"ddl-{approval.metadata.uid}" if (running or ran) and by_job else None),
            started_at=old.started_at or (now if started else None),
            finished_at=old.finished_at or (now if ran else None),
            error=_named(error, verdict),
            conditions=self._conditions(approval, verdict, state),
        )

    def _conditions(self, approval: DDLApproval, verdict: ApprovalVerdict, state: RunState) -> list[Condition]:
        phase = verdict.phase
        conditions = Conditions(approval, approval.status.conditions, self.now)
        self._parsed(conditions)
        self.parts.rehearsals.report(approval, conditions)
        decision = approval.spec.decision
        refused = refused_decision(approval, self.plan.sha256)
        if decision is None:
            conditions.set(ConditionType.DECIDED, False, Reason.UNDECIDED, "no admin has decided yet")
        elif refused is not None:
            conditions.set(ConditionType.DECIDED, False, *refused)
        else:
            conditions.set(
                ConditionType.DECIDED, True, Reason(str(decision.verdict)), f"{decision.verdict} by {decision.by}"
            )
        issued = phase is ApprovalPhase.RUNNING or (phase is ApprovalPhase.APPROVED and state.pass_exists)
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

    def _parsed(self, conditions: Conditions) -> None:
        count = len(self.plan.statements)
        conditions.set(ConditionType.PARSED, True, Reason.PARSED, f"{count} statement{'s' if count > 1 else ''}")


async def _invalid(context: Context, approval: DDLApproval, error: RejectedText, now: datetime) -> DDLApproval:
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
    return await write_status(context.kube, context.approvals, approval, status)


def _nested(approval: DDLApproval) -> bool:
    decision = approval.spec.decision
    return decision is not None and decision.allow_nested


def _named(error: ExecutionError | None, verdict: ApprovalVerdict) -> ExecutionError | None:
    """The error with what is known better than PostgreSQL's own words say it."""
    if error is None or verdict.reason not in (Reason.EFFECT_GREW, Reason.INTERRUPTED):
        return error
    return error.model_copy(update={"message": verdict.message[:1024]})
