"""What every controller works with: the objects last seen, the API server, and the operator's own settings."""

from dataclasses import dataclass, field
from typing import NamedTuple

from vaultbrix.adapters.kube import Kube
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.runtime.store import Store


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


@dataclass(frozen=True)
class Context:
    """Shared by all controllers; they read the stores and never change them."""

    kube: Kube
    settings: Settings
    servers: Store[PostgresServer] = field(default_factory=lambda: Store(PostgresServer))
    tenants: Store[Tenant] = field(default_factory=lambda: Store(Tenant))
    rules: Store[AccessRule] = field(default_factory=lambda: Store(AccessRule))
    approvals: Store[DDLApproval] = field(default_factory=lambda: Store(DDLApproval))

    def server_of(self, tenant: Tenant) -> PostgresServer | None:
        """The tenant's server, or None while it does not exist."""
        return self.servers.get("", tenant.spec.server_ref.name)

    def tenants_of(self, server: str) -> list[Tenant]:
        """Tenants that name the server."""
        return [t for t in self.tenants if t.spec.server_ref.name == server]

    def rules_of(self, tenant: Tenant) -> list[AccessRule]:
        """Rules that name the tenant."""
        return [r for r in self.rules if (r.metadata.namespace, r.spec.tenant_ref.name) == tenant.key]
