"""Addresses and prefixes that often nest, and an oracle of containment that counts bits."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

from hypothesis import strategies as st

from vaultbrix.grants.grant import Grant
from vaultbrix.runtime.addresses import Address

V4, V6 = int(IPv4Address("203.0.113.0")), int(ip_address("2001:db8::"))


# Few bits differ, so that prefixes nest and addresses hit them often.
V4_CIDRS = st.builds(
    lambda host, length: str(IPv4Network((V4 | host, length), strict=False)),
    st.integers(0, 15),
    st.integers(28, 32),
)


V6_CIDRS = st.builds(
    lambda host, length: str(IPv6Network((V6 | host, length), strict=False)),
    st.integers(0, 15),
    st.integers(124, 128),
)


CIDRS = st.one_of(V4_CIDRS, V6_CIDRS)


ADDRESSES: st.SearchStrategy[Address] = st.one_of(
    st.integers(0, 15).map(lambda host: ip_address(V4 | host)),
    st.integers(0, 15).map(lambda host: ip_address(V6 | host)),
)


def inside(address: Address, cidr: str) -> bool:
    """By comparing the leading bits, without ipaddress's own idea of containment."""
    base, length = cidr.split("/")
    network = ip_address(base)
    shift = network.max_prefixlen - int(length)
    return address.version == network.version and int(address) >> shift == int(network) >> shift


def let_in(address: Address, role: str, grants: list[Grant]) -> bool:
    return any(g.role == role and inside(address, cidr) for g in grants for cidr in g.cidrs)
