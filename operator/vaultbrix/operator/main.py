"""``vaultbrix operator``: the reconcilers, one leader among the replicas."""

import asyncio
from dataclasses import dataclass

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from vaultbrix.kube.cache import Context, Settings
from vaultbrix.kube.client import Kube
from vaultbrix.kube.lease import Lease, lead
from vaultbrix.operator.manager import Manager
from vaultbrix.operator.metrics import ServerMetrics, handler
from vaultbrix.operator.watch import watch
from vaultbrix.runtime.probes import probes

LEASE = "vaultbrix-operator"


@dataclass(frozen=True)
class Options:
    """Command line of the operator."""

    settings: Settings
    identity: str
    probe_port: int
    resync_minutes: int


async def main(options: Options) -> None:
    """Until cancelled, or until the Lease is lost."""
    kube = await Kube.connect("vaultbrix-operator")
    try:
        context = Context(kube, options.settings)
        # A replica that waits for the Lease is as ready as it can be.
        async with probes(options.probe_port, lambda: True, handler(ServerMetrics(lambda: context.servers))):
            lease = Lease(kube, name=LEASE, namespace=options.settings.namespace, identity=options.identity)
            await lead(lease, lambda: _work(context, options))
    finally:
        await kube.close()


async def _work(context: Context, options: Options) -> None:
    manager = Manager(context)
    await manager.start()
    scheduler = AsyncIOScheduler(timezone="UTC")
    scheduler.add_job(
        manager.resync, "interval", minutes=options.resync_minutes, misfire_grace_time=None, coalesce=True
    )
    # Done when it starts, too: an operator that is often started anew must not put it off for ever.
    scheduler.add_job(manager.expire, "interval", hours=24, misfire_grace_time=None, coalesce=True)
    scheduler.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(manager.run())
            group.create_task(watch(manager))
    finally:
        scheduler.shutdown(wait=False)
