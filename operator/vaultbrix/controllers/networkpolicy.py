"""NetworkPolicies in the server's namespace: a base policy, and one per tenant with the addresses of its open rules."""

from dataclasses import dataclass
from datetime import datetime

from vaultbrix.adapters.kube import NETWORK_POLICIES, Object
from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.controllers.context import Context
from vaultbrix.domain.render import base_network_policy, policy_name, tenant_network_policy

_Place = tuple[str, str]


@dataclass(frozen=True)
class _Applied:
    """A policy as it was last applied: where it is, and the version that the API server gave it."""

    place: _Place
    version: str
    cidrs: frozenset[str]


class Policies:
    """Applies what differs from what was applied last. Empty after a start, so everything is applied again."""

    def __init__(self) -> None:
        self._tenants: dict[_Place, _Applied] = {}
        self._servers: dict[str, tuple[Object, _Applied]] = {}

    def covers(self, tenant: tuple[str, str], cidrs: tuple[str, ...]) -> bool | None:
        """Whether the tenant's policy lets all of these in; None while that is not known."""
        applied = self._tenants.get(tenant)
        return None if applied is None else frozenset(cidrs) <= applied.cidrs

    async def reconcile(self, context: Context, tenant: tuple[str, str], now: datetime) -> bool:
        """Apply the tenant's policy; False when it was as wanted already."""
        found = context.tenants.get(*tenant)
        server = context.server_of(found) if found else None
        # The policy's name is the role's, and a Tenant that is not provisioned may not be the one that has it.
        ours = found is not None and is_true(found.status.conditions, ConditionType.PROVISIONED)
        if found is None or not ours or server is None or server.spec.namespace is None:
            return await self._remove(context, tenant)
        verdicts = context.verdicts(tenant, now).values()
        cidrs = frozenset(cidr for verdict in verdicts if verdict.grant for cidr in verdict.grant.cidrs)
        applied = self._tenants.get(tenant)
        if applied is not None and applied.cidrs == cidrs:
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
        self._tenants[tenant] = await _apply(context, policy, cidrs)
        return True

    async def reconcile_base(self, context: Context, server: PostgresServer) -> None:
        """Apply the server's base policy where it is not as wanted already."""
        spec = server.spec
        if spec.namespace is None:
            return
        policy = base_network_policy(
            server=server.metadata.name,
            namespace=spec.namespace,
            pod_selector=spec.pod_selector,
            port=spec.port,
            trusted=spec.trusted_cidrs,
        )
        held = self._servers.get(server.metadata.name)
        if held is None or held[0] != policy:
            self._servers[server.metadata.name] = (policy, await _apply(context, policy, frozenset()))

    async def check(self, context: Context) -> None:
        """Delete policies of tenants that nobody saw go; forget those that somebody else changed or deleted."""
        present: dict[_Place, str] = {}
        listed: set[str] = set()
        for server in context.servers:
            if server.spec.namespace is None:
                continue
            name = server.metadata.name
            wanted = {policy_name(name, t.role) for t in context.tenants_of(name)} | {f"vaultbrix-{name}"}
            labels = f"app.kubernetes.io/managed-by=vaultbrix,vaultbrix.com/server={name}"
            listed.add(server.spec.namespace)
            answer = await context.kube.list(NETWORK_POLICIES, server.spec.namespace, labels=labels)
            for item in answer.get("items", []):
                meta = item["metadata"]
                present[server.spec.namespace, meta["name"]] = meta["resourceVersion"]
                if meta["name"] not in wanted:
                    await context.kube.delete(NETWORK_POLICIES, server.spec.namespace, meta["name"])

        def stale(applied: _Applied) -> bool:
            return applied.place[0] in listed and present.get(applied.place) != applied.version

        self._tenants = {tenant: applied for tenant, applied in self._tenants.items() if not stale(applied)}
        self._servers = {name: held for name, held in self._servers.items() if not stale(held[1])}

    async def _remove(self, context: Context, tenant: tuple[str, str]) -> bool:
        applied = self._tenants.pop(tenant, None)
        if applied is None:
            return False
        await context.kube.delete(NETWORK_POLICIES, *applied.place)
        return True


async def _apply(context: Context, policy: Object, cidrs: frozenset[str]) -> _Applied:
    answer = await context.kube.apply(NETWORK_POLICIES, policy)
    meta = answer["metadata"]
    return _Applied((meta["namespace"], meta["name"]), meta["resourceVersion"], cidrs)
