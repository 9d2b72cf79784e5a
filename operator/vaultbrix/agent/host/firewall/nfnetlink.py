"""Two questions that nft(8) answers slowly or not at all, asked of the kernel (linux/netfilter/nf_tables.h)."""

import errno
import os
import socket
from collections.abc import Iterable

from pyroute2.netlink import NETLINK_NETFILTER
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES

from vaultbrix.agent.host.netlink import QUESTION, Request, attribute, attributes, exchange, nested

_GETSETELEM, _GETGEN = 13, 16
_GEN_ID = 1
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_LIST_ELEM, _ELEM_KEY, _DATA_VALUE = 1, 1, 1
_INET = 1  # NFPROTO_INET


def generation() -> int:
    """Return the number that every change of any rule or set in this network namespace raises by one. Raises OSError.

    Packets, and elements that expire, do not raise it.
    """
    (answer,) = exchange(NETLINK_NETFILTER, [_request(_GETGEN, socket.AF_UNSPEC)])
    if answer.error:
        raise OSError(answer.error, os.strerror(answer.error))
    return int.from_bytes(dict(attributes(answer.payloads[0][4:]))[_GEN_ID], "big")


def present(table: str, elements: Iterable[tuple[str, bytes]]) -> list[bool]:
    """For each pair (name of a set, address): whether the set has that element and it has not expired.

    A set that does not exist has no element. Raises OSError.
    """
    answers = exchange(
        NETLINK_NETFILTER,
        [
            _request(
                _GETSETELEM,
                _INET,
                attribute(_TABLE, table.encode() + b"\0"),
                attribute(_SET, name.encode() + b"\0"),
                nested(_ELEMENTS, nested(_LIST_ELEM, nested(_ELEM_KEY, attribute(_DATA_VALUE, address)))),
            )
            for name, address in elements
        ],
    )
    for answer in answers:
        if answer.error not in (0, errno.ENOENT):
            raise OSError(answer.error, os.strerror(answer.error))
    return [answer.error == 0 for answer in answers]


def _request(command: int, family: int, *packed: bytes) -> Request:
    return Request(NFNL_SUBSYS_NFTABLES << 8 | command, bytes((family, 0, 0, 0)) + b"".join(packed), QUESTION)
