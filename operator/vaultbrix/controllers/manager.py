"""From a change to the keys it concerns, and from a key to the controller that works on it."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import structlog

from vaultbrix.adapters.informer import Informer
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.controllers import accessrule, ddlapproval, postgresserver, tenant
from vaultbrix.controllers.context import Context, Key
from vaultbrix.controllers.networkpolicy import Policies
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import WorkQueue, pause_after

log = structlog.get_logger(__name__)

WORKERS = 8


class Manager:
    """The operator without its edges: give ``informers`` events and ``run`` it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._policies = Policies()
        self._queue: WorkQueue[Key] = WorkQueue(self._process, workers=WORKERS)
        self.informers: dict[type[Resource], Informer[Resource]] = {
            store.model: Informer(context.kube, store, self._changed)  # type: ignore[arg-type]  # a Store is read through its own type
            for store in (context.servers, context.tenants, context.rules, context.approvals)
        }

    async def start(self) -> None:
        """Know every object before the first decision: a server not seen yet must not look deleted."""
        failures = 0
        while True:
            try:
                await self._relist()
            except Expected as error:
                failures += 1
                log.warning("cannot list", message=error.message)
                await asyncio.sleep(pause_after(failures, 0.0))
            else:
                return

    async def run(self) -> None:
        """Work until cancelled."""
        await self._queue.run()

    async def resync(self) -> None:
        """Compare everything again: objects that vanished unseen, and drift outside of Kubernetes."""
        try:
            await self._relist()
            await self._policies.prune(self._context)
        except Expected as error:
            log.warning("resync", message=error.message)
        self._policies.forget()
        for informer in self.informers.values():
            for resource in informer.store:
                self._changed(resource)

    async def _relist(self) -> None:
        for informer in self.informers.values():
            await informer.relist()

    def _changed(self, resource: Resource) -> None:
        for key in concerned(self._context, resource):
            self._queue.add(key)

    async def _process(self, key: Key) -> datetime | None:
        now = datetime.now(UTC)
        context, where = self._context, (key.namespace, key.name)
        match key.kind:
            case "PostgresServer":
                server = context.servers.get(*where)
                return await postgresserver.reconcile(context, server, now) if server else None
            case "Tenant":
                found = context.tenants.get(*where)
                return await tenant.reconcile(context, found, now) if found else None
            case "AccessRule":
                rule = context.rules.get(*where)
                return await self._rule(rule, now) if rule else None
            case "DDLApproval":
                approval = context.approvals.get(*where)
                return await ddlapproval.reconcile(context, approval, now) if approval else None
            case "NetworkPolicy":
                if await self._policies.reconcile(context, where, now):
                    for rule in [r for r in context.rules if (r.metadata.namespace, r.spec.tenant_ref.name) == where]:
                        self._queue.add(Key("AccessRule", *rule.key))
        return None

    async def _rule(self, rule: AccessRule, now: datetime) -> datetime | None:
        # The policy first: it follows from the deadline too, and an ended rule must leave it.
        self._queue.add(Key("NetworkPolicy", rule.metadata.namespace, rule.spec.tenant_ref.name))
        return await accessrule.reconcile(self._context, self._policies, rule, now)


def concerned(context: Context, resource: Resource) -> Iterator[Key]:
    """The keys to look at after a change of an object: itself, and what is decided from it."""
    match resource:
        case PostgresServer():
            yield Key("PostgresServer", *resource.key)
            for found in context.tenants_of(resource.metadata.name):
                yield from concerned(context, found)
        case Tenant():
            yield Key("Tenant", *resource.key)
            yield Key("NetworkPolicy", *resource.key)
            for rule in context.rules_of(resource):
                yield Key("AccessRule", *rule.key)
            for approval in context.approvals:
                if (approval.metadata.namespace, approval.spec.tenant_ref.name) == resource.key:
                    yield Key("DDLApproval", *approval.key)
        case AccessRule():
            yield Key("AccessRule", *resource.key)
            yield Key("NetworkPolicy", resource.metadata.namespace, resource.spec.tenant_ref.name)
        case DDLApproval():
            yield Key("DDLApproval", *resource.key)
