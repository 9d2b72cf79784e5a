"""A work queue of keys: each key is worked on by one worker at a time, and none is lost.

The semantics of client-go's workqueue: a key added while it waits is there once; a key added while it is
worked on is worked on again afterwards.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

import structlog

from vaultbrix.runtime.deadlines import Deadlines
from vaultbrix.runtime.errors import Blocked, Transient

log = structlog.get_logger(__name__)

Key = TypeVar("Key", bound=Hashable)

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 60.0
BLOCKED_PAUSE = 20.0


def pause_after(failures: int, jitter: float) -> float:
    """Seconds to wait after that many failures in a row; ``jitter`` in [0, 1) spreads a herd by up to a half."""
    pause: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 20))
    return pause * (1 + jitter / 2)


class WorkQueue(Generic[Key]):
    """Keys, the times at which they come back, and the workers that process them.

    ``process`` returns when it wants to see the key again, or None. It may raise Transient (back off),
    Blocked (look again at a slow pace; an event brings the key back sooner) or anything else, which is a bug:
    logged with its traceback, then backed off like Transient.
    """

    def __init__(self, process: Callable[[Key], Awaitable[datetime | None]], *, workers: int, name: str = "") -> None:
        self.name = name
        self._process = process
        self._workers = workers
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._active: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._later: Deadlines[Key] = Deadlines()

    def add(self, key: Key) -> None:
        """Have the key processed as soon as a worker is free."""
        if key not in self._waiting:
            self._waiting.add(key)
            if key not in self._active:
                self._ready.put_nowait(key)

    def add_at(self, key: Key, when: datetime) -> None:
        """Have the key processed at a time of the wall clock, unless an earlier one is set."""
        self._later.set_earlier(key, when)

    @property
    def waiting(self) -> frozenset[Key]:
        """The keys that are to be worked on as soon as a worker is free."""
        return frozenset(self._waiting)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._later.run(self.add))
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._active.add(key)
            self._later.discard(key)
            try:
                again = await self._attempt(key)
            finally:
                self._active.discard(key)
                if key in self._waiting:
                    self._ready.put_nowait(key)
            if again is not None:
                self.add_at(key, again)

    async def _attempt(self, key: Key) -> datetime | None:
        try:
            again = await self._process(key)
        except Blocked as error:
            self._failures.pop(key, None)
            log.info("blocked", key=self._shown(key), reason=str(error.reason), message=error.message)
            return self._after(BLOCKED_PAUSE)
        except Transient as error:
            log.warning("will try again", key=self._shown(key), reason=str(error.reason), message=error.message)
        except Exception:
            log.exception("unexpected error", key=self._shown(key))
        else:
            self._failures.pop(key, None)
            return again
        self._failures[key] = self._failures.get(key, 0) + 1
        return self._after(pause_after(self._failures[key], random.random()))  # noqa: S311 - jitter

    def _shown(self, key: Key) -> str:
        parts = [part for part in key if part] if isinstance(key, tuple) else [key]
        return f"{self.name} {'/'.join(map(str, parts))}".lstrip()

    @staticmethod
    def _after(seconds: float) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=seconds)
