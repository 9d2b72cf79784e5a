"""What a server says of its agents, from their Leases, clocks and the addresses that they see."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for
from tests.harness.world import SYSTEM, World

NAME = "attended"


@pytest.fixture
def attended(world: World) -> Iterator[World]:
    """A PostgresServer that no real agent knows."""
    world.server(NAME)
    world.api.await_condition("pgs", NAME, "")
    yield world
    world.api.delete("pgs", NAME)
    world.api.delete("lease", f"{NAME}-pg-0", SYSTEM)
    world.api.delete("node", "node-1")


def agent(world: World, **fields: Any) -> None:
    """What an agent writes into the server's status."""
    entry = {"name": "pg-0", "namespace": SYSTEM, "at": now(), **fields}
    body = json.dumps({"status": {"agents": [entry]}})
    world.api.kubectl("patch", "pgs", NAME, "--subresource=status", "--type=merge", "-p", body)


def renew(world: World, seconds: int = 40, renewed: str = "") -> None:
    """What an agent does to its Lease."""
    world.api.apply({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": f"{NAME}-pg-0", "namespace": SYSTEM},
        "spec": {"holderIdentity": "pg-0", "leaseDurationSeconds": seconds, "renewTime": renewed or now()},
    })  # fmt: skip


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def told(world: World, type_: str, status: str, reason: str) -> Object:
    world.api.kubectl("annotate", "pgs", NAME, f"tests={now().replace(':', '-')}", "--overwrite")
    return world.api.await_condition("pgs", NAME, "", type_=type_, status=status, reason=reason)


def test_a_server_without_an_agent_says_so_and_is_ready_all_the_same(attended: World) -> None:
    assert "vaultbrix agent" in told(attended, "AgentConnected", "False", "NoAgent")["message"]
    told(attended, "ClockInSync", "Unknown", "NoAgent")
    told(attended, "SourceAddressPreserved", "Unknown", "NoConnections")
    assert attended.api.condition("pgs", NAME, "Ready", "")["status"] == "True"


def test_an_agent_is_connected_while_it_renews_its_lease_whatever_its_clock_says(attended: World) -> None:
    renew(attended, renewed="2020-01-01T00:00:00.000000Z")
    agent(attended)
    assert "pg-0" in told(attended, "AgentConnected", "True", "Connected")["message"]
    renew(attended, seconds=1)

    def lost() -> bool:
        attended.api.kubectl("annotate", "pgs", NAME, f"tests={now().replace(':', '-')}", "--overwrite")
        return attended.api.condition("pgs", NAME, "AgentConnected", "")["status"] == "False"

    wait_for("its Lease has run out", lost, pause=0.5)
    assert "pg-0" in attended.api.condition("pgs", NAME, "AgentConnected", "")["message"]


def test_a_clock_that_is_off_is_told(attended: World) -> None:
    renew(attended)
    agent(attended, clockSkewSeconds=0)
    told(attended, "ClockInSync", "True", "InSync")
    agent(attended, clockSkewSeconds=-17)
    found = told(attended, "ClockInSync", "False", "ClockSkew")
    assert "pg-0" in found["message"]
    assert "17 s" in found["message"]
    assert attended.api.condition("pgs", NAME, "Ready", "")["status"] == "True"


def test_sources_are_compared_with_the_addresses_of_the_nodes(attended: World) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "spec": {"podCIDR": "10.244.0.0/24"}}
    attended.api.apply(node)
    addresses = json.dumps({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]}})
    attended.api.kubectl("patch", "node", "node-1", "--subresource=status", "--type=merge", "-p", addresses)
    agent(attended, sources=["192.0.2.10", "10.244.0.9"])
    assert "externalTrafficPolicy" in told(attended, "SourceAddressPreserved", "False", "NodeAddressesOnly")["message"]
    agent(attended, sources=["192.0.2.10", "203.0.113.7"])
    assert "203.0.113.7" in told(attended, "SourceAddressPreserved", "True", "Preserved")["message"]
