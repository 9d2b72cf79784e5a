"""Runs what the subjects registered. Knows neither kopf nor any kind by name."""

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
    """Runs the work of a registry. Call ``start``, then ``run``, and feed ``informers`` from a watch."""

    def __init__(self, kube: Kube, cache: Cache, registry: Registry, *, resync_minutes: int = 10) -> None:
        cache.listener = registry.notify
        self._registry = registry
        self._resync_minutes = resync_minutes
        self.informers: dict[type[Resource], Informer[Any]] = {
            model: Informer(kube, cache, model) for model in cache.stores
        }

    async def start(self) -> None:
        """List every object before the first decision, since a server not seen yet would look deleted."""
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
        """Compare everything again, for objects that vanished unseen and for drift outside of Kubernetes."""
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
        """Have each subject compare everything; one that cannot do so now keeps no other from it."""
        for work in self._registry.resyncs:
            await _logged(work)

    async def _relist(self) -> None:
        for informer in self.informers.values():
            await informer.relist()


async def _logged(work: Work) -> None:
    """Do the work; an expected failure is only logged, since the work comes again by itself."""
    try:
        await perform(work)
    except Expected as error:
        log.warning("not done now", message=error.message)
