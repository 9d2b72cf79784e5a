"""DDLApproval: parse, wait for the decision, run once, report. The ledger in the database is the only proof."""

import asyncio
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import psycopg

from vaultbrix.admission.guard import Guard
from vaultbrix.admission.policies import Policies
from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import (
    FINAL_PHASES,
    ApprovalPhase,
    DDLApproval,
    DDLApprovalStatus,
    Execution,
    ExecutionError,
)
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.audit.trail.controller import Trails
from vaultbrix.ddl.decisions import (
    ApprovalVerdict,
    RunState,
    Step,
    approval_status,
    blocked_status,
    decide,
    effect_grew,
    ended_status,
    invalid_status,
    obstacle,
)
from vaultbrix.ddl.plan import Plan, RejectedText, plan
from vaultbrix.ddl.progress import needs_none
from vaultbrix.ddl.refusals.controller import Refusals
from vaultbrix.ddl.rehearsal import decisions as rehearsal
from vaultbrix.ddl.rehearsal.controller import Rehearsals
from vaultbrix.ddl.run import Run, RunContext, locate
from vaultbrix.ddl.sweep import sweep
from vaultbrix.ddl.trail import facts_of
from vaultbrix.ddl.watch import Watcher
from vaultbrix.kube.client import NotFound
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.resources import resource_type
from vaultbrix.kube.status import set_finalizer, write_status
from vaultbrix.kube.store import Change
from vaultbrix.runtime.errors import Blocked, Expected

FINALIZER = "vaultbrix.com/run"

# A run is looked at whenever something about it changed; this is for what nobody saw.
LOOK_AGAIN = timedelta(seconds=20)

WORKERS = 4

ApprovalKey = tuple[str, str]

# Each holds its text and more.
_planned = lru_cache(maxsize=32)(plan)


@dataclass(frozen=True)
class Runs:
    """What other subjects may use of this one."""

    context: RunContext
    rehearsing: Container[str]

    async def sweep(self, connection: psycopg.AsyncConnection) -> list[str]:
        """End on a server what approvals that are gone have left there; returns what that was, for people."""
        return await sweep(self.context, connection, self.rehearsing)


def register(registry: Registry, context: RunContext, policies: Policies) -> Runs:
    """Have DDLApprovals taken to their end, rehearsed on the way, and made of refusals where a Tenant asks for it."""
    controller = ApprovalController(registry, context, Guard(policies, DDLApproval.crd.kind))
    registry.on_change(DDLApproval, controller.approval_changed)
    registry.on_change(Tenant, controller.tenant_changed)
    registry.on_change(PostgresServer, controller.server_changed)
    registry.on_resync(controller.resync)
    policies.on_change(lambda _: controller.resync())
    Refusals(registry, context.kube, context.cache, context.admin)
    return Runs(context, controller.rehearsals.logins)


