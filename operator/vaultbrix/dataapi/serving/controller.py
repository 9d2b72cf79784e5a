"""Has what the data API needs in each server's database, and the roles of each Tenant that is served.

Whoever runs PostgREST for tenants takes from there what it needs: the server's key, from a Secret in the namespace of
Jobs, and the objects.
"""

import secrets
from collections.abc import Set
from datetime import UTC, datetime

from vaultbrix.api.conditions import ConditionType, Reason, is_true
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.serving import roles, schema
from vaultbrix.dataapi.serving.decisions import (
    LISTENER,
    api_roles,
    password_of,
    served_before,
    server_part,
    serving_server,
    tenant_part,
    url_of,
)
from vaultbrix.dataapi.serving.secret import (
    ServerSecret,
    ServerSecrets,
    ensure_server_secret,
    read_server_secret,
    server_of_secret,
)
from vaultbrix.kube.cache import Cache, TenantKey
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.secrets import SecretKey
from vaultbrix.kube.status import write_part
from vaultbrix.kube.store import Change
from vaultbrix.postgres import scram
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Blocked, Expected
from vaultbrix.tenants.drift.controller import RoleDrift

WORKERS = 4


def register(
    registry: Registry, kube: Kube, cache: Cache, admin: Admin, *, places: ServerSecrets, drift: RoleDrift
) -> None:
    """Have servers and Tenants reconciled: when they change, and at every resync."""
    controller = ServingController(registry, kube, cache, admin, places, drift)
    registry.on_change(PostgresServer, controller.server_changed)
    registry.on_change(Tenant, controller.tenant_changed)
    registry.on_resync(controller.resync)
    admin.secrets.on_change(controller.secret_changed)
    drift.on_change(controller.roles_changed)


class ServingController:
    """Makes what serving needs, and says how it stands."""

    def __init__(
        self, registry: Registry, kube: Kube, cache: Cache, admin: Admin, places: ServerSecrets, drift: RoleDrift
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._admin = admin
        self._places = places
        self._drift = drift
        self._keys: dict[str, bytes] = {}
        self._servers = registry.queue("DataAPIServer", self.reconcile_server, workers=WORKERS)
        self._tenants = registry.queue("DataAPITenant", self.reconcile_tenant, workers=WORKERS)

    def server_changed(self, change: Change[PostgresServer]) -> None:
        """Look at the server, and at its Tenants once it has become ready for them, or is so no more."""
        name = change.resource.metadata.name
        if change.decisive:
            self._servers.add(name)
        if _serves(change.before) != _serves(change.after):
            self._look_at_tenants(name)

    def tenant_changed(self, change: Change[Tenant]) -> None:
        """Look at a Tenant that asks to be served, or did so."""
        if change.decisive and (_asks(change.before) or _asks(change.after)):
            self._tenants.add(change.resource.key)

    def secret_changed(self, secret: SecretKey) -> None:
        """Look at the server whose key was changed or deleted."""
        name = server_of_secret(self._places.namespace, secret)
        if name is not None and self._cache.servers.get("", name) is not None:
            self._servers.add(name)

    def roles_changed(self, server: PostgresServer, roles: Set[str]) -> None:
        """Look at what somebody else changed of the data API's roles."""
        if LISTENER in roles:
            self._servers.add(server.metadata.name)
        for tenant in self._cache.tenants_of(server.metadata.name):
            if _asks(tenant) and not roles.isdisjoint(api_roles(tenant).names):
                self._tenants.add(tenant.key)

    def resync(self) -> None:
        """Look at everything."""
        for server in self._cache.servers:
            self._servers.add(server.metadata.name)
        for tenant in self._cache.tenants:
            if _asks(tenant):
                self._tenants.add(tenant.key)

    def _look_at_tenants(self, server: str) -> None:
        for tenant in self._cache.tenants_of(server):
            if _asks(tenant):
                self._tenants.add(tenant.key)

    async def reconcile_server(self, name: str) -> None:
        """Have schema, logins and Secret of the server's data API. Raises Expected after the status says so."""
        server = self._cache.servers.get("", name)
        if server is None:
            self._keys.pop(name, None)
            return
        failure: Expected | None = None
        try:
            if server.spec.data_api is not None:
                await self._prepare(server)
            elif _serves(server):
                await self._lock(server)
        except Expected as error:
            failure = error
        await write_part(self._kube, self._cache, server, server_part(server, failure, datetime.now(UTC)))
        if failure is not None:
            raise failure

    async def reconcile_tenant(self, key: TenantKey) -> None:
        """Have the Tenant's roles as its spec asks for. Raises Expected after the status says so."""
        tenant = self._cache.tenants.get(*key)
        if tenant is None or tenant.deleting:
            await self._withdraw(key, tenant)
            return
        server = self._cache.server_of(tenant)
        failure: Expected | None = None
        try:
            if tenant.spec.data_api is None:
                await self._withdraw(key, tenant)
            else:
                await self._provision(tenant, serving_server(tenant, server))
        except Expected as error:
            failure = error
        part = tenant_part(tenant, url_of(tenant, server), failure, datetime.now(UTC))
        await write_part(self._kube, self._cache, tenant, part)
        if failure is not None:
            raise failure

    async def _prepare(self, server: PostgresServer) -> None:
        if not is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
            raise Blocked(Reason.SERVER_NOT_READY, "the gate is not installed yet; see GateInstalled")
        authority = await self._admin.certificate_authority(server)
        key = await ensure_server_secret(self._kube, ServerSecret(server, self._places, authority))
        async with self._admin.connection(server) as connection:
            await schema.install(connection)
            password = password_of(key, LISTENER)
            changed = await roles.ensure_listener(connection, password, secrets.token_bytes(scram.SALT_BYTES))
            for owner in await roles.owners(connection):
                tenant = self._cache.tenants.get(*owner)
                if tenant is None or tenant.deleting or not _asks(tenant):
                    await roles.withdraw(connection, owner)
        # A key that was replaced changes the password, too.
        if changed and _serves(server) and self._keys.get(server.metadata.name) == key:
            await self._drift.tell(server, server, LISTENER, changed)
        if self._keys.get(server.metadata.name, key) != key:
            # Their logins' passwords are made from it.
            self._look_at_tenants(server.metadata.name)
        self._keys[server.metadata.name] = key

    async def _lock(self, server: PostgresServer) -> None:
        """Let no PostgREST in any more; what tenants have granted stays for the day the data API is back."""
        async with self._admin.connection(server) as connection:
            for owner in await roles.owners(connection):
                await roles.lock(connection, owner)

    async def _provision(self, tenant: Tenant, server: PostgresServer) -> None:
        desired = api_roles(tenant)
        access = await read_server_secret(self._admin.secrets, self._places.namespace, server)
        async with self._admin.connection(server) as connection:
            changed = await roles.provision(
                connection, desired, password_of(access.key, desired.rest), secrets.token_bytes(scram.SALT_BYTES)
            )
        if served_before(tenant):
            for role, what in changed.items():
                await self._drift.tell(tenant, server, role, what)

    async def _withdraw(self, key: TenantKey, tenant: Tenant | None) -> None:
        """Take the roles away; where the Tenant's object is gone, its server's next look does."""
        server = self._cache.server_of(tenant)
        if server is not None and _serves(server):
            async with self._admin.connection(server) as connection:
                await roles.withdraw(connection, key)


def _asks(tenant: Tenant | None) -> bool:
    return tenant is not None and tenant.spec.data_api is not None


def _serves(server: PostgresServer | None) -> bool:
    return server is not None and is_true(server.status.conditions, ConditionType.DATA_API_READY)
