"""Whether PostgreSQL sees its clients' own addresses, without which no rule could let in the right ones. Pure."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from vaultbrix.api.conditions import Reason, State
from vaultbrix.runtime.addresses import Address, parse_address


def source_addresses(sources: Iterable[str], cluster: Iterable[str], trusted: Iterable[str]) -> State:
    """Status, reason and message of SourceAddressPreserved.

    ``sources`` is a sample of addresses that connections of tenants came from; ``cluster`` are addresses of nodes and
    prefixes of Pods, ``trusted`` the server's trustedCIDRs. A text that is no address is passed over.
    """
    seen = sorted(_addresses(sources), key=str)
    if not seen:
        return State(None, Reason.NO_CONNECTIONS, "no connection of a tenant has been seen yet")
    inside = _networks([*cluster, *trusted])
    outside = [address for address in seen if not any(address in network for network in inside)]
    if outside:
        return State(True, Reason.PRESERVED, f"PostgreSQL sees clients' own addresses, such as {outside[0]}")
    return State(
        False,
        Reason.NODE_ADDRESSES_ONLY,
        f"connections come from addresses of the cluster only, such as {seen[0]}, so no rule fits them: set "
        "externalTrafficPolicy: Local on the Service (chart value postgresql.service.externalTrafficPolicy)",
    )


def unknown_to(sources: Iterable[str], networks: Iterable[str]) -> bool:
    """Whether a source is in none of the networks."""
    known = _networks(networks)
    return any(not any(address in network for network in known) for address in _addresses(sources))


def _addresses(texts: Iterable[str]) -> set[Address]:
    addresses = set()
    for text in texts:
        try:
            addresses.add(parse_address(text))
        except ValueError:
            continue
    return addresses


def _networks(texts: Iterable[str]) -> list[IPv4Network | IPv6Network]:
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:
            continue
    return networks
