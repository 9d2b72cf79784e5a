from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.api.conditions import Reason
from vaultbrix.servers.source_addresses import source_addresses, unknown_to

NODES = ["192.0.2.10", "2001:db8:1::10", "node-1.example.com", "10.244.3.0/24", "fd00:244::/64"]
TRUSTED = ["172.16.0.0/12"]

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
PREFIXES = st.one_of(
    st.builds(lambda a, n: f"{a}/{n}", st.ip_addresses(v=4), st.integers(8, 32)),
    st.builds(lambda a, n: f"{a}/{n}", st.ip_addresses(v=6), st.integers(16, 128)),
)


def test_nothing_is_known_before_the_first_connection() -> None:
    assert source_addresses([], NODES, TRUSTED)[:2] == (None, Reason.NO_CONNECTIONS)


@pytest.mark.parametrize(
    "source", ["192.0.2.10", "2001:db8:1::10", "10.244.3.77", "fd00:244::5", "172.31.250.1", "::ffff:192.0.2.10"]
)
def test_addresses_of_the_cluster_alone_say_that_clients_are_hidden_and_what_to_set(source: str) -> None:
    status, reason, message = source_addresses([source], NODES, TRUSTED)
    assert (status, reason) == (False, Reason.NODE_ADDRESSES_ONLY)
    assert "externalTrafficPolicy: Local" in message
    assert "postgresql.service.externalTrafficPolicy" in message


def test_one_address_from_outside_proves_that_they_are_preserved() -> None:
    status, reason, message = source_addresses(["192.0.2.10", "203.0.113.7"], NODES, TRUSTED)
    assert (status, reason) == (True, Reason.PRESERVED)
    assert "203.0.113.7" in message


def test_what_is_no_address_neither_counts_nor_breaks_anything() -> None:
    assert source_addresses(["nonsense", ""], ["", "node"], ["x/y"])[0] is None


@given(st.lists(ADDRESSES, max_size=8), st.lists(PREFIXES | ADDRESSES, max_size=8), st.lists(PREFIXES, max_size=4))
def test_preserved_means_exactly_that_some_source_is_outside(
    sources: list[str], cluster: list[str], trusted: list[str]
) -> None:
    def plain(text: str) -> str:
        mapped = getattr(ip_address(text), "ipv4_mapped", None)
        return str(mapped or text)

    networks = [ip_network(text, strict=False) for text in (*cluster, *trusted)]
    outside = [s for s in sources if not any(ip_address(plain(s)) in network for network in networks)]
    status = source_addresses(sources, cluster, trusted)[0]
    assert status == (bool(outside) if sources else None)
    assert unknown_to(sources, [*cluster, *trusted]) == bool(outside)
