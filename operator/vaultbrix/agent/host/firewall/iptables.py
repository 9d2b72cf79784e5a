"""The kernel's part by iptables (legacy) and ipset: a chain, and the sets of addresses that it lets through.

Layout, for IPv4 and IPv6 alike (Netfilter); names of another port than 5433 end in ``-<port>``::

    INPUT:     -p tcp --dport <port> -j VAULTBRIX        before all but such jumps, so before any ESTABLISHED accept
    VAULTBRIX: -i lo                                     RETURN
               source in vbx-trusted                     RETURN
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
from pyroute2.netlink.exceptions import NetlinkError

from vaultbrix.agent.host.firewall import ipset
from vaultbrix.agent.host.firewall.interface import (
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

# As iptables(8) does. A table is read, changed and put back whole: what others change meanwhile would be lost.
_LOCK = Path(os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock"))
_LOCK_SECONDS = 2.0

# Which of the legacy tables this network namespace has; to open a table makes it.
_TABLES = {4: Path("/proc/thread-self/net/ip_tables_names"), 6: Path("/proc/thread-self/net/ip6_tables_names")}


_CHAIN = "VAULTBRIX"


class Iptables:
    """Chain and sets of one port in this network namespace; a ``Firewall``."""

    name = "iptables"

    def __init__(self, port: int) -> None:
        self._port = port
        self._chain = f"{_CHAIN}{suffix(port)}"
        self._allow = {version: f"vbx-allow{version}{suffix(port)}" for version in VERSIONS}
        self._trusted = {version: f"vbx-trusted{version}{suffix(port)}" for version in VERSIONS}
        self._refused = {version: f"vbx-refused{version}{suffix(port)}" for version in VERSIONS}

    def ensure(self) -> bool:
        """Sets, chain and jump as they should be. A set that the chain refers to cannot go away, so it is not asked."""
        with _translated():
            if all(self._stands(version) for version in VERSIONS):
                return False
            ipset.create(self._sets())
            with _locked():
                for version in VERSIONS:
                    self._build(version)
        return True

    def trust(self, cidrs: Iterable[str]) -> None:
        """Make the trusted sets hold exactly these."""
        wanted = by_version(cidrs)
        with _translated():
            for version, name in self._trusted.items():
                present = ipset.entries(name).keys()
                ipset.add(name, dict.fromkeys(wanted[version], 0))
                ipset.delete(name, present - set(wanted[version]))

    def allow(self, wanted: Mapping[str, int]) -> None:
        """Add, or replace the time that is left."""
        with _translated():
            for version, cidrs in by_version(wanted).items():
                ipset.add(self._allow[version], {cidr: wanted[cidr] for cidr in cidrs})

    def deny(self, cidrs: Iterable[str]) -> None:
        """Take out; one that is not there is fine."""
        with _translated():
            for version, mine in by_version(cidrs).items():
                ipset.delete(self._allow[version], mine)

    def allowed(self) -> dict[str, int]:
        """CIDR → seconds left."""
        with _translated():
            return {cidr: left for name in self._allow.values() for cidr, left in ipset.entries(name).items()}

    def missing(self, cidrs: Iterable[str]) -> set[str]:
        """An address within a network that is allowed is not missing: it passes."""
        with _translated():
            return {
                cidr
                for version, mine in by_version(cidrs).items()
                for cidr in ipset.missing(self._allow[version], mine)
            }

    def refused(self) -> list[str]:
        """Addresses, the latest first."""
        with _translated():
            left = {cidr: time for name in self._refused.values() for cidr, time in ipset.entries(name).items()}
        return [cidr.partition("/")[0] for cidr in sorted(left, key=lambda cidr: -left[cidr])]

    def remove(self) -> None:
        """Jump, chain and sets."""
        with _translated():
            with _locked():
                for version in VERSIONS:
                    if _TABLES[version].exists() and "filter" in _TABLES[version].read_text().split():
                        self._demolish(version)
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
            {"set": {"match-set": [self._allow[version], "src"]}, "target": "RETURN"},
            {"protocol": "tcp", "target": {"SET": {"add-set": [self._refused[version], "src"], "exist": ""}}},
            {"protocol": "tcp", "target": {"REJECT": {"reject-with": "tcp-reset"}}},
        ]

    def _jump(self) -> dict[str, Any]:
        return _jump(self._port, self._chain)

    def _stands(self, version: int) -> bool:
        table = _table(version)
        if not table.is_chain(self._chain):
            return False
        rules = [_read(rule, version) for rule in iptc.Chain(table, self._chain).rules]
        return rules == self._rules(version) and self._comes_first(table, version)

    def _comes_first(self, table: Any, version: int) -> bool:
        """Whether nothing but the jumps of other servers stands before ours. Others may have thousands behind it."""
        incoming = iptc.Chain(table, "INPUT")
        entry = table.first_rule("INPUT")
        while entry:
            rule = _read(table.create_rule(entry, incoming), version)
            if rule == self._jump():
                return True
            if rule != _jump_of(rule.get("target")):
                return False
            entry = table.next_rule(entry)
        return False

    def _build(self, version: int) -> None:
        with _replaced(version) as table:
            if table.is_chain(self._chain):
                chain = iptc.Chain(table, self._chain)
                chain.flush()
            else:
                chain = table.create_chain(self._chain)
            for rule in self._rules(version):
                chain.append_rule(_written(rule, version))
            incoming = iptc.Chain(table, "INPUT")
            for rule in incoming.rules:
                if _read(rule, version) == self._jump():
                    incoming.delete_rule(rule)
            incoming.insert_rule(_written(self._jump(), version))

    def _demolish(self, version: int) -> None:
        with _replaced(version) as table:
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
    """The jump to the chain of that name, if it is one of Vaultbrix."""
    name, _, port = str(target).partition("-")
    if name != _CHAIN or not (port.isdecimal() or target == _CHAIN):
        return None
    return _jump(int(port or STANDARD_PORT), str(target))


def _table(version: int) -> Any:
    table = iptc.Table(iptc.Table.FILTER) if version == 4 else iptc.Table6(iptc.Table6.FILTER)
    table.refresh()
    return table


@contextmanager
def _replaced(version: int) -> Iterator[Any]:
    """The table, whose changes the kernel takes all at once at the end: there is no moment that is half open."""
    table = _table(version)
    table.autocommit = False
    try:
        yield table
        table.commit()
    finally:
        # Before autocommit is on again: to refresh commits what is left, and after an error that is half a change.
        table.refresh()
        table.autocommit = True


def _read(rule: Any, version: int) -> dict[str, Any]:
    decoded: dict[str, Any] = iptc.easy.decode_iptc_rule(rule, ipv6=version == 6)
    decoded.pop("counters", None)
    return decoded


def _written(wanted: Mapping[str, Any], version: int) -> Any:
    # iptc.easy would leave out a match that it cannot make, and a rule without its match lets everybody pass.
    rule = iptc.Rule() if version == 4 else iptc.Rule6()
    for name, value in wanted.items():
        if name in ("protocol", "in-interface"):
            setattr(rule, name.replace("-", "_"), value)
        elif name != "target":
            match = rule.create_match(name)
            for key, parameter in value.items():
                match.set_parameter(key, parameter)
    target = wanted["target"]
    if isinstance(target, str):
        rule.create_target(target)
    else:
        for name, parameters in target.items():
            made = rule.create_target(name)
            for key, parameter in parameters.items():
                made.set_parameter(key, parameter)
    return rule


@contextmanager
def _locked() -> Iterator[None]:
    try:
        file = _LOCK.open("a")
    except OSError:
        # A read-only root: nobody else in this container has a lock there either.
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
    # ValueError: python-iptables, of a set that is not there.
    except (iptc.IPTCError, iptc.XTablesError, NetlinkError, ipset.IpsetError, ValueError) as error:
        # python-iptables shows what the kernel said as bytes.
        raise _failed(re.sub(r"b'([^']*)'", r"\1", str(error))) from None


def _failed(said: str) -> Transient:
    return Transient(
        Reason.KERNEL_FAILED,
        f"iptables: {said}; needs NET_ADMIN and NET_RAW, and ip_tables, ip6_tables, xt_set and ip_set_hash_net "
        "in the kernel",
    )
