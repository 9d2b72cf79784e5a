"""List, then watch, for ever: keeps a Store as the API server has it, and tells of every change."""

import asyncio
from collections.abc import Callable

import structlog
from pydantic import ValidationError

from vaultbrix.adapters.kube import Gone, Kube, Object, resource_type
from vaultbrix.api.meta import Resource
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import pause_after
from vaultbrix.runtime.store import R, Store

log = structlog.get_logger(__name__)


class Informer:
    """One kind. ``changed`` is called with the key after the store changed; objects that vanished unseen too."""

    def __init__(self, kube: Kube, store: Store[R], changed: Callable[[type[Resource], str, str], None]) -> None:
        self._kube = kube
        self._store: Store[R] = store
        self._changed = changed
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; pauses grow while the API server does not answer."""
        failures = 0
        while True:
            try:
                version = await self.relist()
                failures = 0
                await self._follow(version)
            except Gone:
                log.info("watch fell behind; listing again", kind=self._store.model.__name__)
            except Expected as error:
                failures += 1
                log.warning("API server", kind=self._store.model.__name__, message=error.message)
                await asyncio.sleep(min(5.0, pause_after(failures, 0.0)))

    async def relist(self) -> str:
        """Make the store equal to the API server's list; returns its resourceVersion."""
        answer = await self._kube.list(resource_type(self._store.model))
        seen = {self._take(item) for item in answer.get("items", [])}
        for namespace, name in self._store.keys() - seen:
            self._store.remove(namespace, name)
            self._changed(self._store.model, namespace, name)
        self.synced.set()
        return str(answer["metadata"]["resourceVersion"])

    async def _follow(self, version: str) -> None:
        while True:
            async for event in self._kube.watch(resource_type(self._store.model), version):
                meta = event["object"]["metadata"]
                version = meta["resourceVersion"]
                if event["type"] == "DELETED":
                    self._store.remove(meta.get("namespace", ""), meta["name"])
                    self._changed(self._store.model, meta.get("namespace", ""), meta["name"])
                elif event["type"] != "BOOKMARK":
                    self._take(event["object"])

    def _take(self, raw: Object) -> tuple[str, str]:
        meta = raw["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        try:
            resource = self._store.model.parse(raw)
        except ValidationError:
            # Written by a newer version: what cannot be read opens nothing.
            log.exception("object cannot be read", kind=self._store.model.__name__, name="/".join(key))
            self._store.remove(*key)
            self._changed(self._store.model, *key)
            return key
        if self._store.put(resource):
            self._changed(self._store.model, *key)
        return key
