"""Keeps the objects of one kind in the cache as the API server has them: lists, watches, lists again after a gap."""

import asyncio
from collections.abc import Callable
from typing import Generic

import structlog
from pydantic import ValidationError

from vaultbrix.api.conditions import Reason
from vaultbrix.api.definitions import REMEDY
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Gone, Kube, NotFound, Object
from vaultbrix.kube.resources import resource_type
from vaultbrix.kube.store import R, Store
from vaultbrix.runtime.errors import Blocked, Expected
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

Trim = Callable[[Object], None]


class Informer(Generic[R]):
    """Keeps one kind in the cache. ``trim`` removes from a raw object what nobody will read.

    ``synced`` is set once every object that existed at the start is in the cache.
    """

    def __init__(self, kube: Kube, cache: Cache, model: type[R], trim: Trim | None = None) -> None:
        self._kube = kube
        self._cache = cache
        self._trim = trim
        self.model = model
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch until cancelled; pauses grow while the API server does not answer."""
        failures = 0
        while True:
            try:
                version = await self.relist()
                failures = 0
                await self._follow(version)
            except Gone:
                log.info("watch fell behind; listing again", kind=self.model.__name__)
            except Expected as error:
                failures += 1
                log.warning("API server", kind=self.model.__name__, message=error.message)
                await asyncio.sleep(min(5.0, pause_after(failures, 0.0)))

    async def relist(self) -> str:
        """Make the cache equal to the API server's list; returns its resourceVersion. Raises Expected.

        A kind that the API server does not serve is a failure, not an empty list: it may not be served yet.
        """
        seen: set[tuple[str, str]] = set()
        version = ""
        try:
            async for page in self._kube.pages(resource_type(self.model)):
                seen.update(self._take(item) for item in page.get("items", []))
                version = str(page["metadata"]["resourceVersion"])
        except NotFound:
            kind = resource_type(self.model)
            text = f"the API server does not serve {kind.plural} ({kind.api_version}); if it is not installed: {REMEDY}"
            raise Blocked(Reason.NOT_INSTALLED, text) from None
        store: Store[R] = self._cache.stores[self.model]
        for namespace, name in store.keys() - seen:
            cached = store.get(namespace, name)
            # An object that a watch brought meanwhile is newer than the list, so it is not gone.
            if cached is not None and int(cached.metadata.resource_version or 0) <= int(version):
                self._cache.remove(self.model, namespace, name)
        self.synced.set()
        return version

    def observe(self, event: str | None, raw: Object) -> None:
        """Take over one event of a watch; ``event`` is ADDED, MODIFIED, DELETED, or None for an object listed."""
        if event == "DELETED":
            self._cache.remove(self.model, raw["metadata"].get("namespace", ""), raw["metadata"]["name"])
        else:
            self._take(raw)

    async def _follow(self, version: str) -> None:
        while True:
            async for event in self._kube.watch(resource_type(self.model), version):
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self.observe(event["type"], event["object"])

    def _take(self, raw: Object) -> tuple[str, str]:
        meta = raw["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        if self._cache.stores[self.model].holds(*key, uid=meta["uid"], version=int(meta["resourceVersion"])):
            # Most often the echo of a write of our own, whose answer was kept.
            return key
        try:
            if self._trim is not None:
                self._trim(raw)
            resource = self.model.parse(raw)
        except ValidationError as error:
            # Written by a newer version: what cannot be read opens nothing.
            where = [".".join(map(str, problem["loc"])) for problem in error.errors()]
            log.error("object cannot be read", kind=self.model.__name__, name="/".join(key), fields=where)
            self._cache.remove(self.model, *key)
            return key
        self._cache.put(resource)
        return key
