"""IP addresses as PostgreSQL prints them, and whether they are in a network. Pure."""

import functools
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address


# Networks are parsed once, since a grant is compared with each session of its role.
_network = functools.lru_cache(maxsize=65_536)(ip_network)


def within(address: Address, cidrs: Iterable[str]) -> bool:
    """Whether the address is in one of the CIDRs, which are in canonical form."""
    return any(address in network for network in map(_network, cidrs))


def overlapping(cidr: str, networks: Iterable[str]) -> str | None:
    """The first of the networks that shares an address with the CIDR; all are CIDRs in canonical form."""
    network = _network(cidr)
    return next((other for other in networks if network.overlaps(_network(other))), None)


def parse_address(text: str) -> Address:
    """Parse an address as PostgreSQL prints it, maybe with mask or zone; an IPv4-mapped IPv6 address becomes IPv4.

    Raises ValueError.
    """
    address = ip_address(text.split("/", 1)[0].split("%", 1)[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
