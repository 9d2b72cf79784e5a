"""Receipts are counted in the audit store, apart from all other work, so that a store that is down holds up nothing but
receipts."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Generic, TypeVar

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.apikey import APIKey
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.store import Store

# An audit store that does not answer holds up its own receipts only.
WORKERS = 2

Key = tuple[str, str]
Resource = TypeVar("Resource", bound=AccessRule | APIKey)
Receipt = TypeVar("Receipt")


class Counter(ABC, Generic[Resource, Receipt]):
    """What a kind's receipts are; ``server`` is where its Tenant lives, None where that is not known."""

    @abstractmethod
    def written(self, resource: Resource) -> Receipt | None:
        """The receipt in the status."""

    @abstractmethod
    def shown(self, resource: Resource, counted: Receipt | None, server: PostgresServer | None) -> Receipt | None:
        """The receipt that belongs into the status, None before an end.

        ``resource`` has the status that is about to be written; ``counted`` is what was counted since the last one.
        """

    @abstractmethod
    def due(self, resource: Resource, server: PostgresServer | None, now: datetime) -> datetime | None:
        """When the audit store is to be asked, None when there is no more to ask."""

    @abstractmethod
    async def count(self, resource: Resource, server: PostgresServer) -> Receipt | None:
        """The receipt as the store has it now, None where there is nothing to count. Never raises Expected."""


class Receipts(Generic[Resource, Receipt]):
    """Counts, and keeps what it counted until the object's own controller has written it: a status has one writer."""

    def __init__(
        self,
        registry: Registry,
        cache: Cache,
        resources: Store[Resource],
        counter: Counter[Resource, Receipt],
        counted: Callable[[Key], None],
        *,
        name: str,
    ) -> None:
        """``counted`` is called with the key of an object that has a new receipt to write; ``name`` is the queue's."""
        self._cache = cache
        self._resources = resources
        self._counter = counter
        self._tell_counted = counted
        self._counted: dict[str, Receipt] = {}
        self._queue = registry.queue(name, self._count, workers=WORKERS)

    def of(self, resource: Resource) -> Receipt | None:
        """The receipt to write now; ``resource`` has the status that is about to be written."""
        uid = resource.metadata.uid
        if self._counted.get(uid) == self._counter.written(resource):
            self._counted.pop(uid, None)
        return self._counter.shown(resource, self._counted.get(uid), self._server_of(resource))

    def schedule(self, resource: Resource, now: datetime) -> None:
        """Have the object counted when it is due."""
        due = self._counter.due(resource, self._server_of(resource), now)
        if due is not None:
            self._queue.add_at(resource.key, due)

    def forget(self, resource: Resource) -> None:
        """Drop what is kept of an object that no longer exists."""
        self._counted.pop(resource.metadata.uid, None)

    async def _count(self, key: Key) -> datetime | None:
        resource = self._resources.get(*key)
        if resource is None:
            return None
        server, now = self._server_of(resource), datetime.now(UTC)
        if server is None or self._counter.due(resource, server, now) is None:
            return None
        counted = await self._counter.count(resource, server)
        if counted is not None and counted != self._counter.written(resource):
            self._counted[resource.metadata.uid] = counted
            self._tell_counted(key)
        return self._counter.due(resource, server, now)

    def _server_of(self, resource: Resource) -> PostgresServer | None:
        return self._cache.server_of(self._cache.tenant_of(resource))
