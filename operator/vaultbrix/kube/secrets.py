"""Reads Secrets that are needed again and again, such as a server's credentials, once and watches them after that."""

import asyncio
import math
import time
from collections.abc import Callable

import structlog

from vaultbrix.kube.client import Gone, Kube, NotFound, Object
from vaultbrix.kube.resources import SECRETS
from vaultbrix.runtime.errors import Blocked, Expected
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

# Each watch is a connection to the API server, of which the client has a hundred; the others are for all else.
MOST_WATCHED = 50
# An API server that has just started refuses everybody for a moment; for who has no right it is one request a minute.
REFUSED_SECONDS = 60.0
# Between two attempts to reach an API server that is away, in seconds.
_LONGEST_PAUSE = 5.0

# Without a version a watch begins with the object as it is, if there is one, and tells it at once (Kubernetes API
# concepts, "Semantics for watch").
_NOW = ""
_TOLD_SECONDS = 5.0

SecretKey = tuple[str, str]
"""(namespace, name) of a Secret."""


class Secrets:
    """Keeps a Secret in memory only while it is watched, so that it is never older than the watch is slow.

    While the API server is away it is kept as it was last, as the informers' objects are, and read again afterwards. A
    Secret that may not be watched, or that comes when ``MOST_WATCHED`` are, is read from the API server each time; the
    former is tried again after ``REFUSED_SECONDS``. One that was watched is kept for so long, too.
    Listeners are called with the key of a kept Secret that was changed or deleted.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._kept: dict[SecretKey, Object] = {}
        self._watches: dict[SecretKey, asyncio.Task[None]] = {}
        self._refused_until: dict[SecretKey, float] = {}
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
        refused = time.monotonic() < self._refused_until.get(key, 0.0)
        if key not in self._watches and not refused and len(self._watches) < MOST_WATCHED:
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

    async def _watch(self, key: SecretKey, read_version: str) -> None:
        version = read_version
        failures = 0
        refused_since: float | None = None
        while key in self._kept:
            try:
                if version == _NOW:
                    await self._read_again(key)
                # One that was deleted in between is not told of: there is silence, or a bookmark that is the first.
                async with asyncio.timeout(_TOLD_SECONDS if version == _NOW else None) as first:
                    async for event in self._kube.watch(SECRETS, version, *key):
                        if event["type"] == "BOOKMARK" and version == _NOW:
                            break
                        first.reschedule(None)
                        failures, refused_since = 0, None
                        version = str(event["object"]["metadata"]["resourceVersion"])
                        if event["type"] != "BOOKMARK":
                            self._take(key, event["object"] if event["type"] != "DELETED" else None)
            except TimeoutError:
                continue
            except Gone as error:
                # What a Secret says of itself is the version of its last change, and for one of long ago that is more
                # than the API server remembers.
                version = _NOW
                failures += 1
                if failures > 1:
                    await self._pause(key, failures, str(error))
            except NotFound:
                self._take(key, None)
            except Blocked as error:
                now = time.monotonic()
                if version == read_version:
                    # Never watched: there is no right to.
                    refused_since = -math.inf
                refused_since = now if refused_since is None else refused_since
                if now - refused_since >= REFUSED_SECONDS:
                    self._refused_until[key] = now + REFUSED_SECONDS
                    log.warning("Secret is not watched", secret="/".join(key), message=error.message)
                    return
                version = _NOW
                failures += 1
                await self._pause(key, failures, error.message)
            except Expected as error:
                version = _NOW
                failures += 1
                await self._pause(key, failures, error.message)

    async def _pause(self, key: SecretKey, failures: int, message: str) -> None:
        log.warning("API server", secret="/".join(key), message=message)
        await asyncio.sleep(min(_LONGEST_PAUSE, pause_after(failures, 0.0)))

    async def _read_again(self, key: SecretKey) -> None:
        """Take over what the Secret is after a gap. Raises NotFound and Expected."""
        self._take(key, await self._kube.get(SECRETS, *key))

    def _take(self, key: SecretKey, secret: Object | None) -> None:
        """Keep what the API server has now, None for a Secret that is gone, and tell what is new."""
        known = self._kept.pop(key, None)
        if secret is not None:
            self._kept[key] = secret
            if known is not None and known["metadata"]["resourceVersion"] == secret["metadata"]["resourceVersion"]:
                return
        for listener in self._listeners:
            listener(key)

    def _forget(self, key: SecretKey) -> None:
        self._watches.pop(key, None)
        self._kept.pop(key, None)
