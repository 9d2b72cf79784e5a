"""Refused statements → pending DDLApprovals, for tenants that want it. Read from the audit store, as receipts are."""

import asyncio
from datetime import datetime, timedelta

from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import API_VERSION
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.refusals import decisions as refusals
from vaultbrix.ddl.refusals import store
from vaultbrix.ddl.refusals.decisions import Obstacle, Refusal, Request
from vaultbrix.kube import events
from vaultbrix.kube.cache import Context
from vaultbrix.kube.client import Conflict, resource_type
from vaultbrix.postgres.admin import audit_target
from vaultbrix.postgres.connect import connect
from vaultbrix.runtime.errors import Blocked

LOOK_EVERY = timedelta(seconds=2)

# What was refused while no operator ran.
_FROM_BEFORE = timedelta(minutes=10)
# Sessions' lines reach the log in the order of events, give or take.
_SLACK = timedelta(seconds=10)
_MOST_TOLD = 10_000


class Refusals:
    """Turns refusals into requests. Remembers how far each server's records were read, and what it has told."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}
        self._told: set[str] = set()
        self._answered: set[Refusal] = set()

    async def look(self, context: Context, server: PostgresServer, now: datetime) -> datetime | None:
        """Make the requests that are missing; when to look again, None while nobody wants it. Raises Expected."""
        name = server.metadata.name
        tenants = [
            tenant
            for tenant in context.tenants_of(name)
            if tenant.spec.ddl_policy.request_on_refusal and not tenant.deleting and not tenant.spec.suspended
        ]
        if not tenants or server.spec.audit_secret_ref is None:
            return None
        since = self._since.setdefault(name, now - _FROM_BEFORE)
        async with connect(await audit_target(context.kube, server)) as connection:
            found, latest = await store.refusals(connection, name, since)
        # Those that the watch has not brought yet count too.
        made: list[DDLApproval] = []
        for refusal in found:
            for tenant in tenants:
                if refusals.is_of(refusal, tenant):
                    made += await self._answer(context, tenant, refusal, made, now)
        if latest is not None:
            self._since[name] = max(since, latest - _SLACK)
        return now + LOOK_EVERY

    async def _answer(
        self, context: Context, tenant: Tenant, refusal: Refusal, made: list[DDLApproval], now: datetime
    ) -> list[DDLApproval]:
        """Make a request or an event, or neither; returns what was made."""
        if refusal in self._answered:
            return []
        known = {a.metadata.uid: a for a in (*made, *context.approvals.of(tenant.key)) if _tenant_of(a) == tenant.key}
        made_now: list[DDLApproval] = []
        match await asyncio.to_thread(refusals.answer, refusal, tenant, known.values(), now):
            case Obstacle() as obstacle:
                await self._tell(context, tenant, obstacle)
            case Request() as request:
                try:
                    made_now = await self._create(context, tenant, request)
                except Blocked as error:
                    # A quota or a policy of one namespace keeps no other tenant waiting.
                    key = f"{tenant.display} {error.message}"
                    await self._tell(context, tenant, Obstacle("RequestRefused", error.message, key))
        if len(self._answered) >= _MOST_TOLD:
            self._answered.clear()
        self._answered.add(refusal)
        return made_now

    async def _tell(self, context: Context, tenant: Tenant, obstacle: Obstacle) -> None:
        if obstacle.key in self._told:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.add(obstacle.key)
        await events.warn(context.kube, tenant, obstacle.reason, obstacle.message)

    async def _create(self, context: Context, tenant: Tenant, request: Request) -> list[DDLApproval]:
        body = {
            "apiVersion": API_VERSION,
            "kind": DDLApproval.crd.kind,
            "metadata": {
                "name": request.name,
                "namespace": tenant.metadata.namespace,
                "labels": {refusals.LABEL: "true"},
            },
            "spec": request.spec,
        }
        try:
            made = await context.kube.create(resource_type(DDLApproval), tenant.metadata.namespace, body)
        except Conflict:
            return []
        return [DDLApproval.parse(made)]


def _tenant_of(approval: DDLApproval) -> tuple[str, str]:
    return (approval.metadata.namespace, approval.spec.tenant_ref.name)
