"""What somebody else does to the host's firewall: ours is restored, theirs is left alone."""

import json
from collections.abc import Callable, Iterable

import pytest
from tests.harness.firewalled_server import LONG, FirewalledServer, exchanges, is_cut
from tests.harness.host_pair import Host, Pair

from vaultbrix.agent.host.firewall.iptables import Iptables
from vaultbrix.agent.host.firewall.nftables import Nftables

BOTH = ("iptables-legacy", "ip6tables-legacy")
ESTABLISHED = ("-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
OPENED = {"203.0.113.7/32": LONG, "2001:db8::/64": LONG}
INSIDE, OUTSIDE = ("203.0.113.7", "2001:db8::7"), ("203.0.113.8", "2001:db8:1::8")

Damage = Callable[[Host], object]


def iptables(*commands: str, programs: Iterable[str] = BOTH) -> Damage:
    def damage(host: Host) -> None:
        for program in programs:
            for command in commands:
                host.run(program, *command.split())

    return damage


def nft(script: str) -> Damage:
    return lambda host: host.run("nft", "-f", "-", input_text=script)


def without_rule(chain: str, number: int) -> Damage:
    """Delete one rule of ours."""

    def damage(host: Host) -> None:
        listed = json.loads(host.run("nft", "-j", "list", "chain", "inet", "vaultbrix", chain))["nftables"]
        handle = [entry["rule"]["handle"] for entry in listed if "rule" in entry][number]
        host.run("nft", "delete", "rule", "inet", "vaultbrix", chain, "handle", str(handle))

    return damage


IPTABLES_DAMAGE = {
    "all flushed": iptables("-F"),
    "chain flushed": iptables("-F VAULTBRIX"),
    "chain and jump deleted": iptables("-F", "-X"),
    "jump deleted": iptables("-D INPUT 1"),
    "an accept of established connections first": iptables(f"-I INPUT {' '.join(ESTABLISHED)}"),
    "an accept of everything first": iptables("-I INPUT -j ACCEPT"),
    "jump moved behind": iptables("-A INPUT -j ACCEPT", "-D INPUT 1", "-A INPUT -p tcp --dport 5433 -j VAULTBRIX"),
    "jump for another port": iptables("-R INPUT 1 -p tcp --dport 5434 -j VAULTBRIX"),
    "jump from some": iptables("-R INPUT 1 -p tcp --dport 5433 -i lo -j VAULTBRIX"),
    "an accept in the chain": iptables("-I VAULTBRIX -j ACCEPT"),
    "the reject deleted": iptables("-D VAULTBRIX 5"),
    "another reject": iptables(
        "-R VAULTBRIX 5 -p tcp -j REJECT --reject-with icmp-port-unreachable", programs=BOTH[:1]
    ),
    "only IPv4 flushed": iptables("-F", programs=BOTH[:1]),
    "only IPv6 flushed": iptables("-F", programs=BOTH[1:]),
}
NFTABLES_DAMAGE = {
    "table flushed": nft("flush table inet vaultbrix"),
    "guard flushed": nft("flush chain inet vaultbrix guard"),
    "admission flushed": nft("flush chain inet vaultbrix admit"),
    "jump deleted": without_rule("input", 0),
    "the reject deleted": without_rule("guard", -1),
    "an accept first": nft("insert rule inet vaultbrix input accept"),
    "an accept of everybody": nft("add rule inet vaultbrix admit accept"),
    "hook deleted": nft("flush chain inet vaultbrix input; delete chain inet vaultbrix input"),
    "another policy": nft("chain inet vaultbrix input { policy drop; }"),
    "a chain of somebody else": nft("add chain inet vaultbrix early { type filter hook input priority -100; }"),
}
CASES = [
    *(pytest.param(Iptables, damage, id=f"iptables: {name}") for name, damage in IPTABLES_DAMAGE.items()),
    *(pytest.param(Nftables, damage, id=f"nftables: {name}") for name, damage in NFTABLES_DAMAGE.items()),
]


@pytest.mark.parametrize(("backend", "damage"), CASES)
def test_what_was_damaged_is_restored_with_who_was_let_in(
    pair: Pair, backend: type[Iptables] | type[Nftables], damage: Damage
) -> None:
    firewall = FirewalledServer(pair, backend(5433))
    assert firewall.ensure() is True
    firewall.allow(OPENED)
    assert firewall.ensure() is False
    damage(pair.server)
    assert firewall.ensure() is True
    assert firewall.ensure() is False
    assert firewall.missing(OPENED) == set()
    assert [firewall.lets_in(source) for source in (*INSIDE, *OUTSIDE)] == [True, True, False, False]
    firewall.listener.close()


@pytest.mark.parametrize("damage", ["delete table inet vaultbrix", "flush ruleset"])
def test_a_table_that_is_gone_comes_back_closed_and_says_so(pair: Pair, damage: str) -> None:
    firewall = FirewalledServer(pair, Nftables(5433))
    firewall.ensure()
    firewall.allow(OPENED)
    pair.server.run("nft", damage)
    assert firewall.missing(OPENED) == set(OPENED)
    assert firewall.ensure() is True
    assert not firewall.lets_in(INSIDE[0])
    firewall.allow(OPENED)
    assert [firewall.lets_in(source) for source in (*INSIDE, *OUTSIDE)] == [True, True, False, False]
    assert firewall.ensure() is False
    firewall.listener.close()


def test_emptied_sets_are_found_by_the_probe(firewall: FirewalledServer) -> None:
    firewall.allow(OPENED)
    host = firewall.pair.server
    if firewall.kernel.name == "iptables":
        host.run("ipset", "flush", "vbx-allow4")
    else:
        host.run("nft", "flush set inet vaultbrix allow4_32")
    assert firewall.missing(OPENED) == {"203.0.113.7/32"}
    assert firewall.ensure() is False, "nothing but its content changed"


def test_an_accept_of_established_connections_keeps_none_open(firewall: FirewalledServer) -> None:
    host = firewall.pair.server
    host.run("iptables-legacy", "-I", "INPUT", *ESTABLISHED)
    host.run("nft", "-f", "-", input_text=FOREIGN_TABLE)
    firewall.ensure()
    firewall.allow(OPENED)
    ends = firewall.connect(INSIDE[0])
    assert exchanges(*ends)
    firewall.deny(OPENED)
    assert is_cut(*ends)


FOREIGN_TABLE = """
table inet foreign {
  set watched { type ipv4_addr; elements = { 192.0.2.200 } }
  chain input {
    type filter hook input priority filter; policy accept;
    ip saddr @watched drop
    ct state established accept
  }
}
"""


def foreign(host: Host) -> list[str]:
    """All that is not ours, as their owners see it."""
    rules = [line for program in BOTH for line in host.run(f"{program}-save").splitlines() if line[:1] not in "#:"]
    return [
        *(line for line in rules if "VAULTBRIX" not in line),
        *host.run("ipset", "save", "foreign").splitlines(),
        *host.run("nft", "list", "table", "inet", "foreign").splitlines(),
    ]


def test_what_others_have_is_left_alone(firewall: FirewalledServer) -> None:
    host = firewall.pair.server
    host.run("ipset", "create", "foreign", "hash:ip")
    host.run("ipset", "add", "foreign", "192.0.2.201")
    for program in BOTH:
        host.run(program, "-N", "FOREIGN")
        host.run(program, "-A", "INPUT", "-p", "tcp", "--dport", "8080", "-j", "FOREIGN")
        host.run(program, "-A", "FOREIGN", "-j", "DROP")
    host.run("iptables-legacy", "-I", "INPUT", "-m", "set", "--match-set", "foreign", "src", "-j", "DROP")
    host.run("nft", "-f", "-", input_text=FOREIGN_TABLE)
    before = foreign(host)
    firewall.ensure()
    firewall.allow(OPENED)
    firewall.trust(["10.0.0.0/8"])
    firewall.deny(OPENED)
    firewall.ensure()
    assert foreign(host) == before
    firewall.remove()
    assert foreign(host) == before
    assert "VAULTBRIX" not in host.run("iptables-legacy-save")
    assert "vbx-" not in host.run("ipset", "list", "-n")
    assert "vaultbrix" not in host.run("nft", "list", "tables")


def test_who_others_refuse_is_still_refused(firewall: FirewalledServer) -> None:
    host = firewall.pair.server
    host.run(
        "iptables-legacy", "-A", "INPUT", "-s", "203.0.113.7", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"
    )
    firewall.allow({"203.0.113.0/24": LONG})
    assert not firewall.lets_in("203.0.113.7")
    assert firewall.lets_in("203.0.113.8")
