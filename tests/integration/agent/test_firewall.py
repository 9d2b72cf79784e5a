"""The kernel's promise: one port is closed to all but those let in, for as long as they are.

The same tests for both of the kernel's interfaces, with real packets between namespaces of their own.
"""

import socket

import pytest
from tests.harness.firewalled_server import LONG, PORT, FirewalledServer, exchanges, is_cut
from tests.harness.host_pair import SERVER4, SERVER6
from tests.harness.shell import wait_for

OTHER_PORT = 5434


def test_closed_by_default_to_all_but_the_machine_itself(firewall: FirewalledServer) -> None:
    assert not firewall.lets_in("203.0.113.7")
    assert not firewall.lets_in("2001:db8::7")
    for own in (SERVER4, SERVER6, "127.0.0.1", "::1"):
        firewall.pair.server.do(socket.create_connection, (own, PORT), 10).close()


def test_only_that_port_is_touched(firewall: FirewalledServer) -> None:
    other = firewall.pair.server.do(socket.create_server, (SERVER4, 8080))
    firewall.pair.connect("203.0.113.7", 8080).close()
    other.close()


def test_opens_to_whom_it_is_opened_and_to_nobody_else(firewall: FirewalledServer) -> None:
    firewall.allow({"203.0.113.7/32": LONG, "2001:db8::7/128": LONG})
    assert firewall.lets_in("203.0.113.7")
    assert firewall.lets_in("2001:db8::7")
    assert not firewall.lets_in("203.0.113.8")
    assert not firewall.lets_in("2001:db8::8")


def test_who_is_taken_out_is_cut_off_with_open_connections(firewall: FirewalledServer) -> None:
    firewall.allow({"203.0.113.7/32": LONG, "2001:db8::7/128": LONG})
    ends = [firewall.connect("203.0.113.7"), firewall.connect("2001:db8::7")]
    assert all(exchanges(*both) for both in ends)
    firewall.deny(["203.0.113.7/32", "2001:db8::7/128"])
    assert all(is_cut(*both) for both in ends)
    assert not firewall.lets_in("203.0.113.7")
    assert not firewall.lets_in("2001:db8::7")


def test_an_address_falls_out_by_itself_with_open_connections(firewall: FirewalledServer) -> None:
    firewall.allow({"203.0.113.7/32": 2, "2001:db8::/64": 2})
    ends = [firewall.connect("203.0.113.7"), firewall.connect("2001:db8::7")]
    assert all(exchanges(*both) for both in ends)
    wait_for("the entries to run out", lambda: not firewall.allowed())
    assert all(is_cut(*both) for both in ends)
    assert firewall.missing(["203.0.113.7/32", "2001:db8::/64"]) == {"203.0.113.7/32", "2001:db8::/64"}


@pytest.mark.parametrize(
    ("networks", "inside", "outside"),
    [
        (["198.51.100.0/24", "198.51.100.64/26", "198.51.100.65/32"], "198.51.100.65", "198.51.101.65"),
        (["198.0.0.0/7", "199.0.0.0/8"], "199.51.100.65", "200.51.100.65"),
        (["2001:db8:1::/48", "2001:db8:1:2::/64", "2001:db8:1:2::3/128"], "2001:db8:1:2::3", "2001:db8:2::3"),
    ],
)
def test_networks_may_lie_within_each_other(
    firewall: FirewalledServer, networks: list[str], inside: str, outside: str
) -> None:
    firewall.allow(dict.fromkeys(networks, LONG))
    assert firewall.allowed().keys() == set(networks)
    for narrowest in reversed(networks):
        assert firewall.lets_in(inside)
        assert not firewall.lets_in(outside)
        firewall.deny([narrowest])
    assert not firewall.lets_in(inside)


def test_a_longer_entry_outlives_a_shorter_one_that_overlaps(firewall: FirewalledServer) -> None:
    firewall.allow({"198.51.100.0/24": 1, "198.51.100.65/32": LONG, "2001:db8::/64": LONG, "2001:db8::7/128": 1})
    wait_for("the short entries to run out", lambda: len(firewall.allowed()) == 2)
    assert firewall.lets_in("198.51.100.65")
    assert not firewall.lets_in("198.51.100.66")
    assert firewall.lets_in("2001:db8::7")


@pytest.mark.parametrize("cidr", ["203.0.113.7/32", "203.0.113.0/24", "2001:db8::/64"])
def test_the_time_that_is_left_is_replaced_both_ways(firewall: FirewalledServer, cidr: str) -> None:
    for seconds in (100, 5000, 300):
        firewall.allow({cidr: seconds})
        # What the kernel has counted down since.
        assert seconds - 30 <= firewall.allowed()[cidr] <= seconds


