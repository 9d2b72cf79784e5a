"""Which of the kernel's interfaces an agent takes, and what becomes of the other one's rules."""

import subprocess
import sys

import pytest
from tests.harness.firewalled_server import LONG, PORT, FirewalledServer
from tests.harness.host_pair import Pair

from vaultbrix.agent.host.firewall import ChosenFirewall, choose
from vaultbrix.runtime.errors import Transient

CHOOSE = """
import sys
from vaultbrix.agent.host.firewall import choose
from vaultbrix.runtime.errors import Transient
try:
    print(choose(5433, sys.argv[1]).name)
except Transient as error:
    print(error.reason, error.message)
"""


def chosen(pair: Pair, name: str, *privileges: str, path: str = "/usr/sbin:/usr/bin:/sbin:/bin") -> str:
    """What an agent with these capabilities only chooses, or why it cannot."""
    bounds = ",".join(("-all", *(f"+{privilege}" for privilege in privileges)))
    command = ["/usr/bin/setpriv", f"--bounding-set={bounds}", "/usr/bin/env", f"PATH={path}"]
    return subprocess.run(
        ["ip", "netns", "exec", pair.server.name, *command, sys.executable, "-c", CHOOSE, name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_iptables_where_it_works(pair: Pair) -> None:
    assert chosen(pair, "auto", "net_admin", "net_raw") == "iptables"
    assert chosen(pair, "iptables", "net_admin", "net_raw") == "iptables"


def test_nftables_needs_net_admin_only(pair: Pair) -> None:
    assert chosen(pair, "auto", "net_admin") == "nftables"
    assert chosen(pair, "nftables", "net_admin") == "nftables"


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("auto", ("iptables:", "NET_RAW", "xt_set", "nftables:", "NET_ADMIN", "nf_tables", "nft")),
        ("iptables", ("iptables:", "NET_RAW", "xt_set")),
        ("nftables", ("nftables:", "NET_ADMIN", "nf_tables")),
    ],
)
def test_where_none_works_it_says_what_was_tried_and_what_is_missing(
    pair: Pair, name: str, missing: tuple[str, ...]
) -> None:
    said = chosen(pair, name)
    assert said.startswith("KernelFailed")
    for word in missing:
        assert word in said


def test_a_missing_program_is_named(pair: Pair) -> None:
    assert "no program nft" in chosen(pair, "nftables", "net_admin", path="/nowhere")


@pytest.mark.parametrize(("first", "second"), [("iptables", "nftables"), ("nftables", "iptables")])
def test_the_other_one_s_rules_go_once_the_new_ones_stand(pair: Pair, first: str, second: str) -> None:
    host = pair.server
    before = FirewalledServer(pair, host.do(choose, PORT, first))
    before.allow({"203.0.113.7/32": LONG})
    assert before.lets_in("203.0.113.7")
    after = host.do(choose, PORT, second)
    assert (before.kernel.name, after.name) == (first, second)
    assert ("VAULTBRIX" in host.run("iptables-legacy-save")) == (second == "iptables")
    assert ("VAULTBRIX" in host.run("ip6tables-legacy-save")) == (second == "iptables")
    assert ("vbx-" in host.run("ipset", "list", "-n")) == (second == "iptables")
    assert ("vaultbrix" in host.run("nft", "list", "tables")) == (second == "nftables")
    assert not before.lets_in("203.0.113.7"), "closed by default"
    host.do(after.allow, {"203.0.113.7/32": LONG})
    assert before.lets_in("203.0.113.7")
    assert host.do(after.ensure) is False
    before.listener.close()


def test_another_port_s_rules_stay(pair: Pair) -> None:
    host = pair.server
    other = FirewalledServer(pair, host.do(choose, 5434, "iptables"), 5434)
    host.do(choose, PORT, "nftables")
    assert not other.lets_in("203.0.113.7")
    other.allow({"203.0.113.7/32": LONG})
    assert other.lets_in("203.0.113.7")
    other.listener.close()


def test_until_one_is_found_everything_else_says_so(pair: Pair) -> None:
    firewall = ChosenFirewall(PORT, "nftables")
    assert firewall.name == ""
    with pytest.raises(Transient, match="no firewall works here yet"):
        firewall.allow({"203.0.113.7/32": LONG})
    assert pair.server.do(firewall.ensure) is True
    assert firewall.name == "nftables"
    assert pair.server.do(firewall.ensure) is False
