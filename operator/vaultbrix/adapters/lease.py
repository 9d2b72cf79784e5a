"""One leader among the operator's replicas, by a coordination.k8s.io Lease."""

import asyncio
from collections.abc import Awaitable, Callable

from kubernetes.aio.leaderelection import electionconfig, leaderelection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from vaultbrix.adapters.kube import Kube

LEASE_SECONDS = 15
RENEW_DEADLINE_SECONDS = 10
RETRY_SECONDS = 2


class LeaseLost(Exception):
    """Another replica may lead by now; the process must end at once."""


async def lead(kube: Kube, *, name: str, namespace: str, identity: str, work: Callable[[], Awaitable[None]]) -> None:
    """Wait for the Lease, then do the work for as long as it is renewed. Raises LeaseLost, or what the work raises."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def started() -> None:
        try:
            await work()
        except Exception as error:
            if not over.done():
                over.set_exception(error)
        else:
            if not over.done():
                over.set_result(None)

    async def stopped() -> None:
        if not over.done():
            over.set_exception(LeaseLost("the Lease was not renewed in time"))

    election = leaderelection.LeaderElection(
        electionconfig.Config(
            LeaseLock(name, namespace, identity, kube.client),
            lease_duration=LEASE_SECONDS,
            renew_deadline=RENEW_DEADLINE_SECONDS,
            retry_period=RETRY_SECONDS,
            onstarted_leading=started,
            onstopped_leading=stopped,
        )
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(election.run())
        try:
            await over
        finally:
            running.cancel()
