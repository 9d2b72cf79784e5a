"""What every controller works with: the objects last seen, the API server, and the operator's own settings."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from vaultbrix.access.decisions import AccessVerdict, decide_all
from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.client import Kube
from vaultbrix.kube.store import Store


class Key(NamedTuple):
    """What a worker is given: a kind of the API, or NetworkPolicy for the policy of the Tenant of that name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}".replace(" /", " ")


@dataclass(frozen=True)
class Settings:
    """How this operator runs. ``namespace`` is its own: there it keeps Jobs and their Secrets."""

    namespace: str
    image: str
    pull_policy: str


@dataclass
class _Decided:
    """Verdicts with what they rest on, and the time until which they hold."""

    basis: tuple[int, Tenant | None, PostgresServer | None]
    since: datetime
    until: datetime | None
    verdicts: dict[str, AccessVerdict]

    def holds(self, basis: tuple[int, Tenant | None, PostgresServer | None], now: datetime) -> bool:
        """Whether nothing that counts has changed. Objects in a store are replaced, never changed."""
        same = self.basis[0] == basis[0] and self.basis[1] is basis[1] and self.basis[2] is basis[2]
        return same and self.since <= now and (self.until is None or now < self.until)


@dataclass(frozen=True)
class Context:
    """Shared by all controllers; they read the stores and never change them."""

    kube: Kube
    settings: Settings
    servers: Store[PostgresServer] = field(default_factory=lambda: Store(PostgresServer))
    tenants: Store[Tenant] = field(
        default_factory=lambda: Store(Tenant, group=lambda tenant: tenant.spec.server_ref.name)
    )
    rules: Store[AccessRule] = field(default_factory=lambda: Store(AccessRule, group=_tenant_key, basis=_decisive))
    approvals: Store[DDLApproval] = field(default_factory=lambda: Store(DDLApproval, group=_tenant_key))
    _decided: dict[tuple[str, str], _Decided] = field(default_factory=dict)

    def server_of(self, tenant: Tenant) -> PostgresServer | None:
        """The tenant's server, or None while it does not exist."""
        return self.servers.get("", tenant.spec.server_ref.name)

    def tenant_of(self, rule: AccessRule) -> Tenant | None:
        """The rule's tenant, or None while it does not exist."""
        return self.tenants.get(*_tenant_key(rule))

    def tenants_of(self, server: str) -> list[Tenant]:
        """Tenants that name the server."""
        return self.tenants.of(server)

    def rules_of(self, tenant: tuple[str, str]) -> list[AccessRule]:
        """Rules that name the tenant of that key."""
        return self.rules.of(tenant)

    def verdicts(self, tenant: tuple[str, str], now: datetime) -> dict[str, AccessVerdict]:
        """uid → verdict for all rules of a tenant; decided again only when an object or the time changes one."""
        version = self.rules.version(tenant)
        if not version:
            self._decided.pop(tenant, None)
            return {}
        found = self.tenants.get(*tenant)
        basis = (version, found, self.server_of(found) if found else None)
        decided = self._decided.get(tenant)
        if decided is None or not decided.holds(basis, now):
            verdicts = decide_all(self.rules_of(tenant), found, basis[2], now)
            turns = [when for v in verdicts.values() for when in (v.opens_at, v.deadline) if when and when > now]
            decided = _Decided(basis, now, min(turns, default=None), verdicts)
            self._decided[tenant] = decided
        return decided.verdicts

    def verdict(self, rule: AccessRule, now: datetime) -> AccessVerdict:
        """The verdict on a rule that is in the store."""
        return self.verdicts(_tenant_key(rule), now)[rule.metadata.uid]


def _tenant_key(resource: AccessRule | DDLApproval) -> tuple[str, str]:
    return (resource.metadata.namespace, resource.spec.tenant_ref.name)


def _decisive(rule: AccessRule) -> Hashable:
    """What a verdict rests on; that an agent or we ourselves report on the rule changes none."""
    meta, status = rule.metadata, rule.status
    revoked, opened = status.phase is AccessPhase.REVOKED, status.opened_at is not None
    return (meta.uid, meta.generation, rule.deleting, revoked, opened, status.closed_at)
