"""IP addresses as PostgreSQL prints them, and the networks that hold them. Pure."""

import functools
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address


# Parsed once: a grant is asked about each session of its role.
_network = functools.lru_cache(maxsize=65_536)(ip_network)


def within(address: Address, cidrs: Iterable[str]) -> bool:
    """Whether one of the CIDRs, in canonical form, holds the address."""
    return any(address in network for network in map(_network, cidrs))


def parse_address(text: str) -> Address:
    """An address as PostgreSQL prints it: without mask, an IPv4-mapped IPv6 one as IPv4."""
    address = ip_address(text.split("/", 1)[0].split("%", 1)[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
