"""Sets of addresses in the kernel (ipset), filled and queried by the thousand (linux/netfilter/ipset/ip_set.h).

pyroute2 creates the sets. Entries are sent here, in batches: pyroute2 takes 0.4 ms for each entry, a batch some
microseconds.
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

# Numbers from the kernel's headers; within a set entry, numbers are in network order.
_PROTOCOL_VERSION = 6
_PROTOCOL, _SETNAME, _DATA, _ADT, _LINENO = 1, 2, 7, 8, 9
_IP, _CIDR, _TIMEOUT = 1, 3, 6
_ADDRESS = {4: 1, 6: 2}
_NFGEN = bytes((socket.AF_INET, 0, 0, 0))

# An entry takes at most 44 bytes, an attribute 65,535.
_BATCH = 1000

# Errors of IPSET_ERR_* that a user can do something about; all others are shown by their number.
_ERROR_TEXTS = {4352: "the set is full", 4102: "a set of that name has another type"}


class IpsetError(Exception):
    """The kernel refused a request about a set; the message names the set and the cause."""


@dataclass(frozen=True)
class Set:
    """A set of addresses of one IP version.

    ``timeout`` is for entries that bring none of their own, in seconds, 0 for ever; ``size`` is the most entries.
    """

    name: str
    version: int
    kind: str
    timeout: int
    size: int
    replace: bool = False  # when it is full, a new entry takes the place of another


def create(sets: Iterable[Set]) -> None:
    """Create those of the sets that do not exist yet."""
    with IPSet() as ipset:
        for each in sets:
            ipset.create(
                each.name,
                stype=each.kind,
                family=FAMILIES[each.version],
                timeout=each.timeout,
                maxelem=each.size,
                forceadd=each.replace,
                exclusive=False,
            )


def destroy(sets: Iterable[Set]) -> None:
    """Remove the sets; one that does not exist is no error."""
    with IPSet() as ipset:
        for each in sets:
            try:
                ipset.destroy(each.name)
            except NetlinkError as error:
                if error.code != 2:
                    raise


def add(name: str, timeouts: Mapping[str, int]) -> None:
    """Add CIDRs to a set, each for so many seconds, 0 for ever; replaces the time that an entry has left."""
    _change(IPSET_CMD_ADD, name, [_entry(cidr, seconds) for cidr, seconds in timeouts.items()])


def delete(name: str, cidrs: Iterable[str]) -> None:
    """Remove CIDRs from a set; one that is not in it is no error."""
    _change(IPSET_CMD_DEL, name, [_entry(cidr) for cidr in cidrs])


def missing(name: str, cidrs: Iterable[str]) -> set[str]:
    """Return those of the CIDRs that a set does not contain. A network in the set contains every address in it."""
    queried = list(cidrs)
    requests = [_request(IPSET_CMD_TEST, name, nested(_DATA, _entry(cidr))) for cidr in queried]
    return {
        cidr
        for cidr, answer in zip(queried, exchange(NETLINK_NETFILTER, requests), strict=True)
        if _is_error(answer.error, name, IPSET_ERR_EXIST)
    }


def entries(name: str) -> dict[str, int]:
    """Return the CIDRs in a set, each with its seconds left, 0 for ever."""
    (answer,) = exchange(NETLINK_NETFILTER, [_request(IPSET_CMD_LIST, name, flags=DUMP)])
    _is_error(answer.error, name)
    return dict(entry for payload in answer.payloads for entry in _listed(payload))


def _change(command: int, name: str, packed: list[bytes]) -> None:
    # Without NLM_F_EXCL: to add what is there, or delete what is not, is no error.
    batches = [packed[start : start + _BATCH] for start in range(0, len(packed), _BATCH)]
    line = attribute(_LINENO, bytes(4))
    requests = [_request(command, name, line, nested(_ADT, *(nested(_DATA, e) for e in batch))) for batch in batches]
    for answer in exchange(NETLINK_NETFILTER, requests):
        _is_error(answer.error, name)


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
                entry = dict(attributes(data))
                (_, address), *_ = attributes(entry[_IP])
                length = entry[_CIDR][0] if _CIDR in entry else len(address) * 8
                yield f"{ip_address(address)}/{length}", int.from_bytes(entry.get(_TIMEOUT, b""), "big")


def _is_error(error: int, name: str, expected: int = 0) -> bool:
    """Whether the kernel answered with the expected error. Raises IpsetError for any other."""
    if error in (0, expected):
        return error != 0
    cause = _ERROR_TEXTS.get(error) or (os.strerror(error) if error < 4096 else f"ipset error {error}")
    raise IpsetError(f"set {name}: {cause}")
