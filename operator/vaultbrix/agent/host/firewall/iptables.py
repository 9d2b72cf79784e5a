"""The firewall by iptables (legacy) and ipset: a chain, and the sets of addresses that it lets through.

Layout, for IPv4 and IPv6 alike (Netfilter); names of another port than 5433 end in ``-<port>``::

    INPUT:     -p tcp --dport <port> -j VAULTBRIX        before all but such jumps, so before any ESTABLISHED accept
    VAULTBRIX: -i lo                                     RETURN
               source in vbx-trusted                     RETURN
               source in vbx-allow, SYN, -m connlimit    REJECT --reject-with tcp-reset
               source in vbx-allow                       RETURN
               -p tcp                                    SET --add-set vbx-refused src --exist
               -p tcp                                    REJECT --reject-with tcp-reset

Entries of vbx-allow carry the kernel's own timeout: an address falls out at its deadline, and no further
byte of its open connections passes, with every process of ours dead. Nothing else on the host is touched.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import iptc
import structlog
from pyroute2.netlink.exceptions import NetlinkError

from vaultbrix.agent.host.firewall import ipset
from vaultbrix.agent.host.firewall.interface import (
    CONNECTIONS_PER_ADDRESS,
    COUNTED_LENGTHS,
    MAX_ENTRIES,
    MAX_REFUSED,
    REFUSED_SECONDS,
    STANDARD_PORT,
    VERSIONS,
    by_version,
    suffix,
)
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient

log = structlog.get_logger(__name__)

# The lock of iptables(8). A table is read, changed and written back whole, so a change that another program makes
# meanwhile would be lost.
_LOCK = Path(os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock"))
_LOCK_SECONDS = 2.0

# Lists the legacy tables that this network namespace has. Looking here first matters: opening a table creates it.
_TABLES = {4: Path("/proc/thread-self/net/ip_tables_names"), 6: Path("/proc/thread-self/net/ip6_tables_names")}


_CHAIN = "VAULTBRIX"


class Iptables:
    """A ``Firewall`` made of a chain and sets for one port in this network namespace."""

    name = "iptables"

    def __init__(self, port: int, most_connections: int = CONNECTIONS_PER_ADDRESS) -> None:
        """``most_connections`` of one address; 0: no limit."""
        self._port = port
        self._most_connections = most_connections
        self._chain = f"{_CHAIN}{suffix(port)}"
        self._allow = {version: f"vbx-allow{version}{suffix(port)}" for version in VERSIONS}
        self._trusted = {version: f"vbx-trusted{version}{suffix(port)}" for version in VERSIONS}
        self._refused = {version: f"vbx-refused{version}{suffix(port)}" for version in VERSIONS}

    def ensure(self) -> bool:
        """Make sets, chain and jump as they should be; returns whether anything was amiss.

        The kernel keeps a set that the chain refers to, so sets are created only when the chain is not right.
        """
        with _translated():
            if all(self._is_complete(version) for version in VERSIONS):
                return False
            ipset.create(self._sets())
            with _locked():
                try:
                    self._create_chains()
                except (iptc.IPTCError, iptc.XTablesError) as error:
                    if not self._most_connections:
                        raise
                    self._create_chains_without_limit(error)
        return True

    def trust(self, cidrs: Iterable[str]) -> None:
        """Make the trusted sets contain exactly these CIDRs."""
        desired = by_version(cidrs)
        with _translated():
            for version, name in self._trusted.items():
                present = ipset.entries(name).keys()
                ipset.add(name, dict.fromkeys(desired[version], 0))
                ipset.delete(name, present - set(desired[version]))

    def allow(self, timeouts: Mapping[str, int]) -> None:
        """Add each CIDR for so many seconds, or replace the time that it has left."""
        with _translated():
            for version, cidrs in by_version(timeouts).items():
                ipset.add(self._allow[version], {cidr: timeouts[cidr] for cidr in cidrs})

    def deny(self, cidrs: Iterable[str]) -> None:
        """Remove these CIDRs; one that is not let through is no error."""
        with _translated():
            for version, cidrs_of_version in by_version(cidrs).items():
                ipset.delete(self._allow[version], cidrs_of_version)

    def allowed(self) -> dict[str, int]:
        """Return every CIDR that is let through until a deadline, with its seconds left."""
        with _translated():
            return {cidr: left for name in self._allow.values() for cidr, left in ipset.entries(name).items()}

    def missing(self, cidrs: Iterable[str]) -> set[str]:
        """Return those of the CIDRs that are not let through; one within a network that is let through is."""
        with _translated():
            return {
                cidr
                for version, cidrs_of_version in by_version(cidrs).items()
                for cidr in ipset.missing(self._allow[version], cidrs_of_version)
            }

    def refused(self) -> list[str]:
        """Return the addresses that were refused in the last hour, the latest first."""
        with _translated():
            left = {cidr: time for name in self._refused.values() for cidr, time in ipset.entries(name).items()}
        return [cidr.partition("/")[0] for cidr in sorted(left, key=lambda cidr: -left[cidr])]

    def remove(self) -> None:
        """Remove jump, chain and sets."""
        with _translated():
            with _locked():
                for version in VERSIONS:
                    if _TABLES[version].exists() and "filter" in _TABLES[version].read_text().split():
                        self._remove_chain(version)
            ipset.destroy(self._sets())

    def _sets(self) -> list[ipset.Set]:
        return [
            entry
            for version in VERSIONS
            for entry in (
                ipset.Set(self._allow[version], version, "hash:net", 0, MAX_ENTRIES),
                ipset.Set(self._trusted[version], version, "hash:net", 0, MAX_ENTRIES),
                ipset.Set(self._refused[version], version, "hash:ip", REFUSED_SECONDS, MAX_REFUSED, replace=True),
            )
        ]

    def _rules(self, version: int) -> list[dict[str, Any]]:
        return [
            {"in-interface": "lo", "target": "RETURN"},
            {"set": {"match-set": [self._trusted[version], "src"]}, "target": "RETURN"},
            *([self._limit(version)] if self._most_connections else []),
            {"set": {"match-set": [self._allow[version], "src"]}, "target": "RETURN"},
            {"protocol": "tcp", "target": {"SET": {"add-set": [self._refused[version], "src"], "exist": ""}}},
            {"protocol": "tcp", "target": {"REJECT": {"reject-with": "tcp-reset"}}},
        ]

    def _limit(self, version: int) -> dict[str, Any]:
        # Matches are tried in this order: only those that would be let in are counted.
        return {
            "protocol": "tcp",
            "set": {"match-set": [self._allow[version], "src"]},
            "tcp": {"tcp-flags": ["FIN,SYN,RST,ACK", "SYN"]},
            "connlimit": {
                "connlimit-above": str(self._most_connections),
                "connlimit-mask": str(COUNTED_LENGTHS[version]),
                "connlimit-saddr": "",
            },
            "target": {"REJECT": {"reject-with": "tcp-reset"}},
        }

    def _jump(self) -> dict[str, Any]:
        return _jump(self._port, self._chain)

    def _is_complete(self, version: int) -> bool:
        table = _table(version)
        if not table.is_chain(self._chain):
            return False
        rules = [_decode(rule, version) for rule in iptc.Chain(table, self._chain).rules]
        return rules == self._rules(version) and self._comes_first(table, version)

    def _comes_first(self, table: Any, version: int) -> bool:
        """Whether our jump is the first rule of INPUT, apart from the jumps for other ports of ours.

        Reads no rule behind it: others may have thousands there.
        """
        incoming = iptc.Chain(table, "INPUT")
        entry = table.first_rule("INPUT")
        while entry:
            rule = _decode(table.create_rule(entry, incoming), version)
            if rule == self._jump():
                return True
            if rule != _jump_of(rule.get("target")):
                return False
            entry = table.next_rule(entry)
        return False

    def _create_chains(self) -> None:
        for version in VERSIONS:
            self._create_chain(version)

    def _create_chains_without_limit(self, cause: Exception) -> None:
        """Who is let in matters more than how often; the error is raised if it was not for the limit."""
        limit, self._most_connections = self._most_connections, 0
        try:
            self._create_chains()
        except BaseException:
            self._most_connections = limit
            raise
        log.warning("connections per address are not limited: needs xt_connlimit in the kernel", message=str(cause))

    def _create_chain(self, version: int) -> None:
        with _changed_at_once(version) as table:
            if table.is_chain(self._chain):
                chain = iptc.Chain(table, self._chain)
                chain.flush()
            else:
                chain = table.create_chain(self._chain)
            for rule in self._rules(version):
                chain.append_rule(_encode(rule, version))
            incoming = iptc.Chain(table, "INPUT")
            for rule in incoming.rules:
                if _decode(rule, version) == self._jump():
                    incoming.delete_rule(rule)
            incoming.insert_rule(_encode(self._jump(), version))

    def _remove_chain(self, version: int) -> None:
        with _changed_at_once(version) as table:
            if table.is_chain(self._chain):
                incoming = iptc.Chain(table, "INPUT")
                for rule in incoming.rules:
                    if rule.target is not None and rule.target.name == self._chain:
                        incoming.delete_rule(rule)
                iptc.Chain(table, self._chain).flush()
                table.delete_chain(self._chain)


def _jump(port: int, chain: str) -> dict[str, Any]:
    return {"protocol": "tcp", "tcp": {"dport": str(port)}, "target": chain}


def _jump_of(target: object) -> dict[str, Any] | None:
    """The jump rule to the chain of that name, or None where that is no chain of ours."""
    name, _, port = str(target).partition("-")
    if name != _CHAIN or not (port.isdecimal() or target == _CHAIN):
        return None
    return _jump(int(port or STANDARD_PORT), str(target))


def _table(version: int) -> Any:
    table = iptc.Table(iptc.Table.FILTER) if version == 4 else iptc.Table6(iptc.Table6.FILTER)
    table.refresh()
    return table


@contextmanager
def _changed_at_once(version: int) -> Iterator[Any]:
    """Yield the filter table; the kernel takes over all changes at once at the end, so it is never half open."""
    table = _table(version)
    table.autocommit = False
    try:
        yield table
        table.commit()
    finally:
        # Before autocommit is on again: refresh commits what is left then, and after an error that is half a change.
        table.refresh()
        table.autocommit = True


def _decode(rule: Any, version: int) -> dict[str, Any]:
    decoded: dict[str, Any] = iptc.easy.decode_iptc_rule(rule, ipv6=version == 6)
    decoded.pop("counters", None)
    return decoded


def _encode(terms: Mapping[str, Any], version: int) -> Any:
    # iptc.easy would leave out a match that it cannot make, and a rule without its match lets everybody pass.
    rule = iptc.Rule() if version == 4 else iptc.Rule6()
    for name, value in terms.items():
        if name in ("protocol", "in-interface"):
            setattr(rule, name.replace("-", "_"), value)
        elif name != "target":
            match = rule.create_match(name)
            for key, parameter in value.items():
                match.set_parameter(key, parameter)
    target = terms["target"]
    if isinstance(target, str):
        rule.create_target(target)
    else:
        for name, parameters in target.items():
            rule_target = rule.create_target(name)
            for key, parameter in parameters.items():
                rule_target.set_parameter(key, parameter)
    return rule


@contextmanager
def _locked() -> Iterator[None]:
    try:
        file = _LOCK.open("a")
    except OSError:
        # The file system is read-only, so nobody else in this container has a lock there either.
        yield
        return
    with file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OSError(errno.EBUSY, f"another program holds {_LOCK}") from None
                time.sleep(0.02)
        yield


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failed(error.strerror or str(error)) from None
    # python-iptables raises ValueError for a set that does not exist.
    except (iptc.IPTCError, iptc.XTablesError, NetlinkError, ipset.IpsetError, ValueError) as error:
        # python-iptables shows what the kernel said as bytes.
        raise _failed(re.sub(r"b'([^']*)'", r"\1", str(error))) from None


def _failed(cause: str) -> Transient:
    return Transient(
        Reason.KERNEL_FAILED,
        f"iptables: {cause}; needs NET_ADMIN and NET_RAW, and ip_tables, ip6_tables, xt_set and ip_set_hash_net "
        "in the kernel",
    )
