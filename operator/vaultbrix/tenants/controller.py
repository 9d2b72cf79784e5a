"""Reconciles Tenants: makes the Secret, then role and schema; on deletion, locks or drops them."""

from collections.abc import Set
from datetime import UTC, datetime

from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.login_names import logins_of
from vaultbrix.api.namespace import Namespace
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Credentials, CredentialsStatus, DeletionPolicy, Tenant
from vaultbrix.kube import events
from vaultbrix.kube.cache import Cache, TenantKey
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.secrets import SecretKey
from vaultbrix.kube.status import set_finalizer, write_status
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected
from vaultbrix.tenants import claims, deletion, role, rule_logins
from vaultbrix.tenants.decisions import as_specified_before, ready_server, status, tenant_role
from vaultbrix.tenants.drift.controller import RoleDrift
from vaultbrix.tenants.placement import Placement, await_gate, owner_of, place
from vaultbrix.tenants.rotation.decisions import event, is_told, next_look, status_of
from vaultbrix.tenants.rotation.held import Held, hold
from vaultbrix.tenants.rotation.rotate import Settled, settle
from vaultbrix.tenants.secret import CredentialsSecret, server_identity

FINALIZER = "vaultbrix.com/tenant"

ROTATED_EVENT = "CredentialsRotated"
"""Reason of the event that says which Secret has a new password."""

WORKERS = 8


def register(registry: Registry, kube: Kube, cache: Cache, admin: Admin) -> RoleDrift:
    """Have Tenants reconciled: when they, their server or their role change, and at every resync."""
    drift = RoleDrift(registry, kube, cache, admin)
    waiting = Waiting()
    controller = TenantController(kube, cache, admin, drift, waiting)
    queue = registry.queue("Tenant", controller.reconcile, workers=WORKERS)

    def tenant_changed(change: Change[Tenant]) -> None:
        if not change.own:
            queue.add(change.resource.key)
        if change.gone:
            for key in waiting.for_room(change.resource.spec.server_ref.name):
                queue.add(key)

    def namespace_changed(change: Change[Namespace]) -> None:
        if change.decisive:
            for key in waiting.for_namespace(change.resource.metadata.name):
                queue.add(key)

    def server_changed(change: Change[PostgresServer]) -> None:
        if change.decisive:
            for tenant in cache.tenants_of(change.resource.metadata.name):
                queue.add(tenant.key)

    def secret_changed(secret: SecretKey) -> None:
        for server in cache.servers:
            if server.ca_secret == secret:
                for tenant in cache.tenants_of(server.metadata.name):
                    queue.add(tenant.key)

    def roles_changed(server: PostgresServer, roles: Set[str]) -> None:
        for tenant in cache.tenants_of(server.metadata.name):
            if not roles.isdisjoint(logins_of(tenant.role)):
                queue.add(tenant.key)

    def resync() -> None:
        for tenant in cache.tenants:
            queue.add(tenant.key)

    drift.on_change(roles_changed)
    registry.on_change(Tenant, tenant_changed)
    registry.on_change(Namespace, namespace_changed)
    registry.on_change(PostgresServer, server_changed)
    registry.on_resync(resync)
    admin.secrets.on_change(secret_changed)
    return drift


class Waiting:
    """Tenants without a place on a server yet, by what may give them one."""

    def __init__(self) -> None:
        self._for_namespace: dict[str, set[TenantKey]] = {}
        self._for_room: dict[str, set[TenantKey]] = {}

    def note(self, tenant: Tenant, placement: Placement) -> None:
        """Note what the Tenant may have to wait for; call before that is found out, so that no change is missed."""
        if placement.refusal is not None:
            self._for_namespace.setdefault(tenant.metadata.namespace, set()).add(tenant.key)
        elif placement.max_tenants is not None:
            self._for_room.setdefault(placement.server, set()).add(tenant.key)

    def forget(self, tenant: Tenant) -> None:
        """Note that the Tenant has its place."""
        self._for_namespace.get(tenant.metadata.namespace, set()).discard(tenant.key)
        self._for_room.get(tenant.spec.server_ref.name, set()).discard(tenant.key)

    def for_namespace(self, namespace: str) -> Set[TenantKey]:
        """Those that may wait for other labels of the namespace; they are forgotten."""
        return self._for_namespace.pop(namespace, frozenset())

    def for_room(self, server: str) -> Set[TenantKey]:
        """Those that may wait for another Tenant to go; they are forgotten."""
        return self._for_room.pop(server, frozenset())


