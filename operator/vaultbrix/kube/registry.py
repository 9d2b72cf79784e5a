"""Where the subjects register their work with the operator: listeners for changes, queues, and periodic work."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from vaultbrix.api.meta import Resource
from vaultbrix.kube.store import Change, R
from vaultbrix.runtime.queue import Key, WorkQueue

Work = Callable[[], Awaitable[None] | None]


@dataclass(frozen=True)
class Periodic:
    """Work that is done after each interval."""

    interval: timedelta
    work: Work


@dataclass
class Registry:
    """Filled by each subject's ``register``; run by the operator's manager, which knows no subject by name."""

    queues: list[WorkQueue[Any]] = field(default_factory=list)
    periodic: list[Periodic] = field(default_factory=list)
    resyncs: list[Work] = field(default_factory=list)
    _listeners: dict[type[Resource], list[Callable[[Change[Any]], None]]] = field(default_factory=dict)

    def queue(self, name: str, process: Callable[[Key], Awaitable[datetime | None]], *, workers: int) -> WorkQueue[Key]:
        """Add a queue of keys; ``workers`` of them are processed at a time."""
        queue = WorkQueue(process, workers=workers, name=name)
        self.queues.append(queue)
        return queue

    def on_change(self, model: type[R], listener: Callable[[Change[R]], None]) -> None:
        """Have a listener called with every change of a kind. It must not take longer the more objects there are."""
        self._listeners.setdefault(model, []).append(listener)

    def on_resync(self, work: Work) -> None:
        """Have work done when the operator starts to lead and whenever everything is compared again."""
        self.resyncs.append(work)

    def every(self, interval: timedelta, work: Work) -> None:
        """Have work done after each interval."""
        self.periodic.append(Periodic(interval, work))

    def notify(self, change: Change[Any]) -> None:
        """Call every listener of the kind that changed."""
        for listener in self._listeners.get(type(change.resource), ()):
            listener(change)


async def perform(work: Work) -> None:
    """Do the work, whether it returns at once or has to be awaited."""
    result = work()
    if inspect.isawaitable(result):
        await result
