"""The objects that the agent watches, and which of them changed, so that it has to decide again."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vaultbrix.agent.pods import PodAddresses, PodSource
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import ConditionType, find_condition
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.cache import Cache, TenantKey
from vaultbrix.kube.client import Kube, Object
from vaultbrix.kube.informer import Informer
from vaultbrix.kube.store import Change


@dataclass
class Touched:
    """What has to be decided again. ``gone`` are uids of rules, ``ended`` approvals, whose objects no longer exist."""

    everything: bool = False
    server: bool = False
    tenants: set[TenantKey] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    approvals: dict[str, DDLApproval] = field(default_factory=dict)
    ended: dict[str, DDLApproval] = field(default_factory=dict)


class Watched:
    """The objects that one agent decides from, kept by informers.

    ``wake`` is called when ``take`` has something to return. A change on which no decision rests, such as an agent's
    report on a rule, is passed over. ``server_told`` is set when the operator says something else of how decisions on
    the server are checked.
    """

    def __init__(self, kube: Kube, server: str, wake: Callable[[], None]) -> None:
        self._server = server
        self._wake = wake
        self._touched = Touched()
        self.server_told = asyncio.Event()
        self._cache = Cache(self._changed)
        self.rules = self._cache.rules
        self.tenants = self._cache.tenants
        self.approvals = self._cache.approvals
        self._pods = PodAddresses(kube, wake)
        self.informers: tuple[Informer[Any], ...] = (
            Informer(kube, self._cache, PostgresServer),
            Informer(kube, self._cache, Tenant),
            Informer(kube, self._cache, DDLApproval),
            Informer(kube, self._cache, AccessRule, _trim),
        )

    @property
    def server(self) -> PostgresServer | None:
        """The PostgresServer of this agent, None while its object does not exist."""
        return self._cache.servers.get("", self._server)

    @property
    def trusted_pods(self) -> frozenset[str] | None:
        """The addresses of the Pods that the server trusts, as CIDRs; None while they are not known."""
        return self._pods.known

    @property
    def synced(self) -> bool:
        """Whether every object that existed at the start is known."""
        return all(informer.synced.is_set() for informer in self.informers)

    async def run(self) -> None:
        """Keep the objects up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.run())
            for informer in self.informers:
                await informer.synced.wait()
            self.touch_everything()

    def touch(self, tenant: TenantKey) -> None:
        """Have the rules of a Tenant decided again."""
        self._touched.tenants.add(tenant)
        self._wake()

    def touch_everything(self) -> None:
        """Have everything decided again."""
        self._touched.everything = True
        self._wake()

    def take(self) -> Touched:
        """Return what has to be decided again since the last call."""
        touched, self._touched = self._touched, Touched()
        return touched

    def _changed(self, change: Change[Any]) -> None:
        if isinstance(change.resource, PostgresServer) and change.resource.metadata.name == self._server:
            self._note_admission(change)
        if not change.decisive:
            return
        before, after = change.before, change.after
        # An object that another one of the same name has replaced is gone, too.
        if before is not None and (after is None or before.metadata.uid != after.metadata.uid):
            self._touch(before, gone=True)
        if after is not None:
            self._touch(after, gone=False)
        self._wake()

    def _note_admission(self, change: Change[PostgresServer]) -> None:
        said = [
            find_condition(server.status.conditions, ConditionType.ADMISSION_ENFORCED) if server is not None else None
            for server in (change.before, change.after)
        ]
        if said[0] != said[1] or change.decisive:
            self.server_told.set()

    def _touch(self, resource: Resource, *, gone: bool) -> None:
        touched = self._touched
        match resource:
            case AccessRule():
                touched.tenants.add(resource.tenant_key)
                if gone:
                    touched.gone.add(resource.metadata.uid)
            case Tenant():
                touched.tenants.add(resource.key)
                touched.approvals.update((a.metadata.uid, a) for a in self.approvals.of(resource.key))
            case PostgresServer():
                if resource.metadata.name == self._server:
                    touched.everything = touched.server = True
                    if not gone:
                        self._pods.follow(map(PodSource.of, resource.spec.trusted.pods))
            case DDLApproval():
                (touched.ended if gone else touched.approvals)[resource.metadata.uid] = resource


def _trim(rule: Object) -> None:
    """Drop what an agent does not read of a rule: there may be 10,000, and mostly they are others' conditions."""
    for name in ("annotations", "labels", "managedFields"):
        rule["metadata"].pop(name, None)
    status = rule.get("status", {})
    status["conditions"] = [c for c in status.get("conditions", ()) if c.get("type") == ConditionType.ENFORCED]
