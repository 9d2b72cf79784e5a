"""Runs what the subjects registered: the operator without kopf, and without a word about any kind."""

import asyncio
from typing import Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from vaultbrix.api.meta import Resource
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.informer import Informer
from vaultbrix.kube.registry import Registry, Work, perform
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)


class Manager:
    """Give ``informers`` the events of a watch, and ``run`` it once it has started."""

    def __init__(self, kube: Kube, cache: Cache, registry: Registry, *, resync_minutes: int = 10) -> None:
        cache.listener = registry.notify
        self._registry = registry
        self._resync_minutes = resync_minutes
        self.informers: dict[type[Resource], Informer[Any]] = {
            model: Informer(kube, cache, model) for model in cache.stores
        }

    async def start(self) -> None:
        """Know every object before the first decision: a server not seen yet must not look deleted."""
        failures = 0
        while True:
            try:
                await self._relist()
            except Expected as error:
                failures += 1
                log.warning("cannot list", message=error.message)
                await asyncio.sleep(pause_after(failures, 0.0))
            else:
                break
        await self._compare()

    async def resync(self) -> None:
        """Compare everything again: objects that vanished unseen, and drift outside of Kubernetes."""
        await _logged(self._relist)
        await self._compare()

    async def run(self) -> None:
        """Work until cancelled."""
        scheduler = AsyncIOScheduler(timezone="UTC", job_defaults={"misfire_grace_time": None, "coalesce": True})
        scheduler.add_job(self.resync, "interval", minutes=self._resync_minutes)
        for periodic in self._registry.periodic:
            seconds = periodic.interval.total_seconds()
            scheduler.add_job(_logged, "interval", seconds=seconds, args=[periodic.work])
        scheduler.start()
        try:
            async with asyncio.TaskGroup() as group:
                for queue in self._registry.queues:
                    group.create_task(queue.run())
        finally:
            scheduler.shutdown(wait=False)

    async def _compare(self) -> None:
        """Each subject for itself: one that cannot now keeps no other from it."""
        for work in self._registry.resyncs:
            await _logged(work)

    async def _relist(self) -> None:
        for informer in self.informers.values():
            await informer.relist()


async def _logged(work: Work) -> None:
    """Do it; what is expected to fail is logged, and comes again by itself."""
    try:
        await perform(work)
    except Expected as error:
        log.warning("not done now", message=error.message)