def test_to_deny_what_is_not_there_is_fine(firewall: FirewalledServer) -> None:
    firewall.allow({"203.0.113.7/32": LONG})
    firewall.deny(["203.0.113.8/32", "198.51.100.0/24", "2001:db8::/64"])
    firewall.deny([])
    assert firewall.allowed().keys() == {"203.0.113.7/32"}


def test_trusted_sources_are_exactly_those_told_last(firewall: FirewalledServer) -> None:
    firewall.trust(["203.0.113.0/24", "203.0.113.7/32", "2001:db8::/64"])
    assert firewall.lets_in("203.0.113.7")
    assert firewall.lets_in("2001:db8::7")
    assert firewall.allowed() == {}
    firewall.trust(["198.51.100.0/24"])
    assert firewall.lets_in("198.51.100.7")
    assert not firewall.lets_in("203.0.113.7")
    assert not firewall.lets_in("2001:db8::7")
    firewall.trust([])
    assert not firewall.lets_in("198.51.100.7")


def test_a_probe_names_what_the_kernel_has_lost(firewall: FirewalledServer) -> None:
    firewall.allow({"203.0.113.7/32": LONG, "198.51.100.0/24": LONG, "2001:db8::/64": LONG})
    queried = [
        "203.0.113.7/32",
        "203.0.113.8/32",
        "198.51.100.0/24",
        "198.51.101.0/24",
        "2001:db8::/64",
        "2001:db8:1::/48",
    ]
    assert firewall.missing(queried) == {"203.0.113.8/32", "198.51.101.0/24", "2001:db8:1::/48"}
    assert firewall.missing([]) == set()


def test_ten_thousand_entries_come_and_go(firewall: FirewalledServer) -> None:
    timeouts = {f"10.{number >> 8}.{number & 255}.1/32": LONG for number in range(9_000)}
    timeouts |= {f"2001:db8:{number:x}::/48": LONG for number in range(1, 1_001)}
    firewall.allow(timeouts)
    assert firewall.missing(timeouts) == set()
    assert firewall.allowed().keys() == timeouts.keys()
    half = list(timeouts)[::2]
    firewall.deny(half)
    assert firewall.missing(timeouts) == set(half)
    firewall.allow(timeouts)
    assert firewall.missing(timeouts) == set()
    assert firewall.ensure() is False


def test_refused_addresses_are_remembered(firewall: FirewalledServer) -> None:
    firewall.allow({"203.0.113.7/32": LONG})
    for source in ("203.0.113.7", "203.0.113.8", "2001:db8::8"):
        firewall.lets_in(source)
    assert set(firewall.refused()) == {"203.0.113.8", "2001:db8::8"}


def test_so_many_refused_addresses_are_remembered_and_all_are_refused(firewall: FirewalledServer) -> None:
    client = firewall.pair.client
    client.run("ip", "route", "add", "local", "10.9.0.0/16", "dev", "lo")
    for number in range(1_200):
        with pytest.raises(ConnectionRefusedError):
            source = f"10.9.{number >> 8}.{number & 255}"
            client.do(socket.create_connection, (SERVER4, PORT), 30, (source, 0))
    assert 900 < len(firewall.refused()) <= 1024
    assert firewall.ensure() is False


def test_a_firewall_that_stands_is_left_alone(firewall: FirewalledServer) -> None:
    firewall.allow({"203.0.113.7/32": LONG, "2001:db8::/64": LONG})
    assert firewall.ensure() is False
    # Another process, as after a restart.
    assert firewall.pair.server.do(type(firewall.kernel)(PORT).ensure) is False
    assert firewall.allowed().keys() == {"203.0.113.7/32", "2001:db8::/64"}


def test_a_new_process_denies_what_the_one_before_allowed(firewall: FirewalledServer) -> None:
    firewall.allow({"203.0.113.7/32": LONG})
    firewall.pair.server.do(type(firewall.kernel)(PORT).deny, ["203.0.113.7/32"])
    assert not firewall.lets_in("203.0.113.7")


def test_two_servers_on_one_machine_do_not_meet(firewall: FirewalledServer) -> None:
    other = FirewalledServer(firewall.pair, type(firewall.kernel)(OTHER_PORT), OTHER_PORT)
    other.ensure()
    assert firewall.ensure() is False, "they do not fight over the first place"
    firewall.allow({"203.0.113.7/32": LONG})
    other.allow({"203.0.113.8/32": LONG})
    assert [firewall.lets_in("203.0.113.7"), other.lets_in("203.0.113.7")] == [True, False]
    assert [firewall.lets_in("203.0.113.8"), other.lets_in("203.0.113.8")] == [False, True]
    other.remove()
    assert other.lets_in("203.0.113.9")
    assert firewall.lets_in("203.0.113.7")
    assert not firewall.lets_in("203.0.113.9")
    assert firewall.ensure() is False
    other.listener.close()
