"""The kernel's part: chain VAULTBRIX and the sets of addresses it lets through (iptables legacy, ipset).

Layout, for IPv4 and IPv6 alike (Netfilter)::

    INPUT 1:   -p tcp --dport <port> -j VAULTBRIX        before any ESTABLISHED accept
    VAULTBRIX: -i lo                                     RETURN
               source in vbx-trusted                     RETURN
               source in vbx-allow                       RETURN
               -p tcp                                    REJECT --reject-with tcp-reset

Entries of vbx-allow carry the kernel's own timeout: an address falls out at its deadline, and no further
byte of its open connections passes, with every process of ours dead. Nothing else on the host is touched.
"""

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from ipaddress import ip_network
from math import ceil
from typing import Any

import iptc
from pyroute2 import IPSet
from pyroute2.netlink.exceptions import NetlinkError

from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient

CHAIN = "VAULTBRIX"
ALLOW = "vbx-allow"
TRUSTED = "vbx-trusted"

# The kernel's limit for a timeout of a set entry, in seconds; a longer deadline is refreshed before it runs out.
LONGEST_TIMEOUT = 2_147_483
MAX_ENTRIES = 262_144

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def timeout_for(deadline: datetime, now: datetime) -> int:
    """Whole seconds for the kernel, rounded up so that it is never early, at least 1 (0 would mean for ever)."""
    return max(1, min(LONGEST_TIMEOUT, ceil((deadline - now).total_seconds())))


