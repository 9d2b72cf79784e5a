"""Reconciles PostgresServers: installs the gate, keeps the base NetworkPolicy, and sees how the agents do."""

from datetime import UTC, datetime, timedelta

from vaultbrix.access.controller import Access
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.audit.flow.controller import AuditFlows
from vaultbrix.audit.retention.controller import Retention
from vaultbrix.ddl.controller import Runs
from vaultbrix.ddl.gate import drift, schema
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.secrets import SecretKey
from vaultbrix.kube.status import write_status
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected
from vaultbrix.servers.agents import look_at_agents
from vaultbrix.servers.decisions import GateReport, ServerView, server_status
from vaultbrix.servers.facts import read_facts

# How often a ready server is looked at, so that switched-off guards are put back and a lost server is noticed.
CHECK_EVERY = timedelta(seconds=60)

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
) -> None:
    """Have PostgresServers reconciled: when they change, when what they refer to does, and every minute."""
    controller = ServerController(kube, cache, admin, flows, retention, runs, access)
    queue = registry.queue("PostgresServer", controller.reconcile, workers=WORKERS)

    def server_changed(change: Change[PostgresServer]) -> None:
        if not change.own:
            queue.add(change.resource.metadata.name)

    def secret_changed(secret: SecretKey) -> None:
        for server in cache.servers:
            if secret in _secrets_of(server):
                queue.add(server.metadata.name)

    def resync() -> None:
        for server in cache.servers:
            queue.add(server.metadata.name)

    registry.on_change(PostgresServer, server_changed)
    registry.on_resync(resync)
    admin.secrets.on_change(secret_changed)
    flows.changed = retention.changed = queue.add


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
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._admin = admin
        self._flows = flows
        self._retention = retention
        self._runs = runs
        self._access = access

    async def reconcile(self, name: str) -> datetime | None:
        """Make the server ready for tenants; returns when to look again. Raises Expected after the status says so."""
        server, now = self._cache.servers.get("", name), datetime.now(UTC)
        if server is None:
            await self._access.policies.remove_base(name)
            return None
        gate, failure = None, None
        try:
            gate = await self._prepare(server, now)
        except Expected as error:
            failure = error
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
            await self._runs.sweep(connection)
            await self._access.logins.sweep(connection, now)
        await self._access.policies.reconcile_base(server)
        return GateReport(facts, version, risks)

    async def _gather(
        self, server: PostgresServer, gate: GateReport | None, failure: Expected | None, now: datetime
    ) -> ServerView:
        agents, alive = await look_at_agents(self._kube, server)
        tenants = self._cache.tenants_of(server.metadata.name)
        verdicts = [v for tenant in tenants for v in self._access.verdicts.of_tenant(tenant.key, now).values()]
        return ServerView(
            agents=agents,
            audit_flowing=self._flows.state(server, alive, now),
            anchor=self._flows.next_anchor(server, now),
            retention=self._retention.states(server),
            tenants=len(tenants),
            open_rules=sum(verdict.grant is not None for verdict in verdicts),
            gate=gate,
            failure=failure,
        )
