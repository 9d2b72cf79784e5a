"""Sets of addresses in the kernel (ipset), filled and asked by the thousand (linux/netfilter/ipset/ip_set.h).

pyroute2 makes the sets. Entries go in batches of our own: it takes 0.4 ms for each, a batch some microseconds.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPSet
from pyroute2.netlink import NETLINK_NETFILTER
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_IPSET
from pyroute2.netlink.nfnetlink.ipset import (
    IPSET_CMD_ADD,
    IPSET_CMD_DEL,
    IPSET_CMD_LIST,
    IPSET_CMD_TEST,
    IPSET_ERR_EXIST,
)

from vaultbrix.agent.host.firewall.interface import FAMILIES, parse
from vaultbrix.agent.host.netlink import BIG_ENDIAN, DUMP, Request, attribute, attributes, exchange, nested

# Of the kernel's headers; within a set entry, numbers are in network order.
_PROTOCOL_VERSION = 6
_PROTOCOL, _SETNAME, _DATA, _ADT, _LINENO = 1, 2, 7, 8, 9
_IP, _CIDR, _TIMEOUT = 1, 3, 6
_ADDRESS = {4: 1, 6: 2}
_NFGEN = bytes((socket.AF_INET, 0, 0, 0))

# An entry takes at most 44 bytes, an attribute 65,535.
_BATCH = 1000

# Errors of IPSET_ERR_* that a user can do something about; others by their number.
_TOLD = {4352: "the set is full", 4102: "a set of that name has another type"}


class IpsetError(Exception):
    """What the kernel refused, and of which set."""


@dataclass(frozen=True)
class Set:
    """A set of one family; ``timeout`` in seconds is that of entries which bring none, 0 for ever."""

    name: str
    version: int
    kind: str
    timeout: int
    size: int
    replace: bool = False  # when it is full, a new entry takes the place of another


def create(sets: Iterable[Set]) -> None:
    """Make those that are missing."""
    with IPSet() as ipset:
        for wanted in sets:
            ipset.create(
                wanted.name,
                stype=wanted.kind,
                family=FAMILIES[wanted.version],
                timeout=wanted.timeout,
                maxelem=wanted.size,
                forceadd=wanted.replace,
                exclusive=False,
            )


def destroy(sets: Iterable[Set]) -> None:
    """Take them away; one that is not there is fine."""
    with IPSet() as ipset:
        for unwanted in sets:
            try:
                ipset.destroy(unwanted.name)
            except NetlinkError as error:
                if error.code != 2:
                    raise


def add(name: str, wanted: Mapping[str, int]) -> None:
    """CIDR → seconds, 0 for ever; replaces the time that an entry has left."""
    _change(IPSET_CMD_ADD, name, [_entry(cidr, seconds) for cidr, seconds in wanted.items()])


def delete(name: str, cidrs: Iterable[str]) -> None:
    """Take these out; one that is not there is fine."""
    _change(IPSET_CMD_DEL, name, [_entry(cidr) for cidr in cidrs])


def missing(name: str, cidrs: Iterable[str]) -> set[str]:
    """Which of these the set does not hold. An address within a network that it holds is held."""
    asked = list(cidrs)
    requests = [_request(IPSET_CMD_TEST, name, nested(_DATA, _entry(cidr))) for cidr in asked]
    return {
        cidr
        for cidr, answer in zip(asked, exchange(NETLINK_NETFILTER, requests), strict=True)
        if _checked(answer.error, name, IPSET_ERR_EXIST)
    }


def entries(name: str) -> dict[str, int]:
    """CIDR → seconds left, 0 for ever."""
    (answer,) = exchange(NETLINK_NETFILTER, [_request(IPSET_CMD_LIST, name, flags=DUMP)])
    _checked(answer.error, name)
    return dict(entry for payload in answer.payloads for entry in _listed(payload))


def _change(command: int, name: str, packed: list[bytes]) -> None:
    # Without NLM_F_EXCL: to add what is there, or delete what is not, is no error.
    batches = [packed[start : start + _BATCH] for start in range(0, len(packed), _BATCH)]
    line = attribute(_LINENO, bytes(4))
    requests = [_request(command, name, line, nested(_ADT, *(nested(_DATA, e) for e in batch))) for batch in batches]
    for answer in exchange(NETLINK_NETFILTER, requests):
        _checked(answer.error, name)


def _request(command: int, name: str, *attributes: bytes, flags: int | None = None) -> Request:
    payload = b"".join(
        (
            _NFGEN,
            attribute(_PROTOCOL, bytes((_PROTOCOL_VERSION,))),
            attribute(_SETNAME, name.encode() + b"\0"),
            *attributes,
        )
    )
    type_ = NFNL_SUBSYS_IPSET << 8 | command
    return Request(type_, payload) if flags is None else Request(type_, payload, flags)


def _entry(cidr: str, seconds: int | None = None) -> bytes:
    version, address, length = parse(cidr)
    packed = nested(_IP, attribute(_ADDRESS[version] | BIG_ENDIAN, address)) + attribute(_CIDR, bytes((length,)))
    if seconds is None:
        return packed
    return packed + attribute(_TIMEOUT | BIG_ENDIAN, seconds.to_bytes(4, "big"))


def _listed(payload: bytes) -> Iterator[tuple[str, int]]:
    for type_, value in attributes(payload[len(_NFGEN) :]):
        if type_ == _ADT:
            for _, data in attributes(value):
                found = dict(attributes(data))
                (_, address), *_ = attributes(found[_IP])
                length = found[_CIDR][0] if _CIDR in found else len(address) * 8
                yield f"{ip_address(address)}/{length}", int.from_bytes(found.get(_TIMEOUT, b""), "big")


def _checked(error: int, name: str, expected: int = 0) -> bool:
    """Whether the error is the expected one. Raises IpsetError for any other."""
    if error in (0, expected):
        return error != 0
    told = _TOLD.get(error) or (os.strerror(error) if error < 4096 else f"ipset error {error}")
    raise IpsetError(f"set {name}: {told}")
