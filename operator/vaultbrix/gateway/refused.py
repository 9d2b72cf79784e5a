"""Puts refused requests on record: into the log of PostgreSQL, and with it into the record, and into the gateway's own.

Whoever sends millions must fill no disk: so many a second are told one by one, and of the others their number.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import structlog

from vaultbrix.gateway.refusals import Refusal
from vaultbrix.gateway.request import Request
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

Entry = dict[str, Any]

TOLD_PER_SECOND = 20
# What waits while no server can be reached; then the oldest go.
MOST_WAITING = 5000
_MOST_AT_ONCE = 200
_PAUSE_SECONDS = 0.2


class Refused:
    """Refusals on their way to the servers. ``servers`` names those that have a data API; ``note`` writes to one.

    ``clock``: seconds, never set back.

    A refusal goes to the server of the tenant whose key was used, as ``server_of`` tells it; where no key is known, to
    all: each is the record of its own tenants, and whoever looks for a stolen key looks there.
    """

    def __init__(
        self,
        servers: Callable[[], Iterable[str]],
        server_of: Callable[[Refusal], str | None],
        note: Callable[[str, str], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._server_of = server_of
        self._note = note
        self._clock = clock
        self._second = 0
        self._told = 0
        self._left_out = 0
        self._waiting: dict[str, deque[Entry]] = {}
        self._lost: dict[str, int] = {}

    def __call__(self, refusal: Refusal, request: Request | None) -> None:
        """Take a refusal; nothing of the key's text or the query is in what is told of it."""
        second = int(self._clock())
        if second != self._second:
            if self._left_out:
                self._tell({"why": "LeftOut", "count": self._left_out}, None)
            self._second, self._told, self._left_out = second, 0, 0
        if self._told >= TOLD_PER_SECOND:
            self._left_out += 1
            return
        self._told += 1
        self._tell(entry_of(refusal, request), self._server_of(refusal))

    async def run(self) -> None:
        """Write what waits, until cancelled."""
        failures = 0
        while True:
            await asyncio.sleep(_PAUSE_SECONDS if not failures else pause_after(failures, 0.0))
            failures = 0 if await self.write() else failures + 1

    async def write(self) -> bool:
        """Write what waits, to each server that can be reached; whether that was all."""
        written = True
        for server in list(self._waiting):
            try:
                await self._write(server)
            except Expected as error:
                written = False
                log.warning("refusals are not on record yet", server=server, message=error.message)
        return written

    def _tell(self, entry: Entry, server: str | None) -> None:
        log.info("refused", **entry)
        for name in [server] if server is not None else self._servers():
            waiting = self._waiting.setdefault(name, deque())
            waiting.append(entry)
            if len(waiting) > MOST_WAITING:
                waiting.popleft()
                self._lost[name] = self._lost.get(name, 0) + 1

    async def _write(self, server: str) -> None:
        waiting = self._waiting[server]
        while waiting:
            entries: Sequence[Entry] = [waiting[place] for place in range(min(len(waiting), _MOST_AT_ONCE))]
            lost = self._lost.get(server, 0)
            told = [{"why": "LeftOut", "count": lost}, *entries] if lost else entries
            await self._note(server, json.dumps(told))
            # Those that came meanwhile may have pushed the oldest out.
            for _ in range(min(len(entries), len(waiting))):
                waiting.popleft()
            self._lost[server] = self._lost.get(server, 0) - lost
        del self._waiting[server]


def entry_of(refusal: Refusal, request: Request | None) -> Entry:
    """What is told of a refusal. ``tenant`` and ``key`` are namespace/name."""
    entry: Entry = {"why": str(refusal.why), "status": refusal.status}
    if request is not None:
        entry |= {
            "request": request.request_id,
            "client": str(request.client),
            "host": _shown(request.host, 256),
            "method": _shown(request.method, 16),
            "path": _shown(request.target.partition("?")[0], 256),
        }
    if refusal.key is not None and refusal.tenant is not None:
        names = {"key": "/".join(refusal.key), "tenant": "/".join(refusal.tenant)}
        entry |= {**names, "key_sha256": refusal.key_sha256}
    return entry


def _shown(text: str, most: int) -> str:
    # PostgreSQL's jsonb takes no NUL: one such entry would hold up all that come after it.
    return "".join(c if c.isprintable() else "?" for c in text[:most])
