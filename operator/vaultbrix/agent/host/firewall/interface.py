"""What the agent asks of the kernel, whichever of its interfaces answers."""

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

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSIONS = tuple(FAMILIES)
STANDARD_PORT = 5433


class Firewall(Protocol):
    """Who may reach one TCP port in this network namespace.

    Loopback, trusted and allowed sources pass; everybody else gets a reset, on open connections too. Nothing but
    that port is touched, and nothing of anybody else's. Calls block for a few milliseconds and raise Transient.
    CIDRs are canonical.
    """

    @property
    def name(self) -> str:
        """``iptables`` or ``nftables``."""

    def ensure(self) -> bool:
        """Create what is missing; closed by default. Returns whether anything was amiss.

        Cheap while nothing is. After True the sets may be empty.
        """

    def trust(self, cidrs: Iterable[str]) -> None:
        """Let exactly these through for ever."""

    def allow(self, wanted: Mapping[str, int]) -> None:
        """Let these CIDRs through for so many seconds from now, whatever they had left."""

    def deny(self, cidrs: Iterable[str]) -> None:
        """Take these CIDRs out; one that is not there is fine."""

    def allowed(self) -> dict[str, int]:
        """All that is let through now: CIDR → seconds left, rounded down."""

    def missing(self, cidrs: Iterable[str]) -> set[str]:
        """Which of these are not let through now; costs as much as is asked, however much the kernel holds."""

    def refused(self) -> list[str]:
        """Source addresses refused in the last hour, the latest first. A sample when they are many."""

    def remove(self) -> None:
        """Take away all of ours. The port is open then."""


def timeout_for(deadline: datetime, now: datetime) -> int:
    """Whole seconds for the kernel, rounded up so that it is never early, at least 1 (0 would mean for ever)."""
    return max(1, min(LONGEST_TIMEOUT, ceil((deadline - now).total_seconds())))


def suffix(port: int) -> str:
    """What tells the names of a second server's objects from the first one's."""
    return "" if port == STANDARD_PORT else f"-{port}"


def parse(cidr: str) -> tuple[int, bytes, int]:
    """IP version, first address and prefix length of a CIDR in canonical form, in a tenth of the time of ipaddress."""
    address, _, length = cidr.partition("/")
    version = 6 if ":" in address else 4
    return version, socket.inet_pton(FAMILIES[version], address), int(length)


def by_version(cidrs: Iterable[str]) -> dict[int, list[str]]:
    """IP version → its CIDRs."""
    found: dict[int, list[str]] = {version: [] for version in VERSIONS}
    for cidr in cidrs:
        found[6 if ":" in cidr else 4].append(cidr)
    return found
