"""Refused statements → pending DDLApprovals, for tenants that want it. Read from the audit store, as receipts are."""

from datetime import datetime, timedelta

from vaultbrix.adapters import auditstore, events
from vaultbrix.adapters.kube import Conflict, resource_type
from vaultbrix.adapters.postgres import connect
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import API_VERSION
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.controllers.admin import audit_target
from vaultbrix.controllers.context import Context
from vaultbrix.domain import refusals
from vaultbrix.domain.refusals import Obstacle, Refusal, Request

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
            found, latest = await auditstore.refusals(connection, name, since)
        for refusal in found:
            for tenant in tenants:
                if refusals.is_of(refusal, tenant):
                    await self._answer(context, tenant, refusal, now)
        if latest is not None:
            self._since[name] = max(since, latest - _SLACK)
        return now + LOOK_EVERY

    async def _answer(self, context: Context, tenant: Tenant, refusal: Refusal, now: datetime) -> None:
        match refusals.answer(refusal, tenant, context.approvals.of(tenant.key), now):
            case Obstacle() as obstacle:
                if obstacle.key not in self._told:
                    if len(self._told) >= _MOST_TOLD:
                        self._told.clear()
                    self._told.add(obstacle.key)
                    await events.warn(context.kube, tenant, obstacle.reason, obstacle.message)
            case Request() as request:
                await self._create(context, tenant, request)

    async def _create(self, context: Context, tenant: Tenant, request: Request) -> None:
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
            return
        # Counted at once, long before the watch brings it.
        context.approvals.put(DDLApproval.parse(made))
