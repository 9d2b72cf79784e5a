"""What the agent watches, and which parts of it changed in a way that matters since they were last asked for."""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.client import Kube, Object
from vaultbrix.kube.informer import Informer
from vaultbrix.kube.store import Store

TenantKey = tuple[str, str]


def tenant_of(resource: AccessRule | DDLApproval) -> TenantKey:
    """(namespace, name) of the Tenant that it names."""
    return (resource.metadata.namespace, resource.spec.tenant_ref.name)


@dataclass
class Touched:
    """What to decide on again. ``gone`` holds uids of rules, ``ended`` approvals, whose objects are gone."""

    everything: bool = False
    server: bool = False
    tenants: set[TenantKey] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    approvals: dict[str, DDLApproval] = field(default_factory=dict)
    ended: dict[str, DDLApproval] = field(default_factory=dict)


class Watched:
    """The stores of one agent, kept by informers. ``wake`` is called when there is something to ``take``."""

    def __init__(self, kube: Kube, server: str, wake: Callable[[], None]) -> None:
        self._server = server
        self._wake = wake
        self._touched = Touched()
        self._decisive: dict[tuple[type[Resource], tuple[str, str]], Hashable] = {}
        self.rules = Store(AccessRule, group=tenant_of)
        self.tenants = Store(Tenant)
        self.servers = Store(PostgresServer)
        self.approvals = Store(DDLApproval, group=tenant_of)
        self._stores: dict[type[Resource], Store[Any]] = {
            store.model: store for store in (self.rules, self.tenants, self.servers, self.approvals)
        }
        self.informers: tuple[Informer[Any], ...] = (
            Informer(kube, self.servers, self._changed),
            Informer(kube, self.tenants, self._changed),
            Informer(kube, self.approvals, self._changed),
            Informer(kube, self.rules, self._changed, _trim),
        )

    @property
    def server(self) -> PostgresServer | None:
        """The agent's own."""
        return self.servers.get("", self._server)

    @property
    def synced(self) -> bool:
        """Whether every object that existed at the start is known."""
        return all(informer.synced.is_set() for informer in self.informers)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.run())
            for informer in self.informers:
                await informer.synced.wait()
            self.touch_everything()

    def touch(self, tenant: TenantKey) -> None:
        """Have a Tenant's rules decided again."""
        self._touched.tenants.add(tenant)
        self._wake()

    def touch_everything(self) -> None:
        """Have all decided again."""
        self._touched.everything = True
        self._wake()

    def take(self) -> Touched:
        """What was touched since the last time."""
        touched, self._touched = self._touched, Touched()
        return touched

    def _changed(self, resource: Resource) -> None:
        key = (type(resource), resource.key)
        store = self._stores[type(resource)]
        held = store.get(*resource.key)
        gone = held is None or held.metadata.uid != resource.metadata.uid
        decisive = None if gone else _decisive(resource)
        if not gone and self._decisive.get(key) == decisive:
            return
        if gone:
            self._decisive.pop(key, None)
        else:
            self._decisive[key] = decisive
        self._touch(resource, gone=gone)
        self._wake()

    def _touch(self, resource: Resource, *, gone: bool) -> None:
        touched = self._touched
        match resource:
            case AccessRule():
                touched.tenants.add(tenant_of(resource))
                if gone:
                    touched.gone.add(resource.metadata.uid)
            case Tenant():
                touched.tenants.add(resource.key)
                touched.approvals.update((a.metadata.uid, a) for a in self.approvals.of(resource.key))
            case PostgresServer():
                if resource.metadata.name == self._server:
                    touched.everything = touched.server = True
            case DDLApproval():
                (touched.ended if gone else touched.approvals)[resource.metadata.uid] = resource


def _trim(rule: Object) -> None:
    """Leave what an agent reads of a rule: there may be 10,000 of them, and others' conditions are the most of each."""
    for name in ("annotations", "labels", "managedFields"):
        rule["metadata"].pop(name, None)
    status = rule.get("status", {})
    status["conditions"] = [c for c in status.get("conditions", ()) if c.get("type") == ConditionType.ENFORCED]


def _decisive(resource: Resource) -> Hashable:
    """What of an object decisions depend on. Reports of our own, and most of the operator's, change none of it."""
    meta = resource.metadata
    common = (meta.uid, meta.generation, resource.deleting)
    match resource:
        case AccessRule():
            return (*common, resource.status.phase, resource.status.opened_at, resource.status.closed_at)
        case Tenant():
            return (*common, is_true(resource.status.conditions, ConditionType.PROVISIONED))
    return common
