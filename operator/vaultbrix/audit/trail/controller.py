"""Takes what became of approvals to the audit store, apart from all other work: a store that is down holds up nothing
but the end of deleted objects.

What happened is written into an object's status first, together with what it is about, and from there into the store.
So nothing is lost by a crash at any step, nor by a store that is away; and the store keeps each event once. An object
that was deleted stays until the store has all of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

import structlog

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.trail import FINALIZER, Trail
from vaultbrix.audit.trail import store
from vaultbrix.audit.trail.decisions import Fact, advance, document, settled
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.status import set_finalizer
from vaultbrix.kube.store import Store
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

WORKERS = 2

Key = tuple[str, str]
Approved = TypeVar("Approved", bound=AccessRule | DDLApproval)


@dataclass
class _Told:
    """Of one object: events that the store has and the status does not know of, and why it has not got the others."""

    stored: set[str] = field(default_factory=set)
    message: str = ""


class Trails(Generic[Approved]):
    """The trails of one kind. The kind's own controller writes the status, which has one writer."""

    def __init__(
        self,
        registry: Registry,
        kube: Kube,
        cache: Cache,
        admin: Admin,
        resources: Store[Approved],
        changed: Callable[[Key], None],
        *,
        name: str,
    ) -> None:
        """``changed`` is called with the key of an object that has another trail now; ``name`` is the queue's."""
        self._kube = kube
        self._cache = cache
        self._admin = admin
        self._resources = resources
        self._changed = changed
        self._told: dict[str, _Told] = {}
        self._queue = registry.queue(name, self._store, workers=WORKERS)

    def kept(self, resource: Approved) -> bool:
        """Whether there is an audit store that takes the trail."""
        server = self._server_of(resource)
        return server is not None and server.spec.audit_manager_secret_ref is not None

    async def hold(self, resource: Approved, facts: Sequence[Fact], *, over: bool) -> Approved:
        """Have the object stay until its trail is stored; returns it as it is now.

        To be done before anybody can decide on it: a decision rests on status.sha256. One that is ``over`` and told has
        nothing more to tell.
        """
        if resource.deleting or FINALIZER in resource.metadata.finalizers or not self.kept(resource):
            return resource
        if over and settled(resource.status.trail, facts):
            return resource
        return await set_finalizer(self._kube, resource, FINALIZER, present=True)

    def next(self, resource: Approved, facts: Sequence[Fact], now: datetime) -> Trail | None:
        """The trail to write now, with the facts; None where nothing is kept."""
        old = resource.status.trail
        if FINALIZER not in resource.metadata.finalizers:
            return old
        told = self._told.get(resource.metadata.uid, _Told())
        if old is not None:
            told.stored &= {event.id for event in old.waiting}
        server = self._server_of(resource)
        name = server.metadata.name if server is not None else ""
        return advance(old, facts, server=name, stored=told.stored, message=told.message, now=now)

    async def release(self, resource: Approved, facts: Sequence[Fact], *, over: bool) -> None:
        """Let go of an object that is over or deleted, if the store has its trail, or none will ever take it.

        ``resource`` has the status that was written last.
        """
        if FINALIZER not in resource.metadata.finalizers or not (over or resource.deleting):
            return
        trail = resource.status.trail
        if not settled(trail, facts):
            if self.kept(resource) or not resource.deleting:
                return
            log.warning("not on record, since no audit store takes it", about=resource.display, events=_ids(trail))
        await set_finalizer(self._kube, resource, FINALIZER, present=False)

    def schedule(self, resource: Approved) -> None:
        """Have stored what waits in the status."""
        if resource.status.trail is not None and resource.status.trail.waiting:
            self._queue.add(resource.key)

    def forget(self, resource: Approved) -> None:
        """Drop what is kept of an object that no longer exists."""
        self._told.pop(resource.metadata.uid, None)

    async def _store(self, key: Key) -> None:
        resource = self._resources.get(*key)
        trail = resource.status.trail if resource is not None else None
        server = self._server_of(resource) if resource is not None else None
        if resource is None or trail is None or server is None or not self.kept(resource):
            return
        told = self._told.setdefault(resource.metadata.uid, _Told())
        waiting = [event for event in trail.waiting if event.id not in told.stored]
        if not waiting:
            return
        tenant = "/".join(resource.tenant_key)
        details = [document(resource, resource.crd.kind, tenant, trail.server, event) for event in waiting]
        before = told.message
        try:
            async with self._admin.audit_manager(server) as connection:
                await store.note(connection, details)
        except Expected as error:
            told.message = f"the audit store does not take it: {error.message}"
            if error.reason is Reason.INSUFFICIENT_PRIVILEGE:
                told.message += "; the login of spec.auditManagerSecretRef must be a member of audit_manage"
            if told.message != before:
                self._changed(key)
            raise
        told.message = ""
        told.stored |= {event.id for event in waiting}
        self._changed(key)

    def _server_of(self, resource: Approved) -> PostgresServer | None:
        """The server of its Tenant; of one whose Tenant is gone, the one that its trail began with."""
        server = self._cache.server_of(self._cache.tenant_of(resource))
        trail = resource.status.trail
        if server is None and trail is not None:
            server = self._cache.servers.get("", trail.server)
        return server


def _ids(trail: Trail | None) -> list[str]:
    return [event.id for event in trail.waiting] if trail is not None else []