class ApprovalController:
    """Works on approvals."""

    def __init__(self, registry: Registry, context: RunContext, guard: Guard) -> None:
        self._context = context
        self._guard = guard
        self._queue = registry.queue("DDLApproval", self.reconcile, workers=WORKERS)
        self.rehearsals = Rehearsals(registry, context.cache, context.admin, self._queue.add)
        self.watcher = Watcher(registry, context, self._queue.add)
        cache = context.cache
        self._trails = Trails(
            registry, context.kube, cache, context.admin, cache.approvals, self._queue.add, name="ApprovalTrail"
        )

    def approval_changed(self, change: Change[DDLApproval]) -> None:
        """Look at the approval."""
        if not change.own:
            self._queue.add(change.resource.key)
        if change.gone:
            self._forget(change.resource)
            self._trails.forget(change.resource)

    def tenant_changed(self, change: Change[Tenant]) -> None:
        """Look at all approvals of the Tenant."""
        approvals = self._context.cache.approvals_of(change.resource.key) if change.decisive else []
        for approval in approvals:
            self._queue.add(approval.key)
        if approvals:
            self.rehearsals.look_at(change.resource.spec.server_ref.name)

    def server_changed(self, change: Change[PostgresServer]) -> None:
        """Look at all open approvals of the server's Tenants."""
        if change.decisive:
            name = change.resource.metadata.name
            for approval, _ in self._context.cache.open_approvals(name):
                self._queue.add(approval.key)
            self.rehearsals.look_at(name)

    def resync(self) -> None:
        """Look at every approval."""
        for approval in self._context.cache.approvals:
            self._queue.add(approval.key)

    async def reconcile(self, key: ApprovalKey) -> datetime | None:
        """Take the approval one step further. Raises Expected after the status says so."""
        approval = self._context.cache.approvals.get(*key)
        if approval is None:
            return None
        now = datetime.now(UTC)
        try:
            return await self._advance(approval, now)
        finally:
            fresh = self._context.cache.approvals.get(*key)
            if fresh is not None:
                self._trails.schedule(fresh)
            tenant = self._context.cache.tenant_of(fresh) if fresh is not None else None
            if fresh is not None and tenant is not None:
                server = tenant.spec.server_ref.name
                if fresh.status.phase in (ApprovalPhase.APPROVED, ApprovalPhase.RUNNING):
                    self.watcher.schedule(server, now)
                self.rehearsals.schedule(fresh, server, now)

    async def _advance(self, known: DDLApproval, now: datetime) -> datetime | None:
        asked_at = self._context.kube.server_now()
        try:
            # Read afresh: what is decided here happens once, and must not rest on a stale copy.
            raw = await self._context.kube.get(resource_type(DDLApproval), *known.key)
        except NotFound:
            return None
        approval = DDLApproval.parse(raw)
        if approval.spec.decision is None:
            self._guard.saw_undecided(approval.metadata, asked_at)
        started = FINALIZER in approval.metadata.finalizers
        if approval.deleting:
            await self._end(approval, now, started=started)
            return None
        # Before its hash is shown, on which a decision rests.
        over = approval.status.phase in FINAL_PHASES and not started
        approval = await self._trails.hold(approval, facts_of(approval, approval.status, now), over=over)
        if over:
            approval = await self._tell(approval, ended_status(approval, now), now)
            await self._trails.release(approval, facts_of(approval, approval.status, now), over=True)
            return None
        try:
            tenant = self._context.cache.tenant_of(approval)
            planned = await asyncio.to_thread(_planned, approval.spec.sql, schema=tenant.role if tenant else None)
        except RejectedText as error:
            if started:
                # Begun by an operator that read it otherwise.
                await self._withdraw(approval, None)
            if approval.status.phase not in FINAL_PHASES:
                approval = await self._tell(approval, invalid_status(approval, error, now), now)
            if started:
                await self._release(approval)
            return None
        work = _Work(self._context, self.rehearsals, self.watcher, self._guard, planned, now, self._tell)
        try:
            again = await work.advance(approval)
        except Expected as error:
            await work.report_blocked(approval, error)
            raise
        if work.ended:
            self._forget(approval)
        return again

    async def _end(self, approval: DDLApproval, now: datetime, *, started: bool) -> None:
        """End what was begun of one that is deleted, and let it go once that is on record."""
        executed = None
        if started:
            executed = await self._withdraw(approval, await self._read(approval))
        approval = await self._tell(approval, approval.status, now, executed=executed)
        if started:
            approval = await set_finalizer(self._context.kube, approval, FINALIZER, present=False)
        await self._trails.release(approval, facts_of(approval, approval.status, now), over=True)

    async def _tell(
        self, approval: DDLApproval, status: DDLApprovalStatus, now: datetime, *, executed: int | None = None
    ) -> DDLApproval:
        """Write a status together with what there is to tell of it."""
        trail = self._trails.next(approval, facts_of(approval, status, now, executed=executed), now)
        status = status.model_copy(update={"trail": trail})
        return await write_status(self._context.kube, self._context.cache, approval, status)

    async def _read(self, approval: DDLApproval) -> Plan | None:
        tenant = self._context.cache.tenant_of(approval)
        try:
            return await asyncio.to_thread(_planned, approval.spec.sql, schema=tenant.role if tenant else None)
        except RejectedText:
            return None

    async def _withdraw(self, approval: DDLApproval, planned: Plan | None) -> int:
        run = await locate(self._context, approval)
        return await run.withdraw(planned) if run is not None else 0

    async def _release(self, approval: DDLApproval) -> None:
        await set_finalizer(self._context.kube, approval, FINALIZER, present=False)

    def _forget(self, approval: DDLApproval) -> None:
        self.rehearsals.forget(approval)
        self.watcher.forget(approval)
        self._guard.forget(approval.metadata.uid)


