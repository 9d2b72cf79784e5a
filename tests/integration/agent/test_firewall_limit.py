"""How many connections one address may have at a time, by each of the kernel's interfaces."""

from collections.abc import Callable
from typing import cast

import pytest
from tests.harness.firewalled_server import LONG, PORT, FirewalledServer, exchanges
from tests.harness.host_pair import Pair
from tests.harness.shell import wait_for

from vaultbrix.agent.host.firewall import Firewall
from vaultbrix.agent.host.firewall.iptables import Iptables
from vaultbrix.agent.host.firewall.nftables import Nftables


@pytest.fixture(params=[Iptables, Nftables], ids=["iptables", "nftables"])
def kernel(request: pytest.FixtureRequest) -> Callable[[int, int], Firewall]:
    """Makes a firewall of that kind for a port and a limit."""
    kind: Callable[[int, int], Firewall] = request.param
    return kind


def test_an_address_has_so_many_connections_and_others_have_theirs(
    pair: Pair, kernel: Callable[[int, int], Firewall]
) -> None:
    firewall = FirewalledServer(pair, kernel(PORT, 3))
    firewall.ensure()
    firewall.allow({"203.0.113.0/24": LONG, "2001:db8::/32": LONG})
    for one, same, other in (
        ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
        ("2001:db8::7", "2001:db8::8", "2001:db8:1::7"),
    ):
        opened = [firewall.connect(one) for _ in range(3)]
        assert not firewall.lets_in(same), "the fourth is answered with a reset"
        assert all(exchanges(*ends) for ends in opened), "those that are open go on"
        assert firewall.lets_in(other)
        for end in opened.pop():
            end.close()
        wait_for("there is room again", lambda same=same: firewall.lets_in(same))
        for ends in opened:
            for end in ends:
                end.close()


def test_trusted_sources_have_no_limit(pair: Pair, kernel: Callable[[int, int], Firewall]) -> None:
    firewall = FirewalledServer(pair, kernel(PORT, 2))
    firewall.ensure()
    firewall.trust(["203.0.113.7/32"])
    ends = [firewall.connect("203.0.113.7") for _ in range(5)]
    assert all(exchanges(*pair_of_ends) for pair_of_ends in ends)


def test_a_limit_that_changes_is_put_right(pair: Pair, kernel: Callable[[int, int], Firewall]) -> None:
    first, later = kernel(PORT, 3), kernel(PORT, 5)
    assert pair.server.do(first.ensure)
    assert pair.server.do(later.ensure)
    assert not pair.server.do(later.ensure)
    without = kernel(PORT, 0)
    assert pair.server.do(without.ensure)
    assert not pair.server.do(without.ensure)


def test_where_the_kernel_takes_no_limit_rules_are_enforced_all_the_same(
    pair: Pair, kernel: Callable[[int, int], Firewall]
) -> None:
    # Stands for a kernel without the module: the rule is refused, as it would be there.
    refused = cast(int, "many")
    firewall = FirewalledServer(pair, kernel(PORT, refused))
    assert firewall.ensure()
    assert not firewall.ensure()
    assert not firewall.lets_in("203.0.113.7")
    firewall.allow({"203.0.113.7/32": LONG})
    assert firewall.lets_in("203.0.113.7")
    assert not firewall.lets_in("203.0.113.8")
