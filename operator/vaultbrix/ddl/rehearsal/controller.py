"""Rehearsals of approvals: one at a time for each server, since each holds the locks of the real thing."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg

from vaultbrix.api.conditions import ConditionType, Reason, State, is_true
from vaultbrix.api.ddlapproval import DDLApproval, Rehearsal
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.decisions import rehearsal_login
from vaultbrix.ddl.gate import dependents
from vaultbrix.ddl.plan import Plan, RejectedText, plan
from vaultbrix.ddl.rehearsal import decisions, runner
from vaultbrix.ddl.rehearsal.decisions import Effects
from vaultbrix.kube.cache import Cache, TenantKey
from vaultbrix.kube.registry import Registry
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Blocked, Expected

_PAUSE = timedelta(seconds=20)
# A server that does not answer holds up those of two others at most.
WORKERS = 3

ApprovalKey = tuple[str, str]


class Rehearsals:
    """Rehearses, and keeps what came of it until the approval's own controller has written it.

    ``changed`` is called with the key of an approval whose status may differ.
    """

    def __init__(self, registry: Registry, cache: Cache, admin: Admin, changed: Callable[[ApprovalKey], None]) -> None:
        self._cache = cache
        self._admin = admin
        self._changed = changed
        self._results: dict[str, Rehearsal] = {}
        self._obstacles: dict[str, Expected] = {}
        self._turns: dict[TenantKey, datetime] = {}
        self._again: dict[str, datetime] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._queue = registry.queue("Rehearsal", self._next, workers=WORKERS)
        self.logins: set[str] = set()
        """Logins of rehearsals that are under way."""

    def of(self, approval: DDLApproval) -> Rehearsal | None:
        """The rehearsal to show."""
        uid = approval.metadata.uid
        if self._results.get(uid) == approval.status.rehearsal:
            self._results.pop(uid, None)
        return self._results.get(uid) or approval.status.rehearsal

    def state(self, approval: DDLApproval) -> State:
        """What condition Rehearsed says."""
        waits = self._obstacles.get(approval.metadata.uid)
        state = decisions.verdict(approval, self.of(approval), waits.message if waits else "")
        return state._replace(reason=waits.reason) if waits is not None and state.reason is Reason.WAITING else state

    def look_at(self, server: str) -> None:
        """Have the next one of a server rehearsed, if it is due."""
        self._queue.add(server)

    def schedule(self, approval: DDLApproval, server: str, now: datetime) -> None:
        """Have the approval rehearsed when it is due."""
        due = self._due(approval, now)
        if due is not None:
            self._queue.add_at(server, due)

    def forget(self, approval: DDLApproval) -> None:
        """Drop what is kept of an approval that is gone or over."""
        for memory in (self._results, self._obstacles, self._again):
            memory.pop(approval.metadata.uid, None)

    def _due(self, approval: DDLApproval, now: datetime) -> datetime | None:
        uid = approval.metadata.uid
        if self._results.get(uid) not in (None, approval.status.rehearsal):
            return None
        when = decisions.due(approval, now)
        return max(when, self._again.get(uid, when)) if when is not None else None

    async def _next(self, server_name: str) -> datetime | None:
        """Rehearse the one whose turn it is; returns when to come again.

        Tenants take turns, so that nobody's pile holds up another's.
        """
        server, now = self._cache.servers.get("", server_name), datetime.now(UTC)
        if server is None:
            return None
        waiting = [
            (when, approval, tenant)
            for approval, tenant in self._cache.open_approvals(server_name)
            if (when := self._due(approval, now)) is not None
        ]
        ready = []
        for when, approval, tenant in waiting:
            obstacle = _obstacle(server, tenant)
            # What stood in the way of the last try stands until the next one.
            if (obstacle or approval.metadata.uid not in self._again) and self._set_obstacle(approval, obstacle):
                self._changed(approval.key)
            if obstacle is None and when <= now:
                ready.append((approval, tenant))
        if not ready:
            later = (when for when, _, tenant in waiting if when > now and not _obstacle(server, tenant))
            return min(later, default=None)
        approval, tenant = min(
            ready,
            key=lambda pair: (
                self._turns.get(pair[1].key, pair[1].metadata.creation_timestamp),
                pair[0].metadata.creation_timestamp,
                pair[0].key,
            ),
        )
        self._turns[tenant.key] = now
        uid = approval.metadata.uid
        try:
            planned = await asyncio.to_thread(plan, approval.spec.sql)
            self._results[uid] = await self.rehearse(approval, tenant, server, planned, now)
            self._again.pop(uid, None)
            self._obstacles.pop(uid, None)
        except (RejectedText, Expected) as error:
            self._again[uid] = now + _PAUSE
            if isinstance(error, Expected):
                self._set_obstacle(approval, error)
        self._changed(approval.key)
        return now

    async def rehearse(
        self, approval: DDLApproval, tenant: Tenant, server: PostgresServer, planned: Plan, now: datetime
    ) -> Rehearsal:
        """Run the text and roll it back. Raises Expected when that is not possible now."""
        login = rehearsal_login(approval.metadata.uid)
        order = runner.Rehearsal(login, tenant.role, planned, approval.spec.lock_timeout)
        async with self._locks.setdefault(server.metadata.name, asyncio.Lock()):
            self.logins.add(login)
            try:
                if not decisions.rehearsable(planned):
                    return decisions.shown(planned, Effects(0), now)
                target = await self._admin.target(server)
                async with self._admin.connection(server) as connection:
                    effects = await runner.rehearse(connection, target, order)
                    if effects.error is not None and effects.error.by_gate:
                        # Once more with what functions do let through, so that the approver sees it.
                        again = replace(order, allow_nested=True, pass_id=runner.new_pass())
                        nested = await runner.rehearse(connection, target, again)
                        effects = nested if nested.error is None else effects
                    if effects.drops:
                        effects = replace(effects, others=await _of_others(connection, tenant.role, effects))
            finally:
                self.logins.discard(login)
        return decisions.shown(planned, effects, now)

    def busy(self, server: PostgresServer) -> bool:
        """Whether one is under way there."""
        lock = self._locks.get(server.metadata.name)
        return lock is not None and lock.locked()

    def _set_obstacle(self, approval: DDLApproval, obstacle: Expected | None) -> bool:
        """Remember what an approval waits for; returns whether that is news."""
        uid = approval.metadata.uid
        before = self._obstacles.pop(uid, None)
        if obstacle is not None:
            self._obstacles[uid] = obstacle
        return str(before) != str(obstacle)


async def _of_others(connection: psycopg.AsyncConnection, role: str, effects: Effects) -> tuple[str, ...]:
    """Those of the drops that are somebody else's; everything stands again as it did before the rehearsal."""
    others = {going.of_others for going in await dependents.going(connection, role)}
    return tuple(sorted(others.intersection(effects.drops)))


def _obstacle(server: PostgresServer, tenant: Tenant) -> Blocked | None:
    if not is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
        return Blocked(
            Reason.SERVER_NOT_READY, f"PostgresServer {server.metadata.name} is not ready; see its conditions"
        )
    if tenant.deleting or not is_true(tenant.status.conditions, ConditionType.PROVISIONED):
        return Blocked(Reason.TENANT_NOT_READY, f"Tenant {tenant.display} is not provisioned; see its conditions")
    if tenant.spec.suspended:
        return Blocked(Reason.TENANT_SUSPENDED, f"Tenant {tenant.display} is suspended (spec.suspended)")
    return None
