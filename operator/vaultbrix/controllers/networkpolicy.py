"""NetworkPolicies in the server's namespace: one per tenant, with the addresses of its open rules."""

from dataclasses import dataclass, field
from datetime import datetime

from vaultbrix.adapters.kube import NETWORK_POLICIES
from vaultbrix.api.tenant import Tenant
from vaultbrix.controllers.context import Context
from vaultbrix.domain.access import decide
from vaultbrix.domain.render import policy_name, tenant_network_policy


@dataclass
class Policies:
    """What was applied, by tenant: (namespace, name) → CIDRs. Empty after a start, so everything is applied again."""

    applied: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    _named: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def covers(self, tenant: tuple[str, str], cidrs: tuple[str, ...]) -> bool:
        """Whether the tenant's policy lets all of these in."""
        return frozenset(cidrs) <= self.applied.get(tenant, frozenset())

    async def reconcile(self, context: Context, tenant: tuple[str, str], now: datetime) -> bool:
        """Apply the tenant's policy; False when it was as wanted already."""
        found = context.tenants.get(*tenant)
        server = context.server_of(found) if found else None
        if found is None or server is None or server.spec.namespace is None:
            return await self._remove(context, tenant)
        cidrs = self._open(context, found, now)
        if self.applied.get(tenant) == cidrs:
            return False
        policy = tenant_network_policy(
            server=server.metadata.name,
            tenant=found.display,
            role=found.role,
            namespace=server.spec.namespace,
            pod_selector=server.spec.pod_selector,
            port=server.spec.port,
            cidrs=sorted(cidrs),
        )
        await context.kube.apply(NETWORK_POLICIES, policy)
        self.applied[tenant] = cidrs
        self._named[tenant] = (server.spec.namespace, policy["metadata"]["name"])
        return True

    def forget(self) -> None:
        """Apply all policies again when they are next looked at: somebody may have changed them."""
        self.applied.clear()

    async def prune(self, context: Context) -> None:
        """Delete policies of tenants that are gone, which nobody saw go."""
        for server in context.servers:
            if server.spec.namespace is None:
                continue
            name = server.metadata.name
            wanted = {policy_name(name, t.role) for t in context.tenants_of(name)} | {f"vaultbrix-{name}"}
            labels = f"app.kubernetes.io/managed-by=vaultbrix,vaultbrix.com/server={name}"
            answer = await context.kube.list(NETWORK_POLICIES, server.spec.namespace, labels=labels)
            for item in answer.get("items", []):
                if item["metadata"]["name"] not in wanted:
                    await context.kube.delete(NETWORK_POLICIES, server.spec.namespace, item["metadata"]["name"])

    async def _remove(self, context: Context, tenant: tuple[str, str]) -> bool:
        self.applied.pop(tenant, None)
        where = self._named.pop(tenant, None)
        if where is None:
            return False
        await context.kube.delete(NETWORK_POLICIES, *where)
        return True

    @staticmethod
    def _open(context: Context, tenant: Tenant, now: datetime) -> frozenset[str]:
        server = context.server_of(tenant)
        verdicts = [decide(rule, tenant, server, now) for rule in context.rules_of(tenant)]
        return frozenset(cidr for verdict in verdicts if verdict.grant for cidr in verdict.grant.cidrs)
