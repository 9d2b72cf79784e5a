"""``vaultbrix operator``: has all subjects register their work, and runs it in the replica that leads."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from vaultbrix.access import controller as access
from vaultbrix.admission import controller as admission
from vaultbrix.admission.policies import Policies, PolicyList
from vaultbrix.audit.flow.controller import AuditFlows
from vaultbrix.audit.retention.controller import Retention
from vaultbrix.dataapi import controller as dataapi
from vaultbrix.dataapi.serving import controller as serving
from vaultbrix.dataapi.serving.secret import ServerSecrets
from vaultbrix.ddl import controller as ddl
from vaultbrix.ddl.run import JobSettings, RunContext
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.definitions import Definitions
from vaultbrix.kube.lease import Lease, lead
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.secrets import Secrets
from vaultbrix.operator.manager import Manager
from vaultbrix.operator.metrics import ServerMetrics, handler
from vaultbrix.operator.watch import watch
from vaultbrix.postgres.admin import Admin
from vaultbrix.postgres.pool import Pool
from vaultbrix.runtime.probes import probes
from vaultbrix.servers import controller as servers
from vaultbrix.servers import ended_sessions
from vaultbrix.tenants import controller as tenants

LEASE = "vaultbrix-operator"

CLOSE_IDLE_EVERY = timedelta(seconds=30)


@dataclass(frozen=True)
class Options:
    """Command line of the operator. ``namespace`` is its own."""

    namespace: str
    jobs: JobSettings
    identity: str
    probe_port: int
    resync_minutes: int
    policies: PolicyList | None = None


async def main(options: Options) -> None:
    """Run the operator until cancelled. Raises LeaseLost when another replica may lead."""
    kube, cache = await Kube.connect("vaultbrix-operator"), Cache()
    try:
        # A replica that waits for the Lease is as ready as it can be.
        async with probes(options.probe_port, lambda: True, handler(ServerMetrics(lambda: cache.servers))):
            lease = Lease(kube, name=LEASE, namespace=options.namespace, identity=options.identity)
            await lead(lease, lambda: _work(kube, cache, options))
    finally:
        await kube.close()


def register_subjects(
    kube: Kube, cache: Cache, admin: Admin, options: Options, definitions: Definitions | None = None
) -> Registry:
    """Register the work of all subjects, each after those that it builds on.

    ``definitions`` is what was looked at before, if anything was.
    """
    registry = Registry()
    policies = Policies(kube, options.policies)
    admission.register(registry, kube, cache, policies)
    flows, retention = AuditFlows(registry, cache, admin), Retention(registry, cache, admin)
    runs = ddl.register(registry, RunContext(kube, cache, admin, options.jobs), policies)
    drift = tenants.register(registry, kube, cache, admin)
    dataapi.register(registry, kube, cache, admin)
    places = ServerSecrets(options.jobs.namespace, before=options.namespace)
    serving.register(registry, kube, cache, admin, places=places, drift=drift)
    rules = access.register(registry, kube, cache, admin, drift=drift, policies=policies)
    servers.register(
        registry,
        kube,
        cache,
        admin,
        flows=flows,
        retention=retention,
        runs=runs,
        access=rules,
        policies=policies,
        definitions=definitions or Definitions(kube),
    )
    ended_sessions.register(registry, kube, cache)
    return registry


async def _work(kube: Kube, cache: Cache, options: Options) -> None:
    secrets, pool = Secrets(kube), Pool()
    definitions = Definitions(kube)
    # Before objects are listed, which fails for a kind that is not installed.
    await definitions.look()
    registry = register_subjects(kube, cache, Admin(secrets, pool), options, definitions)
    registry.every(CLOSE_IDLE_EVERY, pool.close_idle)
    manager = Manager(kube, cache, registry, resync_minutes=options.resync_minutes)
    try:
        await manager.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(manager.run())
            group.create_task(watch(manager.informers))
    finally:
        await secrets.close()
        await pool.close()
