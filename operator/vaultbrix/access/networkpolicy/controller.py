"""NetworkPolicies in the server's namespace: a base policy, and one per tenant with the addresses of its open rules."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vaultbrix.access.networkpolicy.render import base_network_policy, policy_name, tenant_network_policy
from vaultbrix.access.verdicts import Verdicts
from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.cache import Cache, TenantKey
from vaultbrix.kube.client import Kube, Object
from vaultbrix.kube.resources import NETWORK_POLICIES

_Place = tuple[str, str]
# ("", name) of a PostgresServer, (namespace, name) of a Tenant.
_Owner = tuple[str, str]


@dataclass(frozen=True)
class _Applied:
    """A policy as it was last applied: where it is, what it was made from, and the version it was given."""

    place: _Place
    terms: tuple[Any, ...]
    cidrs: frozenset[str]
    version: str


class Policies:
    """Applies what differs from what was applied last. Empty after a start, so everything is applied again.

    A Tenant without an open rule gets no policy, which would let nobody in; one that is there already is emptied.
    """

    def __init__(self, kube: Kube, cache: Cache, verdicts: Verdicts) -> None:
        self._kube = kube
        self._cache = cache
        self._verdicts = verdicts
        self._applied: dict[_Owner, _Applied] = {}
        self._present: set[_Place] | None = None
        """What the last check saw, None before the first one."""

    def covers(self, tenant: TenantKey, cidrs: tuple[str, ...]) -> bool | None:
        """Whether the tenant's policy lets all of these in; None while that is not known."""
        applied = self._applied.get(tenant)
        return None if applied is None else frozenset(cidrs) <= applied.cidrs

    async def reconcile(self, tenant: TenantKey, now: datetime) -> bool:
        """Apply the tenant's policy; False when it was as wanted already."""
        owner = self._cache.tenants.get(*tenant)
        server = self._cache.server_of(owner)
        # The policy's name is the role's, and a Tenant that is not provisioned may not be the one that has it.
        ours = owner is not None and is_true(owner.status.conditions, ConditionType.PROVISIONED)
        if owner is None or not ours or server is None or server.spec.namespace is None:
            return await self._remove(tenant)
        verdicts = self._verdicts.of_tenant(tenant, now).values()
        cidrs = frozenset(cidr for verdict in verdicts if verdict.grant for cidr in verdict.grant.cidrs)
        place = (server.spec.namespace, policy_name(server.metadata.name, owner.role))
        absent = self._present is not None and place not in self._present and tenant not in self._applied
        if absent and not cidrs:
            return False
        return await self._apply(
            tenant, place, (*_terms(server), cidrs), cidrs, lambda: _of_tenant(owner, server, cidrs)
        )

    async def reconcile_base(self, server: PostgresServer) -> None:
        """Apply the server's base policy where it is not as wanted already."""
        spec = server.spec
        if spec.namespace is None:
            await self.remove_base(server.metadata.name)
            return
        echo = spec.public_endpoint.echo_port if spec.public_endpoint else None
        place = (spec.namespace, f"vaultbrix-{server.metadata.name}")
        trusted = frozenset(server.trusted_networks)
        terms = (*_terms(server), trusted, spec.trusted.pods, echo)
        await self._apply(("", server.metadata.name), place, terms, trusted, lambda: _base(server))

    async def remove_base(self, server: str) -> None:
        """Take away the base policy of a server that is gone, or no longer has Pods here."""
        await self._remove(("", server))

    async def check(self) -> None:
        """Delete policies that nobody wants any more; forget those that somebody else changed or deleted."""
        expected = {place for server in self._cache.servers for place in self.places(server)}
        labels = "app.kubernetes.io/managed-by=vaultbrix,vaultbrix.com/server"
        answer = await self._kube.list(NETWORK_POLICIES, labels=labels)
        present: dict[_Place, str] = {}
        for item in answer.get("items", []):
            meta = item["metadata"]
            place = (meta["namespace"], meta["name"])
            present[place] = meta["resourceVersion"]
            if place not in expected:
                await self._kube.delete(NETWORK_POLICIES, *place)
        self._applied = {o: a for o, a in self._applied.items() if present.get(a.place) == a.version}
        self._present = present.keys() & expected

    async def _apply(
        self,
        owner: _Owner,
        place: _Place,
        terms: tuple[Any, ...],
        cidrs: frozenset[str],
        render: Callable[[], Object],
    ) -> bool:
        # By what it is made from: to render it costs more.
        applied = self._applied.get(owner)
        if applied is not None and (applied.place, applied.terms) == (place, terms):
            return False
        if applied is not None and applied.place != place:
            await self._remove(owner)
        answer = await self._kube.apply(NETWORK_POLICIES, render())
        self._applied[owner] = _Applied(place, terms, cidrs, answer["metadata"]["resourceVersion"])
        return True

    def places(self, server: PostgresServer) -> list[_Place]:
        """Where the server's policies belong: its own, and those that its Tenants have or may get."""
        if server.spec.namespace is None:
            return []
        name = server.metadata.name
        tenants = self._cache.tenants_of(name)
        names = [f"vaultbrix-{name}", *(policy_name(name, tenant.role) for tenant in tenants)]
        return [(server.spec.namespace, policy) for policy in names]

    async def _remove(self, owner: _Owner) -> bool:
        applied = self._applied.get(owner)
        if applied is None:
            return False
        await self._kube.delete(NETWORK_POLICIES, *applied.place)
        # Only now: a deletion that failed is tried again.
        self._applied.pop(owner, None)
        return True


def _terms(server: PostgresServer) -> tuple[Any, ...]:
    return (tuple(sorted(server.spec.pod_selector.items())), server.spec.port)


def _of_tenant(tenant: Tenant, server: PostgresServer, cidrs: frozenset[str]) -> Object:
    return tenant_network_policy(
        server=server.metadata.name,
        tenant=tenant.display,
        role=tenant.role,
        namespace=server.spec.namespace or "",
        pod_selector=server.spec.pod_selector,
        port=server.spec.port,
        cidrs=sorted(cidrs),
    )


def _base(server: PostgresServer) -> Object:
    return base_network_policy(
        server=server.metadata.name,
        namespace=server.spec.namespace or "",
        pod_selector=server.spec.pod_selector,
        port=server.spec.port,
        trusted=server.trusted_networks,
        trusted_pods=server.spec.trusted.pods,
        echo_port=server.spec.public_endpoint.echo_port if server.spec.public_endpoint else None,
    )
