"""Who is trusted: Pods by their own addresses, and what an agent goes on with while it does not know them."""

import pytest
from tests.harness.builders import server

from vaultbrix.agent.decisions import follow_server
from vaultbrix.agent.pods import addresses
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.grants.state import AgentState, ServerSeen

IPS = [{"ip": "10.244.0.9"}, {"ip": "fd00:10::9"}]


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ({"status": {"phase": "Running", "podIPs": IPS}}, {"10.244.0.9/32", "fd00:10::9/128"}),
        ({"status": {"phase": "Pending", "podIPs": IPS[:1]}}, {"10.244.0.9/32"}),
        ({"status": {"phase": "Succeeded", "podIPs": IPS}}, set()),
        ({"status": {"phase": "Failed", "podIPs": IPS}}, set()),
        ({"spec": {"hostNetwork": True}, "status": {"phase": "Running", "podIPs": IPS}}, set()),
        ({"status": {}}, set()),
        ({}, set()),
    ],
    ids=["two families", "before it runs", "ended", "failed", "on its node's network", "without an address", "empty"],
)
def test_a_pod_is_trusted_by_addresses_that_are_its_own(pod: dict[str, object], expected: set[str]) -> None:
    assert addresses(pod) == expected


PLACE = server(trusted={"addresses": ["203.0.113.5"]}, trustedCIDRs=["10.0.0.0/16"])
FIXED = ("10.0.0.0/16", "203.0.113.5/32")


def trusted_after(state: AgentState, place: PostgresServer | None, pods: frozenset[str] | None) -> tuple[str, ...]:
    for change in follow_server(state, place, pods):
        assert isinstance(change, ServerSeen)
        state.apply(change)
    return state.trusted


def test_addresses_pods_and_ranges_are_trusted_together_and_no_longer_than_they_are_named() -> None:
    state = AgentState("main")
    assert trusted_after(state, PLACE, frozenset({"10.244.0.9/32"})) == ("10.0.0.0/16", "10.244.0.9/32", FIXED[1])
    assert trusted_after(state, PLACE, frozenset({"10.244.0.10/32"})) == ("10.0.0.0/16", "10.244.0.10/32", FIXED[1])
    assert trusted_after(state, server(), frozenset()) == ()


def test_while_pods_are_not_known_nobody_who_was_trusted_is_shut_out() -> None:
    state = AgentState("main", trusted=("10.244.0.9/32",))
    assert trusted_after(state, PLACE, None) == ("10.0.0.0/16", "10.244.0.9/32", "203.0.113.5/32")
    assert trusted_after(state, None, frozenset()) == ("10.0.0.0/16", "10.244.0.9/32", "203.0.113.5/32")
    assert trusted_after(state, PLACE, frozenset()) == FIXED
