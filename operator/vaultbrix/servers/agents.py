"""How the agents of a server do: their Leases, clocks, and the addresses that they see."""

from datetime import UTC, datetime, timedelta
from itertools import chain

from vaultbrix.api.conditions import ConditionType
from vaultbrix.api.postgresserver import PostgresServer, ServerAgent
from vaultbrix.kube.client import NODES, Kube, NotFound, Object
from vaultbrix.kube.lease import LEASES
from vaultbrix.kube.status import Conditions
from vaultbrix.runtime.errors import Blocked, Expected
from vaultbrix.servers.agent_decisions import Renewal, agent_connected, clock_in_sync, connected
from vaultbrix.servers.source_addresses import source_addresses, unknown_to

_LEASE_SECONDS = 40


async def report(kube: Kube, server: PostgresServer, conditions: Conditions) -> list[ServerAgent]:
    """Set AgentConnected, ClockInSync and SourceAddressPreserved; what cannot be read is Unknown, with the cause.

    Returns the agents that are connected, all where that cannot be told.
    """
    alive = agents = server.status.agents
    try:
        renewals = {agent.name: found for agent in agents if (found := await _renewal(kube, server, agent))}
    except Expected as error:
        for type_ in (ConditionType.AGENT_CONNECTED, ConditionType.CLOCK_IN_SYNC):
            _unknown(conditions, type_, error)
    else:
        alive = connected(agents, renewals, kube.server_now())
        conditions.set(ConditionType.AGENT_CONNECTED, *agent_connected(agents, alive))
        conditions.set(ConditionType.CLOCK_IN_SYNC, *clock_in_sync(alive))
    sources = list(chain.from_iterable(agent.sources for agent in agents))
    trusted = server.spec.trusted_cidrs
    try:
        cluster = await _cluster(kube) if unknown_to(sources, trusted) else []
    except Expected as error:
        _unknown(conditions, ConditionType.SOURCE_ADDRESS_PRESERVED, error)
    else:
        conditions.set(ConditionType.SOURCE_ADDRESS_PRESERVED, *source_addresses(sources, cluster, trusted))
    return alive


def _unknown(conditions: Conditions, type_: ConditionType, error: Expected) -> None:
    # Out of reach for a moment: what held goes on to hold. Not permitted: somebody has to know.
    if isinstance(error, Blocked):
        conditions.set(type_, None, error.reason, error.message)
    else:
        conditions.keep(type_)


async def _renewal(kube: Kube, server: PostgresServer, agent: ServerAgent) -> Renewal | None:
    try:
        lease = await kube.get(LEASES, agent.namespace, f"{server.metadata.name}-{agent.name}")
    except NotFound:
        return None
    at = _renewed_at(lease, agent)
    seconds = lease.get("spec", {}).get("leaseDurationSeconds") or _LEASE_SECONDS
    return Renewal(at, timedelta(seconds=seconds)) if at else None


def _renewed_at(lease: Object, agent: ServerAgent) -> datetime | None:
    # The API server dates every change of a field by its own clock; renewTime is by the agent's.
    dated = [
        entry["time"]
        for entry in lease["metadata"].get("managedFields") or []
        if entry.get("time") and "f:renewTime" in entry.get("fieldsV1", {}).get("f:spec", {})
    ]
    if dated:
        return max(map(_time, dated))
    renewed = lease.get("spec", {}).get("renewTime")
    return _time(renewed) - timedelta(seconds=agent.clock_skew_seconds) if renewed else None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


async def _cluster(kube: Kube) -> list[str]:
    """Addresses of the nodes and prefixes of their Pods."""
    found: list[str] = []
    for node in (await kube.list(NODES)).get("items", []):
        spec = node.get("spec", {})
        found += [a["address"] for a in node.get("status", {}).get("addresses") or []]
        found += spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    return found
