"""Rehearsals of approvals: one at a time for each server, since each holds the locks of the real thing."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from vaultbrix.api.conditions import ConditionType, Reason, is_true
from vaultbrix.api.ddlapproval import DDLApproval, Rehearsal
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.decisions import rehearsal_login
from vaultbrix.ddl.plan import Plan, RejectedText, plan
from vaultbrix.ddl.rehearsal import decisions as rehearsal
from vaultbrix.ddl.rehearsal import runner
from vaultbrix.ddl.rehearsal.decisions import Effects
from vaultbrix.kube.cache import Context, Key
from vaultbrix.kube.status import Conditions
from vaultbrix.postgres.admin import admin_connection, admin_target
from vaultbrix.runtime.errors import Blocked, Expected

_PAUSE = timedelta(seconds=20)


class Rehearsals:
    """Rehearses, and keeps what it found until the approval's own controller has written it."""

    def __init__(self) -> None:
        self._found: dict[str, Rehearsal] = {}
        self._waits: dict[str, Expected] = {}
        self._turns: dict[tuple[str, str], datetime] = {}
        self._again: dict[str, datetime] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.logins: set[str] = set()

    def of(self, approval: DDLApproval) -> Rehearsal | None:
        """The rehearsal to show."""
        uid = approval.metadata.uid
        if self._found.get(uid) == approval.status.rehearsal:
            self._found.pop(uid, None)
        return self._found.get(uid) or approval.status.rehearsal

    def report(self, approval: DDLApproval, conditions: Conditions) -> None:
        """Set condition Rehearsed, which nobody else does."""
        waits = self._waits.get(approval.metadata.uid)
        status, reason, message = rehearsal.verdict(approval, self.of(approval), waits.message if waits else "")
        if waits is not None and reason is Reason.WAITING:
            reason = waits.reason
        conditions.set(ConditionType.REHEARSED, status, reason, message)

    def forget(self, approval: DDLApproval) -> None:
        """Of one that is gone."""
        for memory in (self._found, self._waits, self._again):
            memory.pop(approval.metadata.uid, None)

    def due(self, approval: DDLApproval, now: datetime) -> datetime | None:
        """When it is to be rehearsed."""
        uid = approval.metadata.uid
        if self._found.get(uid) not in (None, approval.status.rehearsal):
            return None
        when = rehearsal.due(approval, now)
        return max(when, self._again.get(uid, when)) if when is not None else None

    async def next(self, context: Context, server: PostgresServer, now: datetime) -> tuple[list[Key], datetime | None]:
        """Rehearse the one whose turn it is; returns what to look at then, and when to come again.

        Tenants take turns, so that nobody's pile holds up another's.
        """
        waiting = [
            (when, approval, tenant)
            for tenant in context.tenants_of(server.metadata.name)
            for approval in context.approvals.of(tenant.key)
            if (when := self.due(approval, now)) is not None
        ]
        ready, told = [], []
        for when, approval, tenant in waiting:
            obstacle = _obstacle(server, tenant)
            # What stood in the way of the last try stands until the next one.
            if (obstacle or approval.metadata.uid not in self._again) and self._wait(approval, obstacle):
                told.append(_key(approval))
            if obstacle is None and when <= now:
                ready.append((approval, tenant))
        if not ready:
            return told, min(
                (when for when, _, tenant in waiting if when > now and not _obstacle(server, tenant)), default=None
            )
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
            self._found[uid] = await self.rehearse(context, approval, tenant, server, planned, now)
            self._again.pop(uid, None)
            self._waits.pop(uid, None)
        except (RejectedText, Expected) as error:
            self._again[uid] = now + _PAUSE
            if isinstance(error, Expected):
                self._wait(approval, error)
        return [*told, _key(approval)], now

    async def rehearse(
        self,
        context: Context,
        approval: DDLApproval,
        tenant: Tenant,
        server: PostgresServer,
        planned: Plan,
        now: datetime,
    ) -> Rehearsal:
        """Run the text and roll it back. Raises Expected when that is not possible now."""
        login = rehearsal_login(approval.metadata.uid)
        wanted = runner.Rehearsal(login, tenant.role, planned, approval.spec.lock_timeout)
        async with self._locks.setdefault(server.metadata.name, asyncio.Lock()):
            self.logins.add(login)
            try:
                if not rehearsal.rehearsable(planned):
                    return rehearsal.shown(planned, Effects(0), now)
                target = await admin_target(context.kube, server)
                async with admin_connection(context.kube, server) as connection:
                    effects = await runner.rehearse(connection, target, wanted)
                    if effects.error is not None and effects.error.by_gate:
                        # Once more with what functions do let through, so that the approver sees it.
                        again = replace(wanted, allow_nested=True, pass_id=runner.new_pass())
                        nested = await runner.rehearse(connection, target, again)
                        effects = nested if nested.error is None else effects
            finally:
                self.logins.discard(login)
        return rehearsal.shown(planned, effects, now)

    def busy(self, server: PostgresServer) -> bool:
        """Whether one is under way there."""
        lock = self._locks.get(server.metadata.name)
        return lock is not None and lock.locked()

    def _wait(self, approval: DDLApproval, obstacle: Expected | None) -> bool:
        """Remember what it waits for; returns whether that is news."""
        uid = approval.metadata.uid
        before = self._waits.pop(uid, None)
        if obstacle is not None:
            self._waits[uid] = obstacle
        return str(before) != str(obstacle)


def _key(approval: DDLApproval) -> Key:
    return Key("DDLApproval", *approval.key)


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
