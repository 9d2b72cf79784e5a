"""Receipts of ended rules: counted in the audit store, apart from all other work, so that a store that is down
holds up nothing but receipts."""

from datetime import datetime

from vaultbrix.access.receipts import store
from vaultbrix.access.receipts.decisions import blank, next_attempt, receipt, still_open, window
from vaultbrix.api.accessrule import AccessRule, Receipt
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.cache import Context
from vaultbrix.postgres.admin import audit_target
from vaultbrix.postgres.connect import connect
from vaultbrix.runtime.errors import Expected


class Receipts:
    """Counts, and keeps what it found until the rule's own controller has written it: a status has one writer."""

    def __init__(self) -> None:
        self._found: dict[str, Receipt] = {}

    def of(self, context: Context, rule: AccessRule) -> Receipt | None:
        """The receipt to write now; ``rule`` has the status that is about to be written."""
        closed_at = rule.status.closed_at
        if closed_at is None:
            return None
        uid = rule.metadata.uid
        if self._found.get(uid) == rule.status.receipt:
            self._found.pop(uid, None)
        found = self._found.get(uid) or rule.status.receipt
        if found is not None:
            return found
        server = _server(context, rule)
        if server is None or server.spec.audit_secret_ref is None:
            name = f"PostgresServer {server.metadata.name}" if server else "the rule's PostgresServer"
            return blank(rule, closed_at, f"{name} names no audit store (spec.auditSecretRef); nothing is counted")
        return blank(rule, closed_at, "not counted yet")

    def due(self, context: Context, rule: AccessRule, now: datetime) -> datetime | None:
        """When the store is to be asked, None when there is no more to ask."""
        status = rule.status
        if status.closed_at is None or rule.deleting or (status.receipt is not None and status.receipt.complete):
            return None
        server = _server(context, rule)
        if server is None or server.spec.audit_secret_ref is None:
            return None
        return next_attempt(status.closed_at, now)

    async def count(self, context: Context, rule: AccessRule) -> bool:
        """Ask the store; returns whether there is a new receipt to write. Never raises Expected."""
        tenant, server, closed_at = context.tenant_of(rule), _server(context, rule), rule.status.closed_at
        if tenant is None or server is None or closed_at is None:
            return False
        asked = window(rule, server=server.metadata.name, tenant_role=tenant.role)
        agent = still_open(rule)
        try:
            if agent is not None:
                found = blank(rule, closed_at, f"agent {agent} has not closed the rule yet")
            else:
                async with connect(await audit_target(context.kube, server)) as connection:
                    found = receipt(rule, closed_at, asked, await store.usage(connection, asked))
        except Expected as error:
            found = blank(rule, closed_at, f"the audit store cannot be asked: {error.message}")
        if found == rule.status.receipt:
            return False
        self._found[rule.metadata.uid] = found
        return True

    def forget(self, rule: AccessRule) -> None:
        """Of a rule that is gone."""
        self._found.pop(rule.metadata.uid, None)


def _server(context: Context, rule: AccessRule) -> PostgresServer | None:
    tenant = context.tenant_of(rule)
    return context.server_of(tenant) if tenant else None
