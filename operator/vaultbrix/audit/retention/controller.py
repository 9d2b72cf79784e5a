"""How long audit records are kept: manifests → policies in the store, and once a day what is due is dropped.

The store is asked apart from all other work; the server's own controller writes what came of it into its status.
"""

from datetime import datetime

import structlog

from vaultbrix.api.conditions import ConditionType, Reason, Verdict
from vaultbrix.api.postgresserver import PostgresServer, SecretRef
from vaultbrix.audit.retention import store
from vaultbrix.audit.retention.decisions import changes, verdict, wanted
from vaultbrix.kube.cache import Context
from vaultbrix.kube.status import Conditions
from vaultbrix.postgres.admin import audit_manager_target
from vaultbrix.postgres.connect import connect
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)


class Retention:
    """Remembers in which servers' stores what was due has been dropped, and what came of it the last time."""

    def __init__(self) -> None:
        self._applied: dict[str, tuple[SecretRef, Verdict]] = {}
        self._told: dict[str, Verdict] = {}

    def ask(self, server: PostgresServer) -> None:
        """Have what is due dropped with the next call of reconcile that succeeds, as with the first one anyway."""
        self._applied.pop(server.metadata.name, None)

    async def reconcile(self, context: Context, server: PostgresServer, now: datetime) -> None:
        """Write the policies of the server's store, and drop what is due if that was asked. Raises Expected."""
        name, reference = server.metadata.name, server.spec.audit_manager_secret_ref
        if reference is None:
            self.forget(name)
            return
        servers = [one for one in context.servers if one.spec.audit_manager_secret_ref == reference]
        tenants = [tenant for one in servers for tenant in context.tenants_of(one.metadata.name)]
        try:
            async with connect(await audit_manager_target(context.kube, server)) as connection:
                stored = await store.policies(connection)
                await store.change(connection, changes(wanted(servers, tenants), stored))
                if name not in self._applied or self._applied[name][0] != reference:
                    outcome = await store.apply(connection, now)
                    for gone in outcome.dropped:
                        log.info("audit records dropped", partition=gone.partition.name, rows=gone.rows)
                    for one in servers:
                        self._applied[one.metadata.name] = (reference, verdict(outcome, now))
        except Expected as error:
            message = error.message
            if error.reason is Reason.INSUFFICIENT_PRIVILEGE:
                message = "the login of spec.auditManagerSecretRef must be a member of audit_manage in the audit store"
            self._told[name] = (False, error.reason, message)
            self._applied.pop(name, None)
            raise
        self._told[name] = self._applied[name][1]

    def told(self, name: str) -> Verdict | None:
        """What the server's condition is to say; None while nothing is known."""
        return self._told.get(name)

    def report(self, context: Context, server: PostgresServer, conditions: Conditions) -> None:
        """Set AuditRetentionApplied, where a store is to be looked after."""
        name = server.metadata.name
        if server.spec.audit_manager_secret_ref is None:
            asking = [server.spec.audit_retention, *(t.spec.audit_retention for t in context.tenants_of(name))]
            if any(asking):
                message = "auditRetention is set but not applied: set spec.auditManagerSecretRef of the PostgresServer"
                conditions.set(ConditionType.AUDIT_RETENTION_APPLIED, False, Reason.NO_AUDIT_STORE, message)
            return
        found = self.told(name)
        if found is None:
            conditions.keep(ConditionType.AUDIT_RETENTION_APPLIED)
        else:
            conditions.set(ConditionType.AUDIT_RETENTION_APPLIED, *found)

    def forget(self, name: str) -> None:
        """Of a server that is gone, or whose store is no longer looked after."""
        self._applied.pop(name, None)
        self._told.pop(name, None)
