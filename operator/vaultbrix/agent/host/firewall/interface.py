"""The one interface of both firewalls, iptables and nftables, and what they share: limits, names, CIDRs in bytes."""

import socket
from collections.abc import Iterable, Mapping
from datetime import datetime
from math import ceil
from typing import Protocol

# The kernel's limit for a timeout of a set entry, in seconds; a longer deadline is refreshed before it runs out.
LONGEST_TIMEOUT = 2_147_483
MAX_ENTRIES = 262_144

# Addresses that were refused are remembered for an hour, and so many of each family.
REFUSED_SECONDS = 3600
MAX_REFUSED = 1024

# Connections of one address at a time, half-open ones too, unless the agent is told otherwise; in IPv6 of one /64,
# which one machine has whole.
CONNECTIONS_PER_ADDRESS = 100
COUNTED_LENGTHS = {4: 32, 6: 64}
MAX_COUNTED = 65_536

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSIONS = tuple(FAMILIES)
STANDARD_PORT = 5433


class Firewall(Protocol):
    """Who may reach one TCP port in this network namespace.

    Loopback, trusted and allowed sources pass; everybody else gets a reset, on open connections too. So does a new
    connection of an allowed source that has too many; where the kernel cannot count, there is no such limit. Nothing
    but that port is touched, and nothing of anybody else's. Calls block for a few milliseconds and raise Transient.
    CIDRs are canonical.
    """

    @property
    def name(self) -> str:
        """``iptables`` or ``nftables``."""

    def ensure(self) -> bool:
        """Create what is missing, so that the port is closed by default. Returns whether anything was amiss.

        Costs little while nothing is amiss. After True the sets of addresses may be empty.
        """

    def trust(self, cidrs: Iterable[str]) -> None:
        """Let exactly these CIDRs through without a deadline; others that were trusted are so no longer."""

    def allow(self, timeouts: Mapping[str, int]) -> None:
        """Let each CIDR through for so many seconds from now, whatever time it had left."""

    def deny(self, cidrs: Iterable[str]) -> None:
        """Let these CIDRs through no longer; one that is not let through is no error."""

    def allowed(self) -> dict[str, int]:
        """Return every CIDR that is let through until a deadline, with its seconds left, rounded down."""

    def missing(self, cidrs: Iterable[str]) -> set[str]:
        """Return those of these CIDRs that are not let through now. Costs grow with ``cidrs`` only."""

    def refused(self) -> list[str]:
        """Return source addresses that were refused in the last hour, the latest first; a sample when they are many."""

    def remove(self) -> None:
        """Remove every rule and set of ours, which leaves the port open."""


def timeout_for(deadline: datetime, now: datetime) -> int:
    """Return the seconds from now to a deadline as the kernel takes them.

    Rounded up, so that the kernel is never early, and at least 1, since 0 would mean for ever.
    """
    return max(1, min(LONGEST_TIMEOUT, ceil((deadline - now).total_seconds())))


def suffix(port: int) -> str:
    """Return the end of every chain, set and table name for this port; empty for the standard port."""
    return "" if port == STANDARD_PORT else f"-{port}"


def parse(cidr: str) -> tuple[int, bytes, int]:
    """Split a CIDR in canonical form into IP version, first address and prefix length.

    Takes a tenth of the time of the module ipaddress.
    """
    address, _, length = cidr.partition("/")
    version = 6 if ":" in address else 4
    return version, socket.inet_pton(FAMILIES[version], address), int(length)


def by_version(cidrs: Iterable[str]) -> dict[int, list[str]]:
    """Group CIDRs by IP version; every version is a key."""
    grouped: dict[int, list[str]] = {version: [] for version in VERSIONS}
    for cidr in cidrs:
        grouped[6 if ":" in cidr else 4].append(cidr)
    return grouped
