"""What the subjects have the operator do: what they hear of, the queues they work on, and work that comes back."""

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
        """A queue of its own, whose keys are worked on by so many at a time."""
        queue = WorkQueue(process, workers=workers, name=name)
        self.queues.append(queue)
        return queue

    def on_change(self, model: type[R], listener: Callable[[Change[R]], None]) -> None:
        """Have every change of a kind told. A listener takes no time that grows with the number of objects."""
        self._listeners.setdefault(model, []).append(listener)

    def on_resync(self, work: Work) -> None:
        """Have this done when the operator starts to lead and whenever everything is compared again."""
        self.resyncs.append(work)

    def every(self, interval: timedelta, work: Work) -> None:
        """Have this done after each interval."""
        self.periodic.append(Periodic(interval, work))

    def tell(self, change: Change[Any]) -> None:
        """Pass a change on to whoever listens to its kind."""
        for listener in self._listeners.get(type(change.resource), ()):
            listener(change)


async def done(work: Work) -> None:
    """Do it, whether it has to be waited for or not."""
    result = work()
    if inspect.isawaitable(result):
        await result