class Firewall:
    """Chain and sets of one port in this network namespace. Calls block for a few milliseconds."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ensure(self) -> bool:
        """Create what is missing and put the jump first; closed by default. Returns whether anything was amiss."""
        with _translated():
            self._ensure_sets()
            repaired = [self._ensure_chain(version) for version in _FAMILIES]
        return any(repaired)

    def trust(self, cidrs: Iterable[str]) -> None:
        """Make the trusted sets hold exactly these."""
        wanted = {str(ip_network(cidr)) for cidr in cidrs}
        with _translated(), IPSet() as ipset:
            for version, family in _FAMILIES.items():
                name = f"{TRUSTED}{version}"
                current = set(_entries(ipset, name))
                mine = {cidr for cidr in wanted if ip_network(cidr).version == version}
                for cidr in mine - current:
                    ipset.add(name, cidr, etype="net", family=family, exclusive=False, timeout=0)
                for cidr in current - mine:
                    _delete(ipset, name, cidr, version)

    def allow(self, wanted: Mapping[str, int]) -> None:
        """Let these CIDRs through for so many seconds from now, replacing the timeouts they may have."""
        with _translated(), IPSet() as ipset:
            for cidr, seconds in wanted.items():
                version = ip_network(cidr).version
                ipset.add(
                    f"{ALLOW}{version}",
                    cidr,
                    etype="net",
                    family=_FAMILIES[version],
                    exclusive=False,
                    timeout=seconds,
                )

    def deny(self, cidrs: Iterable[str]) -> None:
        """Take these CIDRs out; one that is not there is fine."""
        with _translated(), IPSet() as ipset:
            for cidr in cidrs:
                version = ip_network(cidr).version
                _delete(ipset, f"{ALLOW}{version}", cidr, version)

    name = "iptables"

    def missing(self, cidrs: Iterable[str]) -> set[str]:
        """Which of these the kernel does not hold now."""
        with _translated(), IPSet() as ipset:
            return {
                cidr
                for cidr in cidrs
                for version in [ip_network(cidr).version]
                if not ipset.test(f"{ALLOW}{version}", cidr, etype="net", family=_FAMILIES[version])
            }

    def refused(self) -> list[str]:
        return []

    def allowed(self) -> dict[str, int]:
        """What the kernel lets through now: CIDR → seconds left."""
        with _translated(), IPSet() as ipset:
            return {cidr: left for v in _FAMILIES for cidr, left in _entries(ipset, f"{ALLOW}{v}").items()}

    def _ensure_sets(self) -> None:
        with IPSet() as ipset:
            for version, family in _FAMILIES.items():
                for name in (f"{ALLOW}{version}", f"{TRUSTED}{version}"):
                    ipset.create(name, stype="hash:net", family=family, timeout=0, maxelem=MAX_ENTRIES, exclusive=False)

    def _ensure_chain(self, version: int) -> bool:
        table = iptc.Table(iptc.Table.FILTER) if version == 4 else iptc.Table6(iptc.Table6.FILTER)
        table.refresh()
        wanted = [_plain(rule, version) for rule in self._rules(version)]
        chain = iptc.Chain(table, CHAIN)
        repaired = False
        if not table.is_chain(CHAIN):
            table.create_chain(CHAIN)
            repaired = True
        if [_plain(rule, version) for rule in chain.rules] != wanted:
            # Rules are appended behind a first REJECT, so that the chain is never open while it is rebuilt.
            chain.insert_rule(self._reject(version))
            while len(chain.rules) > 1:
                chain.delete_rule(chain.rules[-1])
            for rule in reversed(self._rules(version)[:-1]):
                chain.insert_rule(rule)
            repaired = True
        jump = _plain(self._jump(version), version)
        incoming = [_plain(rule, version) for rule in iptc.Chain(table, "INPUT").rules]
        if incoming[:1] != [jump] or incoming.count(jump) > 1:
            _put_first(table, self._jump(version), incoming.count(jump))
            repaired = True
        return repaired

    def _rules(self, version: int) -> list[Any]:
        loopback = _rule(version)
        loopback.in_interface = "lo"
        loopback.create_target("RETURN")
        passing = []
        for name in (f"{TRUSTED}{version}", f"{ALLOW}{version}"):
            rule = _rule(version)
            rule.create_match("set").match_set = [name, "src"]
            rule.create_target("RETURN")
            passing.append(rule)
        return [loopback, *passing, self._reject(version)]

    def _reject(self, version: int) -> Any:
        rule = _rule(version)
        rule.protocol = "tcp"
        rule.create_target("REJECT").reject_with = "tcp-reset"
        return rule

    def _jump(self, version: int) -> Any:
        rule = _rule(version)
        rule.protocol = "tcp"
        rule.create_match("tcp").dport = str(self.port)
        rule.target = iptc.Target(rule, CHAIN)
        return rule


def _rule(version: int) -> Any:
    return iptc.Rule() if version == 4 else iptc.Rule6()


def _put_first(table: Any, rule: Any, present: int) -> None:
    # One commit replaces the whole table in the kernel, so there is no moment without the jump.
    table.autocommit = False
    try:
        chain = iptc.Chain(table, "INPUT")
        for _ in range(present):
            chain.delete_rule(rule)
        chain.insert_rule(rule, position=0)
        table.commit()
    finally:
        table.autocommit = True
        table.refresh()


def _plain(rule: Any, version: int) -> dict[str, Any]:
    decoded: dict[str, Any] = iptc.easy.decode_iptc_rule(rule, ipv6=version == 6)
    decoded.pop("counters", None)
    return decoded


def _entries(ipset: IPSet, name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for message in ipset.list(name):
        listing = message.get_attr("IPSET_ATTR_ADT")
        for data in listing.get_attrs("IPSET_ATTR_DATA") if listing else ():
            (_, address) = data.get_attr("IPSET_ATTR_IP_FROM")["attrs"][0]
            found[f"{address}/{data.get_attr('IPSET_ATTR_CIDR')}"] = data.get_attr("IPSET_ATTR_TIMEOUT") or 0
    return found


# IPSET_ERR_EXIST (linux/netfilter/ipset/ip_set.h): an entry to delete is not there.
_NOT_THERE = 4103


def _delete(ipset: IPSet, name: str, cidr: str, version: int) -> None:
    try:
        ipset.delete(name, cidr, etype="net", family=_FAMILIES[version])
    except NetlinkError as error:
        if error.code != _NOT_THERE:
            raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (iptc.IPTCError, NetlinkError, OSError) as error:
        raise Transient(
            Reason.AGENT_FAILED,
            f"kernel: {error}; the agent needs NET_ADMIN and NET_RAW, and xt_set in the kernel",
        ) from None