@dataclass
class _Work:
    """One look at one approval, whose text is known to parse. ``ended`` says that it is at its end."""

    context: RunContext
    rehearsals: Rehearsals
    watcher: Watcher
    guard: Guard
    plan: Plan
    now: datetime
    tell: Callable[[DDLApproval, DDLApprovalStatus, datetime], Awaitable[DDLApproval]]
    ended: bool = False

    async def advance(self, approval: DDLApproval) -> datetime | None:
        """One step; returns when to look again."""
        started = FINALIZER in approval.metadata.finalizers
        run = await locate(self.context, approval) if started else None
        state = await run.gather(self.plan, self.watcher.progress(approval)) if run else RunState()
        tenant = self.context.cache.tenant_of(approval)
        orphaned = started and (tenant is None or tenant.deleting)
        if started and run is None and not orphaned:
            raise Blocked(
                Reason.SERVER_NOT_FOUND,
                "the PostgresServer that its run is on is gone; how it went is not known",
            )
        unneeded = needs_none(self.plan, approval.status.rehearsal)
        state = replace(state, unneeded=unneeded, orphaned=orphaned)
        # A pass is there, or was used, where the decision was taken over.
        taken = approval.spec.decision is None or state.pass_exists or state.executed > 0
        objection = None if taken else await self.guard.objection(approval.metadata)
        verdict = decide(approval, self.plan.sha256, state, self.now, objection=objection)
        if verdict.step in (Step.ISSUE, Step.OBSERVE):
            self.guard.take(approval.metadata)
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
            self.ended = True
        return None

    async def report_blocked(self, approval: DDLApproval, error: Expected) -> None:
        """Write why nothing goes on now."""
        fresh = self.context.cache.approvals.get(*approval.key) or approval
        await self.tell(fresh, blocked_status(fresh, self.plan, error, self.now), self.now)

    async def _start(self, approval: DDLApproval, verdict: ApprovalVerdict) -> datetime:
        # The deadline is written before anything happens, so that no crash gives the approval a second life.
        approval = await self._write(approval, verdict, RunState())
        expires_at = approval.status.expires_at
        if expires_at is None:
            return self.now
        tenant = self.context.cache.tenant_of(approval)
        server = self.context.cache.server_of(tenant)
        blocked = obstacle(server, tenant, approval.spec.tenant_ref.name)
        if blocked is not None:
            raise blocked
        assert tenant is not None
        assert server is not None
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
            verdict = await self._explain(approval, run, verdict, state.error)
        elif verdict.phase is ApprovalPhase.EXPIRED or state.orphaned:
            verdict = decide(approval, self.plan.sha256, state, self.now)
        return verdict, state

    async def _explain(
        self, approval: DDLApproval, run: Run, verdict: ApprovalVerdict, error: ExecutionError
    ) -> ApprovalVerdict:
        """Whether the gate refused because the effect has grown, found by another rehearsal."""
        expected = rehearsal.expected_drops(approval.status.rehearsal)
        # What it would say now is not worth holding up rules and tenants behind another rehearsal.
        if expected is None or run.tenant is None or self.rehearsals.busy(run.server):
            return verdict
        try:
            now = await self.rehearsals.rehearse(approval, run.tenant, run.server, self.plan, self.now)
        except Expected:
            return verdict
        more = rehearsal.grown(expected, now.drops)
        return effect_grew(more, error) if more else verdict

    async def _write(self, approval: DDLApproval, verdict: ApprovalVerdict, state: RunState) -> DDLApproval:
        if approval.status.phase in FINAL_PHASES and verdict.step is Step.NOTHING:
            return approval
        shown, rehearsed = self.rehearsals.of(approval), self.rehearsals.state(approval)
        status = approval_status(approval, self.plan, verdict, state, shown, rehearsed, self.now)
        return await self.tell(approval, status, self.now)
