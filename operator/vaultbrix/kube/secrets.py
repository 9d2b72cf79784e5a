"""Reads Secrets that are needed again and again, such as a server's credentials, once and watches them after that."""

import asyncio
from collections.abc import Callable

import structlog

from vaultbrix.kube.client import SECRETS, Gone, Kube, Object
from vaultbrix.runtime.errors import Blocked, Expected

log = structlog.get_logger(__name__)

# Each watch is a connection to the API server, of which the client has a hundred; the others are for all else.
MOST_WATCHED = 50

SecretKey = tuple[str, str]
"""(namespace, name) of a Secret."""


class Secrets:
    """Keeps a Secret in memory only while it is watched, so that it is never older than the watch is slow.

    A Secret that may not be watched, or that comes when ``MOST_WATCHED`` are, is read from the API server each time.
    Listeners are called with the key of a kept Secret that was changed or deleted.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._kept: dict[SecretKey, Object] = {}
        self._watches: dict[SecretKey, asyncio.Task[None]] = {}
        self._unwatchable: set[SecretKey] = set()
        self._listeners: list[Callable[[SecretKey], None]] = []

    def on_change(self, listener: Callable[[SecretKey], None]) -> None:
        """Have a listener called with each change."""
        self._listeners.append(listener)

    async def get(self, namespace: str, name: str) -> Object:
        """Return the Secret as it is now. Raises NotFound, and Expected when it cannot be read."""
        key = (namespace, name)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        secret = await self._kube.get(SECRETS, namespace, name)
        if key not in self._watches and key not in self._unwatchable and len(self._watches) < MOST_WATCHED:
            self._kept[key] = secret
            watch = asyncio.create_task(self._watch(key, str(secret["metadata"]["resourceVersion"])))
            self._watches[key] = watch
            watch.add_done_callback(lambda _: self._forget(key))
        return secret

    async def close(self) -> None:
        """End all watches."""
        watches = list(self._watches.values())
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    async def _watch(self, key: SecretKey, version: str) -> None:
        namespace, name = key
        try:
            while key in self._kept:
                async for event in self._kube.watch(SECRETS, version, namespace, name):
                    version = str(event["object"]["metadata"]["resourceVersion"])
                    if event["type"] == "BOOKMARK":
                        continue
                    if event["type"] == "DELETED":
                        del self._kept[key]
                    else:
                        self._kept[key] = event["object"]
                    for listener in self._listeners:
                        listener(key)
        except Gone:
            return
        except Expected as error:
            if isinstance(error, Blocked):
                self._unwatchable.add(key)
            log.warning("Secret is not watched", secret="/".join(key), message=error.message)

    def _forget(self, key: SecretKey) -> None:
        self._watches.pop(key, None)
        self._kept.pop(key, None)
