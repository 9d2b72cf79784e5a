"""Calls a function for each key when its deadline comes by the wall clock: one heap, one task."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

# In seconds. The wall clock may be set forward while we sleep; no key is later than this because of it.
LONGEST_SLEEP = 1.0

_SPARE = 100


class Deadlines(Generic[Key]):
    """Keys with the time at which each is due, the last one that was set. A time in the past is due at once."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._due: dict[Key, datetime] = {}
        self._heap: list[tuple[datetime, int, Key]] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()

    def set(self, key: Key, when: datetime) -> None:
        """Have the key due at ``when`` (aware)."""
        if self._due.get(key) != when:
            self._due[key] = when
            heapq.heappush(self._heap, (when, next(self._order), key))
            if len(self._heap) > 2 * len(self._due) + _SPARE:
                self._compact()
            self._changed.set()

    def set_earlier(self, key: Key, when: datetime) -> None:
        """Have the key due at ``when`` unless it is due before that."""
        if key not in self._due or when < self._due[key]:
            self.set(key, when)

    def discard(self, key: Key) -> None:
        """Forget the key's deadline."""
        self._due.pop(key, None)

    def pop_due(self, now: datetime) -> list[Key]:
        """Remove and return the keys due by ``now``, earliest first."""
        due = []
        while self._heap and (self._stale() or self._heap[0][0] <= now):
            when, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == when:
                del self._due[key]
                due.append(key)
        return due

    def seconds_to_next(self, now: datetime) -> float | None:
        """Seconds until the next key is due, at least 0; None when there is none."""
        while self._heap and self._stale():
            heapq.heappop(self._heap)
        return max(0.0, (self._heap[0][0] - now).total_seconds()) if self._heap else None

    def _compact(self) -> None:
        # Entries that were replaced or discarded stay in the heap until they are due, which may be never.
        self._heap = [(when, next(self._order), key) for key, when in self._due.items()]
        heapq.heapify(self._heap)

    def _stale(self) -> bool:
        when, _, key = self._heap[0]
        return self._due.get(key) != when

    async def run(self, fire: Callable[[Key], None]) -> None:
        """Call ``fire`` for each key when it is due, until cancelled."""
        while True:
            self._changed.clear()
            for key in self.pop_due(self._now()):
                fire(key)
            pause = self.seconds_to_next(self._now())
            try:
                # asyncio.wait_for would not do: it may swallow a cancellation that comes together with the event.
                async with asyncio.timeout(None if pause is None else min(pause, LONGEST_SLEEP)):
                    await self._changed.wait()
            except TimeoutError:
                pass
