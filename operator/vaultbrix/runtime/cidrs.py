"""Networks as people type them on a command line, and errors that name the option and what to write instead. Pure."""

import re
from collections.abc import Sequence
from ipaddress import IPv6Network, ip_address, ip_network

from vaultbrix.runtime.usage import Misused

MOST_CIDRS = 32

_MAPPED = IPv6Network("::ffff:0:0/96")


def parse_cidr(text: str) -> str:
    """One ``--cidr`` in canonical form; an address alone stands for itself. Raises Misused."""
    option = f"--cidr {text}"
    address, slash, prefix = text.partition("/")
    if slash and not re.fullmatch(r"[0-9]{1,3}", prefix):
        raise Misused(f"{option}: the part after / must be a prefix length, such as 203.0.113.0/24")
    try:
        # Of a zone (%eth0) only the caller's own machine knows what it means.
        host = ip_address(address) if "%" not in address else None
        network = ip_network(text, strict=False) if host is not None else None
    except ValueError:
        network = host = None
    if host is None or network is None:
        raise Misused(f"{option}: not an address or CIDR; write 203.0.113.7, 203.0.113.0/24 or 2001:db8::/64")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        plain = ip_address(int(host) & 0xFFFFFFFF)
        raise Misused(f"{option}: an IPv4 address written as IPv6; write {plain}/{network.prefixlen - 96}")
    if network.prefixlen == 0:
        raise Misused(f"{option}: would let every address in; name the addresses that need access")
    if host != network.network_address:
        raise Misused(
            f"{option}: has bits set beyond its prefix; write {network} for the whole network, "
            f"or {host}/{host.max_prefixlen} for the address alone"
        )
    return str(network)


def parse_cidrs(texts: Sequence[str], *, holder: str) -> list[str]:
    """All ``--cidr`` in canonical form and in the order given; ``holder`` is what they are given for, such as ``rule``.

    Raises Misused, also for none, for too many and for one given twice.
    """
    if not 1 <= len(texts) <= MOST_CIDRS:
        raise Misused(f"--cidr: give 1 to {MOST_CIDRS} of them, not {len(texts)}; make another {holder} for more")
    text_of: dict[str, str] = {}
    for text in texts:
        cidr = parse_cidr(text)
        if cidr in text_of:
            raise Misused(f"--cidr {text}: given twice, {text_of[cidr]} is the same; leave one out")
        text_of[cidr] = text
    return list(text_of)
