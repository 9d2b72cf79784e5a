"""Refused statements → pending DDLApprovals, for tenants that want it. Read from the audit store, as receipts are."""

import asyncio
from datetime import UTC, datetime, timedelta

from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import API_VERSION
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.refusals import decisions, store
from vaultbrix.ddl.refusals.decisions import Obstacle, Refusal, Request
from vaultbrix.kube import events
from vaultbrix.kube.cache import Cache, TenantKey
from vaultbrix.kube.client import Conflict, Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.resources import resource_type
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Blocked

LOOK_EVERY = timedelta(seconds=2)

# What was refused while no operator ran.
_FROM_BEFORE = timedelta(minutes=10)
# Sessions' lines reach the log in the order of events, give or take.
_SLACK = timedelta(seconds=10)
_MOST_REMEMBERED = 10_000


# An audit store that does not answer holds up the look at one other.
WORKERS = 2


class Refusals:
    """Turns refusals into requests. Remembers how far each server's records were read, and what was answered."""

    def __init__(self, registry: Registry, kube: Kube, cache: Cache, admin: Admin) -> None:
        self._kube = kube
        self._cache = cache
        self._admin = admin
        self._asking: dict[str, set[TenantKey]] = {}
        self._since: dict[str, datetime] = {}
        self._warned: set[str] = set()
        self._answered: set[Refusal] = set()
        self._queue = registry.queue("Refusals", self._look, workers=WORKERS)
        registry.on_change(Tenant, self._tenant_changed)
        registry.on_change(PostgresServer, self._server_changed)

    def _tenant_changed(self, change: Change[Tenant]) -> None:
        """Keep who asks for requests by server, so that a look costs those tenants only."""
        tenant = change.resource
        asking = self._asking.setdefault(tenant.spec.server_ref.name, set())
        if change.gone or not tenant.spec.ddl_policy.request_on_refusal:
            asking.discard(tenant.key)
        elif change.decisive:
            asking.add(tenant.key)
            self._queue.add(tenant.spec.server_ref.name)

    def _server_changed(self, change: Change[PostgresServer]) -> None:
        if change.decisive:
            self._queue.add(change.resource.metadata.name)

    async def _look(self, server_name: str) -> datetime | None:
        """Make the requests that are missing; when to look again, None while nobody asks for it. Raises Expected."""
        server, now = self._cache.servers.get("", server_name), datetime.now(UTC)
        candidates = [self._cache.tenants.get(*key) for key in self._asking.get(server_name, ())]
        tenants = [one for one in candidates if one is not None and not one.deleting and not one.spec.suspended]
        if server is None or not tenants or server.spec.audit_secret_ref is None:
            return None
        since = self._since.setdefault(server_name, now - _FROM_BEFORE)
        async with self._admin.audit_reader(server) as connection:
            refused, latest = await store.refusals(connection, server_name, since)
        # Those that the watch has not brought yet count too.
        made: list[DDLApproval] = []
        for refusal in refused:
            for tenant in tenants:
                if decisions.is_of(refusal, tenant):
                    made += await self._answer(tenant, refusal, made, now)
        if latest is not None:
            self._since[server_name] = max(since, latest - _SLACK)
        return now + LOOK_EVERY

    async def _answer(
        self, tenant: Tenant, refusal: Refusal, made: list[DDLApproval], now: datetime
    ) -> list[DDLApproval]:
        """Make a request or an event, or neither; returns what was made."""
        if refusal in self._answered:
            return []
        known = {
            a.metadata.uid: a for a in (*made, *self._cache.approvals_of(tenant.key)) if a.tenant_key == tenant.key
        }
        made_now: list[DDLApproval] = []
        match await asyncio.to_thread(decisions.answer, refusal, tenant, known.values(), now):
            case Obstacle() as obstacle:
                await self._warn(tenant, obstacle)
            case Request() as request:
                try:
                    made_now = await self._create(tenant, request)
                except Blocked as error:
                    # A quota or a policy of one namespace keeps no other tenant waiting.
                    key = f"{tenant.display} {error.message}"
                    await self._warn(tenant, Obstacle("RequestRefused", error.message, key))
        if len(self._answered) >= _MOST_REMEMBERED:
            self._answered.clear()
        self._answered.add(refusal)
        return made_now

    async def _warn(self, tenant: Tenant, obstacle: Obstacle) -> None:
        if obstacle.key in self._warned:
            return
        if len(self._warned) >= _MOST_REMEMBERED:
            self._warned.clear()
        self._warned.add(obstacle.key)
        await events.warn(self._kube, tenant, obstacle.reason, obstacle.message, component="vaultbrix-operator")

    async def _create(self, tenant: Tenant, request: Request) -> list[DDLApproval]:
        body = {
            "apiVersion": API_VERSION,
            "kind": DDLApproval.crd.kind,
            "metadata": {
                "name": request.name,
                "namespace": tenant.metadata.namespace,
                "labels": {decisions.LABEL: "true"},
            },
            "spec": request.spec,
        }
        try:
            made = await self._kube.create(resource_type(DDLApproval), tenant.metadata.namespace, body)
        except Conflict:
            return []
        return [DDLApproval.parse(made)]
