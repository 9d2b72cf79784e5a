"""Runs that are under way: all of a server looked at together, each brought back to work when something changed."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from vaultbrix.api.conditions import ConditionType, Reason, is_true
from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval, Execution, Progress
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.ddl import activity
from vaultbrix.ddl.decisions import login_name
from vaultbrix.ddl.plan import Plan, plan
from vaultbrix.ddl.progress import progress_of
from vaultbrix.ddl.run import job_ended, run_name
from vaultbrix.kube.cache import Context, Key
from vaultbrix.kube.client import JOBS
from vaultbrix.postgres.admin import admin_connection
from vaultbrix.runtime.errors import Blocked

LOOK_EVERY = timedelta(seconds=1)
# The tenant may take days; each look leaves lines in the server's log.
_LOOK_AT_SESSIONS_EVERY = timedelta(seconds=10)
# Progress alone is no reason to write more often.
_TELL_EVERY = timedelta(seconds=2)

_UNDER_WAY = frozenset({ApprovalPhase.APPROVED, ApprovalPhase.RUNNING})
_JOBS = "app.kubernetes.io/managed-by=vaultbrix"


@dataclass(frozen=True)
class _Known:
    """How a run stood when it was last told, and since when its progress has been told."""

    state: tuple[object, ...]
    progress: Progress | None
    told_at: datetime


class Watcher:
    """Looks at runs and remembers how they stood."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._plans: dict[str, Plan] = {}

    def progress(self, approval: DDLApproval) -> Progress | None:
        """What the run is at, as last told."""
        known = self._known.get(approval.metadata.uid)
        return known.progress if known else None

    async def look(self, context: Context, server: PostgresServer, now: datetime) -> tuple[list[Key], datetime | None]:
        """The approvals to work on, and when to look again: never while nothing is under way."""
        mine = [
            approval
            for tenant in context.tenants_of(server.metadata.name)
            for approval in context.approvals.of(tenant.key)
            if approval.status.phase in _UNDER_WAY and not approval.deleting
        ]
        uids = {approval.metadata.uid for approval in mine}
        if not uids:
            return [], None
        if not is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
            raise Blocked(Reason.SERVER_NOT_READY, f"PostgresServer {server.metadata.name} is not ready")
        jobs: dict[str, bool] = {}
        any_job = any(approval.spec.execution is Execution.JOB for approval in mine)
        if any_job:
            answer = await context.kube.list(JOBS, context.settings.namespace, labels=_JOBS)
            jobs = {job["metadata"]["name"]: job_ended(job) for job in answer.get("items", [])}
        async with admin_connection(context.kube, server) as connection:
            seen = await activity.see(connection, {uid: login_name(uid) for uid in uids})
        for approval in mine:
            uid = approval.metadata.uid
            if seen[uid].activity is not None and uid not in self._plans:
                self._plans[uid] = await asyncio.to_thread(plan, approval.spec.sql)
        changed = [
            Key("DDLApproval", *approval.key)
            for approval in mine
            if self._news(approval, seen[approval.metadata.uid], jobs.get(run_name(approval.metadata.uid)), now)
        ]
        return changed, now + (LOOK_EVERY if any_job else _LOOK_AT_SESSIONS_EVERY)

    def forget(self, approval: DDLApproval) -> None:
        """Of one that is gone or over."""
        self._known.pop(approval.metadata.uid, None)
        self._plans.pop(approval.metadata.uid, None)

    def _news(self, approval: DDLApproval, seen: activity.Seen, ended: bool | None, now: datetime) -> bool:
        uid = approval.metadata.uid
        known = self._known.get(uid)
        state = (seen.whole, seen.steps, seen.next_stmt, seen.complete, ended)
        progress = None
        if seen.activity is not None and not ended:
            at, last = seen.activity, known.progress if known else None
            progress = progress_of(self._plans[uid], dict(seen.steps), at.query, at.phase, at.done, at.total, last)
        quiet = progress is None or (known is not None and now - known.told_at < _TELL_EVERY)
        if known is not None and state == known.state and (progress == known.progress or quiet):
            return False
        self._known[uid] = _Known(state, progress, now)
        return True
