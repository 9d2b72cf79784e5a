"""Receipts of ended rules: counted in the audit store, apart from all other work, so that a store that is down
holds up nothing but receipts."""

from collections.abc import Callable
from datetime import UTC, datetime

from vaultbrix.access.receipts.decisions import blank, count_due, receipt, receipt_to_show, still_open, window
from vaultbrix.access.receipts.store import usage
from vaultbrix.api.accessrule import AccessRule, Receipt
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.registry import Registry
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected

# An audit store that does not answer holds up its own receipts only.
WORKERS = 2

RuleKey = tuple[str, str]


class Receipts:
    """Counts, and keeps what it counted until the rule's own controller has written it: a status has one writer."""

    def __init__(self, registry: Registry, cache: Cache, admin: Admin, counted: Callable[[RuleKey], None]) -> None:
        """``counted`` is called with the key of a rule that has a new receipt to write."""
        self._cache = cache
        self._admin = admin
        self._tell_counted = counted
        self._counted: dict[str, Receipt] = {}
        self._queue = registry.queue("Receipt", self._count, workers=WORKERS)

    def of(self, rule: AccessRule) -> Receipt | None:
        """The receipt to write now; ``rule`` has the status that is about to be written."""
        uid = rule.metadata.uid
        if self._counted.get(uid) == rule.status.receipt:
            self._counted.pop(uid, None)
        return receipt_to_show(rule, self._counted.get(uid), self._server_of(rule))

    def schedule(self, rule: AccessRule, now: datetime) -> None:
        """Have the rule counted when it is due."""
        due = count_due(rule, self._server_of(rule), now)
        if due is not None:
            self._queue.add_at(rule.key, due)

    def forget(self, rule: AccessRule) -> None:
        """Drop what is kept of a rule that no longer exists."""
        self._counted.pop(rule.metadata.uid, None)

    async def _count(self, key: RuleKey) -> datetime | None:
        rule = self._cache.rules.get(*key)
        if rule is None:
            return None
        server, now = self._server_of(rule), datetime.now(UTC)
        if server is None or count_due(rule, server, now) is None:
            return None
        counted = await self._ask(rule, server)
        if counted is not None and counted != rule.status.receipt:
            self._counted[rule.metadata.uid] = counted
            self._tell_counted(key)
        return count_due(rule, server, now)

    async def _ask(self, rule: AccessRule, server: PostgresServer) -> Receipt | None:
        """The receipt as the store has it now, None where there is nothing to count. Never raises Expected."""
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

    def _server_of(self, rule: AccessRule) -> PostgresServer | None:
        return self._cache.server_of(self._cache.tenant_of(rule))
