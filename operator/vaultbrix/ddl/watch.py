"""Runs that are under way: all of a server looked at together, each brought back to work when something changed."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vaultbrix.api.conditions import ConditionType, Reason, is_true
from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval, Execution, Progress
from vaultbrix.ddl import activity
from vaultbrix.ddl.decisions import login_name, run_name
from vaultbrix.ddl.plan import Plan, plan
from vaultbrix.ddl.progress import progress_of
from vaultbrix.ddl.run import RunContext, job_ended
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.resources import JOBS
from vaultbrix.runtime.errors import Blocked

LOOK_EVERY = timedelta(seconds=1)
# The tenant may take days; each look leaves lines in the server's log.
_LOOK_AT_SESSIONS_EVERY = timedelta(seconds=10)
# Progress alone is no reason to write more often.
_PROGRESS_EVERY = timedelta(seconds=2)

_UNDER_WAY = frozenset({ApprovalPhase.APPROVED, ApprovalPhase.RUNNING})
_JOBS = "app.kubernetes.io/managed-by=vaultbrix"


@dataclass(frozen=True)
class _Known:
    """How a run stood when its approval was last brought back to work, and when that was."""

    state: tuple[object, ...]
    progress: Progress | None
    at: datetime


# A server that does not answer holds up those of two others at most.
WORKERS = 3

ApprovalKey = tuple[str, str]


class Watcher:
    """Looks at runs and remembers how they stood. ``moved`` is called with the key of an approval to work on."""

    def __init__(self, registry: Registry, context: RunContext, moved: Callable[[ApprovalKey], None]) -> None:
        self._context = context
        self._moved = moved
        self._known: dict[str, _Known] = {}
        self._plans: dict[str, Plan] = {}
        self._queue = registry.queue("Run", self._look, workers=WORKERS)

    def schedule(self, server: str, now: datetime) -> None:
        """Have the runs of a server looked at soon."""
        self._queue.add_at(server, now + LOOK_EVERY)

    def progress(self, approval: DDLApproval) -> Progress | None:
        """What the run is at, as last seen."""
        known = self._known.get(approval.metadata.uid)
        return known.progress if known else None

    async def _look(self, server_name: str) -> datetime | None:
        """See how the runs of a server stand; returns when to look again: never while nothing is under way."""
        context, now = self._context, datetime.now(UTC)
        server = context.cache.servers.get("", server_name)
        approvals = [
            approval
            for approval, _ in context.cache.open_approvals(server_name)
            if approval.status.phase in _UNDER_WAY and not approval.deleting
        ]
        uids = {approval.metadata.uid for approval in approvals}
        if server is None or not uids:
            return None
        if not is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
            raise Blocked(Reason.SERVER_NOT_READY, f"PostgresServer {server_name} is not ready")
        jobs: dict[str, bool] = {}
        any_job = any(approval.spec.execution is Execution.JOB for approval in approvals)
        if any_job:
            answer = await context.kube.list(JOBS, context.jobs.namespace, labels=_JOBS)
            jobs = {job["metadata"]["name"]: job_ended(job) for job in answer.get("items", [])}
        async with context.admin.connection(server) as connection:
            seen = await activity.see(connection, {uid: login_name(uid) for uid in uids})
        for approval in approvals:
            uid = approval.metadata.uid
            if seen[uid].activity is not None and uid not in self._plans:
                self._plans[uid] = await asyncio.to_thread(plan, approval.spec.sql)
            if self._news(approval, seen[uid], jobs.get(run_name(uid)), now):
                self._moved(approval.key)
        return now + (LOOK_EVERY if any_job else _LOOK_AT_SESSIONS_EVERY)

    def forget(self, approval: DDLApproval) -> None:
        """Drop what is kept of an approval that is gone or over."""
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
        quiet = progress is None or (known is not None and now - known.at < _PROGRESS_EVERY)
        if known is not None and state == known.state and (progress == known.progress or quiet):
            return False
        self._known[uid] = _Known(state, progress, now)
        return True
