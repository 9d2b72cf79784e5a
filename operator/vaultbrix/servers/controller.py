"""Reconciles PostgresServers: installs the gate, keeps the base NetworkPolicy, and sees how the agents do."""

from datetime import UTC, datetime, timedelta

import structlog

from vaultbrix.access.controller import Access
from vaultbrix.admission.policies import Policies
from vaultbrix.api.conditions import State
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.audit.flow.controller import AuditFlows
from vaultbrix.audit.retention.controller import Retention
from vaultbrix.ddl.controller import Runs
from vaultbrix.ddl.gate import drift, schema
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.definitions import Definitions
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.secrets import SecretKey
from vaultbrix.kube.status import set_finalizer, write_status
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected
from vaultbrix.servers.agents import look_at_agents
from vaultbrix.servers.certificate import check_certificate
from vaultbrix.servers.decisions import (
    NO_AUTHORITY,
    GateReport,
    ServerView,
    endpoint_certificate,
    server_status,
    tenants_remain,
)
from vaultbrix.servers.facts import read_facts
from vaultbrix.servers.orphans.controller import Orphans

log = structlog.get_logger(__name__)

# How often a ready server is looked at, so that switched-off guards are put back and a lost server is noticed.
CHECK_EVERY = timedelta(seconds=60)

# A server is there for as long as Tenants are, which could not be locked or dropped without it.
FINALIZER = "vaultbrix.com/postgresserver"

# Five objects' metadata, unless one of them changed.
LOOK_AT_DEFINITIONS_EVERY = timedelta(seconds=30)

WORKERS = 4


def register(
    registry: Registry,
    kube: Kube,
    cache: Cache,
    admin: Admin,
    *,
    flows: AuditFlows,
    retention: Retention,
    runs: Runs,
    access: Access,
    policies: Policies,
    definitions: Definitions,
) -> None:
    """Have PostgresServers reconciled: when they change, when what they refer to does, and every minute."""
    orphans = Orphans(registry, kube, cache, admin, access=access, runs=runs)
    controller = ServerController(kube, cache, admin, flows, retention, runs, access, orphans, policies, definitions)
    queue = registry.queue("PostgresServer", controller.reconcile, workers=WORKERS)

    def server_changed(change: Change[PostgresServer]) -> None:
        if not change.own:
            queue.add(change.resource.metadata.name)

    def tenant_changed(change: Change[Tenant]) -> None:
        server = cache.server_of(change.resource)
        if change.gone and server is not None and server.deleting:
            queue.add(server.metadata.name)

    def secret_changed(secret: SecretKey) -> None:
        for server in cache.servers:
            if secret in _secrets_of(server):
                queue.add(server.metadata.name)

    def resync() -> None:
        for server in cache.servers:
            queue.add(server.metadata.name)

    registry.on_change(PostgresServer, server_changed)
    registry.on_change(Tenant, tenant_changed)
    registry.on_resync(resync)
    policies.on_change(lambda _: resync())
    definitions.on_change(lambda _: resync())
    registry.every(LOOK_AT_DEFINITIONS_EVERY, definitions.look)
    admin.secrets.on_change(secret_changed)
    flows.changed = retention.changed = orphans.changed = queue.add


def _secrets_of(server: PostgresServer) -> set[SecretKey]:
    spec = server.spec
    references = (
        spec.admin_secret_ref,
        spec.tls.ca_secret_ref,
        spec.audit_secret_ref,
        spec.audit_manager_secret_ref,
    )
    return {(reference.namespace, reference.name) for reference in references if reference is not None}


class ServerController:
    """Makes servers ready for tenants."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        admin: Admin,
        flows: AuditFlows,
        retention: Retention,
        runs: Runs,
        access: Access,
        orphans: Orphans,
        policies: Policies,
        definitions: Definitions,
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._admin = admin
        self._flows = flows
        self._retention = retention
        self._runs = runs
        self._access = access
        self._orphans = orphans
        self._policies = policies
        self._definitions = definitions

    async def reconcile(self, name: str) -> datetime | None:
        """Make the server ready for tenants; returns when to look again. Raises Expected after the status says so."""
        server, now = self._cache.servers.get("", name), datetime.now(UTC)
        if server is None:
            await self._access.policies.remove_base(name)
            return None
        tenants = self._cache.tenants_of(name)
        if server.deleting and not tenants:
            await set_finalizer(self._kube, server, FINALIZER, present=False)
            return None
        if not server.deleting and FINALIZER not in server.metadata.finalizers:
            server = await set_finalizer(self._kube, server, FINALIZER, present=True)
            self._cache.refresh(server)
        gate, failure = None, None
        try:
            gate = await self._prepare(server, now)
        except Expected as error:
            failure = error
        if server.deleting:
            failure = tenants_remain(tenants)
        view = await self._gather(server, gate, failure, now)
        await write_status(self._kube, self._cache, server, server_status(server, view, now))
        if failure is not None:
            raise failure
        return now + CHECK_EVERY

    async def _prepare(self, server: PostgresServer, now: datetime) -> GateReport:
        """Install the gate where it is missing, and drop logins and passes that belong to nothing. Raises Expected."""
        async with self._admin.connection(server) as connection:
            facts = await read_facts(connection)
            version = await schema.install(connection)
            risks = await drift.audit_gate(connection)
            ended = await self._runs.sweep(connection)
            ended += await self._access.logins.sweep(connection, now)
        await self._orphans.ended(server, ended)
        await self._access.policies.reconcile_base(server)
        return GateReport(facts, version, risks)

    async def _gather(
        self, server: PostgresServer, gate: GateReport | None, failure: Expected | None, now: datetime
    ) -> ServerView:
        agents, alive = await look_at_agents(self._kube, server)
        tenants = self._cache.tenants_of(server.metadata.name)
        verdicts = [v for tenant in tenants for v in self._access.verdicts.of_tenant(tenant.key, now).values()]
        certificate = await self._look_at_certificate(server) if failure is None else None
        return ServerView(
            agents=agents,
            audit_flowing=self._flows.state(server, alive, now),
            anchor=self._flows.next_anchor(server, now),
            retention=self._retention.states(server),
            tenants=len(tenants),
            open_rules=sum(verdict.grant is not None for verdict in verdicts),
            gate=gate,
            failure=failure,
            certificate=certificate,
            no_orphans=self._orphans.state(server),
            orphans=self._orphans.listed(server),
            admission=self._policies.state(),
            definitions=self._definitions.state,
        )

    async def _look_at_certificate(self, server: PostgresServer) -> State | None:
        """What clients can know the server by; None when it cannot be looked at now.

        Asked where the operator connects: there is the same server behind the public endpoint, or no rule could match.
        """
        if server.spec.tls.ca_secret_ref is None:
            return NO_AUTHORITY
        spec = server.spec
        try:
            ca = await self._admin.certificate_authority(server)
            untrusted = await check_certificate(spec.host, spec.port, name=server.endpoint.host, ca=ca)
        except Expected as error:
            log.warning("certificate", server=server.metadata.name, message=error.message)
            return None
        return endpoint_certificate(server, untrusted)
