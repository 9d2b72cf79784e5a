"""What an ended rule was used for, as the audit store has it."""

from datetime import datetime

from vaultbrix.access.receipts.decisions import blank, count_due, receipt, receipt_to_show, still_open, window
from vaultbrix.access.receipts.store import usage
from vaultbrix.api.accessrule import AccessRule, Receipt
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.audit.receipts.controller import Counter
from vaultbrix.kube.cache import Cache
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected


class RuleCounter(Counter[AccessRule, Receipt]):
    """Counts what a rule's sessions did."""

    def __init__(self, cache: Cache, admin: Admin) -> None:
        self._cache = cache
        self._admin = admin

    def written(self, rule: AccessRule) -> Receipt | None:
        """The receipt in the status."""
        return rule.status.receipt

    def shown(self, rule: AccessRule, counted: Receipt | None, server: PostgresServer | None) -> Receipt | None:
        """The receipt that belongs into the status."""
        return receipt_to_show(rule, counted, server)

    def due(self, rule: AccessRule, server: PostgresServer | None, now: datetime) -> datetime | None:
        """When the store is to be asked."""
        return count_due(rule, server, now)

    async def count(self, rule: AccessRule, server: PostgresServer) -> Receipt | None:
        """The receipt as the store has it now."""
        tenant, closed_at = self._cache.tenant_of(rule), rule.status.closed_at
        if tenant is None or closed_at is None:
            return None
        agent = still_open(rule)
        if agent is not None:
            return blank(rule, closed_at, f"agent {agent} has not closed the rule yet")
        asked = window(rule, server=server.metadata.name, tenant_role=tenant.role)
        try:
            async with self._admin.audit_reader(server) as connection:
                return receipt(rule, closed_at, asked, await usage(connection, asked))
        except Expected as error:
            return blank(rule, closed_at, f"the audit store cannot be asked: {error.message}")