class TenantController:
    """Makes Secret, role and schema as a Tenant asks for, and reports how far that is."""

    def __init__(self, kube: Kube, cache: Cache, admin: Admin, drift: RoleDrift, waiting: Waiting) -> None:
        self._kube = kube
        self._cache = cache
        self._admin = admin
        self._drift = drift
        self._waiting = waiting

    async def reconcile(self, key: TenantKey) -> datetime | None:
        """Make role, schema and Secret as the Tenant says; returns when there is something to do for it again.

        Raises Expected after the status says so.
        """
        tenant = self._cache.tenants.get(*key)
        if tenant is None:
            return None
        if tenant.deleting:
            try:
                await self._finalize(tenant)
            except Expected as error:
                await self._report(tenant, error, secret_written=False)
                raise
            return None
        if FINALIZER not in tenant.metadata.finalizers:
            tenant = await set_finalizer(self._kube, tenant, FINALIZER, present=True)
            if FINALIZER not in tenant.metadata.finalizers:
                return None
            self._cache.refresh(tenant)
        # A moment that no status need tell of.
        await_gate(self._cache.server_of(tenant))
        secret_written = False
        desired = tenant_role(tenant)
        try:
            server = ready_server(tenant, self._cache.server_of(tenant))
            placement = self._place(tenant, server)
            if not is_true(tenant.status.conditions, ConditionType.PROVISIONED):
                self._waiting.note(tenant, placement)
                # Before there is a Secret, which would be for nothing.
                async with self._admin.connection(server) as connection:
                    await role.prepare(connection, desired, placement)
            held = await self._hold(tenant, server)
            secret_written = True
            async with self._admin.connection(server) as connection:
                settled = await settle(self._kube, connection, tenant, desired, placement, held)
        except Expected as error:
            await self._report(tenant, error, secret_written=secret_written)
            raise
        self._waiting.forget(tenant)
        return await self._tell(tenant, server, settled)

    async def _tell(self, tenant: Tenant, server: PostgresServer, settled: Settled) -> datetime | None:
        """Say in status and events what holds now; returns when there is something to do next."""
        credentials, now, before = (
            tenant.spec.credentials or Credentials(),
            datetime.now(UTC),
            tenant.status.credentials,
        )
        held = settled.held
        done = status_of(credentials, held.note, held.username, now)
        # What differs while the status is about to say so is our own doing.
        ours = () if done == before else ("password", "VALID UNTIL")
        for login, outcome in settled.outcomes.items():
            changed = [what for what in outcome.changed if what not in ours]
            if changed and as_specified_before(tenant):
                await self._drift.tell(tenant, server, login, changed)
            self._drift.seen_right(server, login, outcome)
        if not is_told(held.note, before):
            message = event(credentials, held.note, tenant.secret_name, done)
            await events.note(self._kube, tenant, ROTATED_EVENT, message, component="vaultbrix-operator")
        await self._report(tenant, None, secret_written=True, credentials=done)
        return next_look(credentials, held.note, now)

    def _place(self, tenant: Tenant, server: PostgresServer) -> Placement:
        namespace = self._cache.namespaces.get("", tenant.metadata.namespace)
        former = self._cache.tenants.by_uid(tenant.spec.adopt) if tenant.spec.adopt else None
        return place(tenant, server, namespace, former)

    async def _report(
        self,
        tenant: Tenant,
        failure: Expected | None,
        *,
        secret_written: bool,
        credentials: CredentialsStatus | None = None,
    ) -> None:
        server, now = self._cache.server_of(tenant), datetime.now(UTC)
        new = status(tenant, server, failure, now, secret_written=secret_written, credentials=credentials)
        await write_status(self._kube, self._cache, tenant, new)

    async def _hold(self, tenant: Tenant, server: PostgresServer) -> Held:
        terms = CredentialsSecret(
            owner=tenant,
            name=tenant.secret_name,
            server=server,
            identity=await server_identity(self._admin, server),
            role=tenant.role,
            schema=tenant.role,
            remedy="name another in spec.credentials.secretName",
        )
        credentials = tenant.spec.credentials or Credentials()
        return await hold(
            self._kube,
            terms,
            credentials,
            tenant.status.credentials,
            datetime.now(UTC),
            likely_new=not tenant.status.conditions,
        )

    async def _finalize(self, tenant: Tenant) -> None:
        if FINALIZER not in tenant.metadata.finalizers:
            return
        server = self._cache.server_of(tenant)
        # A server whose object is gone cannot be reached and is no longer ours to change.
        if server is not None and is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
            await_gate(server)
            uid = tenant.metadata.uid
            async with self._admin.connection(server) as connection:
                await claims.bind(connection, tenant.role, owner_of(tenant))
                await role.lock(connection, tenant.role, uid)
                # The rules' own controller cannot do this: it finds a rule's server through the Tenant.
                await rule_logins.end_logins_of_tenant(connection, tenant.role, uid)
                if tenant.spec.deletion_policy is DeletionPolicy.DELETE:
                    await deletion.drop(connection, tenant.role, uid)
                else:
                    await claims.retain(connection, tenant.role, uid)
        await set_finalizer(self._kube, tenant, FINALIZER, present=False)
