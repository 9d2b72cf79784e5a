"""Reads how the agents of a server do: their Leases, their clocks, and the addresses that they see."""

from datetime import UTC, datetime, timedelta
from itertools import chain

from vaultbrix.api.conditions import ConditionType, State
from vaultbrix.api.postgresserver import PostgresServer, ServerAgent
from vaultbrix.kube.client import Kube, NotFound, Object
from vaultbrix.kube.lease import LEASES
from vaultbrix.kube.resources import NODES
from vaultbrix.runtime.errors import Blocked, Expected
from vaultbrix.servers.decisions import Renewal, agent_connected, clock_in_sync, connected
from vaultbrix.servers.source_addresses import source_addresses, unknown_to

_LEASE_SECONDS = 40


async def look_at_agents(
    kube: Kube, server: PostgresServer
) -> tuple[dict[ConditionType, State | None], list[ServerAgent]]:
    """Return what AgentConnected, ClockInSync and SourceAddressPreserved say, and the agents that are connected.

    A condition whose facts may not be read is Unknown, with the cause. If Leases cannot be read, all agents count as
    connected.
    """
    alive = agents = server.status.agents
    states: dict[ConditionType, State | None] = {}
    try:
        leases = {agent.name: await _renewal(kube, server, agent) for agent in agents}
    except Expected as error:
        states[ConditionType.AGENT_CONNECTED] = states[ConditionType.CLOCK_IN_SYNC] = _unknown(error)
    else:
        renewals = {name: renewal for name, renewal in leases.items() if renewal is not None}
        alive = connected(agents, renewals, kube.server_now())
        states[ConditionType.AGENT_CONNECTED] = agent_connected(agents, alive)
        states[ConditionType.CLOCK_IN_SYNC] = clock_in_sync(alive)
    sources = list(chain.from_iterable(agent.sources for agent in agents))
    trusted = server.trusted_networks
    try:
        cluster = await _cluster(kube) if unknown_to(sources, trusted) else []
    except Expected as error:
        states[ConditionType.SOURCE_ADDRESS_PRESERVED] = _unknown(error)
    else:
        states[ConditionType.SOURCE_ADDRESS_PRESERVED] = source_addresses(sources, cluster, trusted)
    return states, alive


def _unknown(error: Expected) -> State | None:
    # If the API server does not answer for a moment, the condition stays as it was; a lack of rights must be seen.
    return State(None, error.reason, error.message) if isinstance(error, Blocked) else None


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
    addresses: list[str] = []
    for node in (await kube.list(NODES)).get("items", []):
        spec = node.get("spec", {})
        addresses += [a["address"] for a in node.get("status", {}).get("addresses") or []]
        addresses += spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    return addresses
