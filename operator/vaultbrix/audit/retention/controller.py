"""How long audit records are kept: manifests → policies in the store, and once a day what is due is dropped.

The store is asked apart from all other work; the server's own controller writes what came of it into its status.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from vaultbrix.api.conditions import ConditionType, Reason, State
from vaultbrix.api.postgresserver import PostgresServer, SecretRef
from vaultbrix.api.tenant import Tenant
from vaultbrix.audit.retention import store
from vaultbrix.audit.retention.decisions import changes, required_policies, verdict
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

# A partition that is held, or a store that is down, holds up nothing but retention.
WORKERS = 1
# Many Tenants at once are one change of the store's policies.
LINGER = timedelta(seconds=3)
EXPIRE_EVERY = timedelta(hours=24)


class Retention:
    """Remembers in which servers' stores what was due has been dropped, and what came of it the last time.

    ``changed``, set by the server's own controller, is called with the name of a server whose status may differ.
    """

    def __init__(self, registry: Registry, cache: Cache, admin: Admin) -> None:
        self._cache = cache
        self._admin = admin
        self._applied: dict[str, tuple[SecretRef, State]] = {}
        self._outcomes: dict[str, State] = {}
        self._queue = registry.queue("AuditRetention", self._retain, workers=WORKERS)
        self.changed: Callable[[str], None] = lambda _: None
        registry.on_change(PostgresServer, self._server_changed)
        registry.on_change(Tenant, self._tenant_changed)
        registry.on_resync(self._look_at_all)
        # The first reconcile does it too: an operator that is often started anew must not put it off for ever.
        registry.every(EXPIRE_EVERY, self._expire)

    def states(self, server: PostgresServer) -> dict[ConditionType, State | None]:
        """What AuditRetentionApplied says, None while that is not known; nothing where nobody asks for retention."""
        type_ = ConditionType.AUDIT_RETENTION_APPLIED
        if server.spec.audit_manager_secret_ref is not None:
            return {type_: self._outcomes.get(server.metadata.name)}
        tenants = self._cache.tenants_of(server.metadata.name)
        if not any([server.spec.audit_retention, *(tenant.spec.audit_retention for tenant in tenants)]):
            return {}
        message = "auditRetention is set but not applied: set spec.auditManagerSecretRef of the PostgresServer"
        return {type_: State(False, Reason.NO_AUDIT_STORE, message)}

    def _server_changed(self, change: Change[PostgresServer]) -> None:
        name = change.resource.metadata.name
        if change.gone:
            self._forget(name)
        elif change.decisive:
            self._soon(name)

    def _tenant_changed(self, change: Change[Tenant]) -> None:
        asks = any(tenant.spec.audit_retention for tenant in (change.before, change.after) if tenant is not None)
        if change.decisive and asks:
            self._soon(change.resource.spec.server_ref.name)

    def _soon(self, name: str) -> None:
        self._queue.add_at(name, datetime.now(UTC) + LINGER)

    def _look_at_all(self) -> None:
        for server in self._cache.servers:
            self._queue.add(server.metadata.name)

    def _expire(self) -> None:
        """Have what is due dropped by the next reconcile that succeeds, as by the first one anyway."""
        self._applied.clear()
        self._look_at_all()

    async def _retain(self, name: str) -> None:
        server = self._cache.servers.get("", name)
        if server is None:
            self._forget(name)
            return
        before = self._outcomes.get(name)
        try:
            await self._reconcile(server, datetime.now(UTC))
        finally:
            if self._outcomes.get(name) != before:
                self.changed(name)

    async def _reconcile(self, server: PostgresServer, now: datetime) -> None:
        """Write the policies of the server's store, and drop what is due if that was asked. Raises Expected."""
        name, reference = server.metadata.name, server.spec.audit_manager_secret_ref
        if reference is None:
            self._forget(name)
            return
        servers = [one for one in self._cache.servers if one.spec.audit_manager_secret_ref == reference]
        tenants = [tenant for one in servers for tenant in self._cache.tenants_of(one.metadata.name)]
        try:
            async with self._admin.audit_manager(server) as connection:
                stored = await store.policies(connection)
                await store.change(connection, changes(required_policies(servers, tenants), stored))
                if name not in self._applied or self._applied[name][0] != reference:
                    outcome = await store.apply(connection, now)
                    for dropped in outcome.dropped:
                        log.info("audit records dropped", partition=dropped.partition.name, rows=dropped.rows)
                    for one in servers:
                        self._applied[one.metadata.name] = (reference, State(*verdict(outcome, now)))
        except Expected as error:
            message = error.message
            if error.reason is Reason.INSUFFICIENT_PRIVILEGE:
                message = "the login of spec.auditManagerSecretRef must be a member of audit_manage in the audit store"
            self._outcomes[name] = State(False, error.reason, message)
            self._applied.pop(name, None)
            raise
        self._outcomes[name] = self._applied[name][1]

    def _forget(self, name: str) -> None:
        self._applied.pop(name, None)
        self._outcomes.pop(name, None)
