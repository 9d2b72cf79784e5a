"""How many requests a key may make: a bucket for each that fills at a steady rate (a token bucket). Pure.

Each replica counts for itself.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_MOST_IDLE = 1000


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Limits(Generic[Key]):
    """``rate`` requests per second on average, and up to ``burst`` at once; a rate of 0 limits nothing."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._buckets: dict[Key, _Bucket] = {}

    def seconds_to_wait(self, key: Key, now: float) -> float:
        """Count a request at ``now`` (seconds of a clock that never goes back): 0, or how long it is too early."""
        if self._rate <= 0:
            return 0.0
        bucket = self._buckets.get(key)
        if bucket is None:
            self._forget_full(now)
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.left < 1:
            return (1 - bucket.left) / self._rate
        bucket.left -= 1
        return 0.0

    def _forget_full(self, now: float) -> None:
        # One that is full again says no more than one that is not there.
        if len(self._buckets) >= _MOST_IDLE:
            time_to_fill = self._burst / self._rate
            self._buckets = {key: b for key, b in self._buckets.items() if now - b.at < time_to_fill}
