"""Tenant: Secret first, then role and schema; on deletion, lock or drop."""

import secrets
from datetime import UTC, datetime

from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import DeletionPolicy, Tenant
from vaultbrix.kube.cache import Cache, TenantKey
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.status import set_finalizer, write_status
from vaultbrix.kube.store import Change
from vaultbrix.postgres import scram
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected
from vaultbrix.tenants import role, rule_logins
from vaultbrix.tenants.decisions import ready_server, status, tenant_role
from vaultbrix.tenants.secret import CredentialsSecret, ensure_credentials

FINALIZER = "vaultbrix.com/tenant"

WORKERS = 8


def register(registry: Registry, kube: Kube, cache: Cache, admin: Admin) -> None:
    """Have Tenants reconciled: when they change, when their server does, and at every resync."""
    controller = TenantController(kube, cache, admin)
    queue = registry.queue("Tenant", controller.reconcile, workers=WORKERS)

    def tenant_changed(change: Change[Tenant]) -> None:
        if not change.own:
            queue.add(change.resource.key)

    def server_changed(change: Change[PostgresServer]) -> None:
        if change.decisive:
            for tenant in cache.tenants_of(change.resource.metadata.name):
                queue.add(tenant.key)

    def resync() -> None:
        for tenant in cache.tenants:
            queue.add(tenant.key)

    registry.on_change(Tenant, tenant_changed)
    registry.on_change(PostgresServer, server_changed)
    registry.on_resync(resync)


class TenantController:
    """Makes what a Tenant asks for."""

    def __init__(self, kube: Kube, cache: Cache, admin: Admin) -> None:
        self._kube = kube
        self._cache = cache
        self._admin = admin

    async def reconcile(self, key: TenantKey) -> None:
        """Make role, schema and Secret as the Tenant says. Raises Expected after the status says so."""
        tenant = self._cache.tenants.get(*key)
        if tenant is None:
            return
        if tenant.deleting:
            try:
                await self._finalize(tenant)
            except Expected as error:
                await self._report(tenant, error, secret_written=False)
                raise
            return
        if FINALIZER not in tenant.metadata.finalizers:
            tenant = await set_finalizer(self._kube, tenant, FINALIZER, present=True)
            if FINALIZER not in tenant.metadata.finalizers:
                return
            self._cache.refresh(tenant)
        secret_written = False
        try:
            server = ready_server(tenant, self._cache.server_of(tenant))
            password = await self._credentials(tenant, server)
            secret_written = True
            async with self._admin.connection(server) as connection:
                salt = secrets.token_bytes(scram.SALT_BYTES)
                await role.provision(connection, tenant_role(tenant), password, salt)
        except Expected as error:
            await self._report(tenant, error, secret_written=secret_written)
            raise
        await self._report(tenant, None, secret_written=True)

    async def _report(self, tenant: Tenant, failure: Expected | None, *, secret_written: bool) -> None:
        new = status(tenant, failure, datetime.now(UTC), secret_written=secret_written)
        await write_status(self._kube, self._cache, tenant, new)

    async def _credentials(self, tenant: Tenant, server: PostgresServer) -> str:
        credentials = CredentialsSecret(
            owner=tenant,
            name=tenant.secret_name,
            server=server,
            role=tenant.role,
            schema=tenant.role,
            remedy="name another in spec.credentials.secretName",
        )
        return await ensure_credentials(self._kube, credentials, likely_new=not tenant.status.conditions)

    async def _finalize(self, tenant: Tenant) -> None:
        if FINALIZER not in tenant.metadata.finalizers:
            return
        server = self._cache.server_of(tenant)
        # A server whose object is gone cannot be reached and is no longer ours to change.
        if server is not None and is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
            async with self._admin.connection(server) as connection:
                await role.lock(connection, tenant.role, tenant.key)
                # Rules find their server through the Tenant, so they cannot.
                await rule_logins.end_of_tenant(connection, tenant.role, tenant.key)
                if tenant.spec.deletion_policy is DeletionPolicy.DELETE:
                    await role.drop(connection, tenant.role, tenant.key)
        await set_finalizer(self._kube, tenant, FINALIZER, present=False)
