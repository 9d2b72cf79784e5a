"""Lists and destroys TCP connections of this network namespace by the kernel's socket diagnosis (sock_diag(7)).

It needs no help of the process that has the socket: that process may be stopped, or have no room for a question.
To destroy needs NET_ADMIN, and INET_DIAG_DESTROY in the kernel.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2.netlink import NETLINK_SOCK_DIAG
from pyroute2.netlink.diag import SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, SS_CONN, SS_LISTEN

from vaultbrix.agent.connections import Connection
from vaultbrix.agent.host.netlink import DUMP, Request, exchange
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient

# inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h). The identity of a socket is its ports, both addresses in 16
# bytes each, interface and cookie; ports and addresses are in network order. The inode is the last field after it.
# A Connection's identity is the address family in one byte, and that.
_QUERY = struct.Struct("=BBBxI")
_ANSWER_HEAD = struct.Struct("=BBBB")
_PORTS = struct.Struct("!HH")
_IDENTITY_BYTES = 48
_INODE = struct.Struct("=16xI")
_ESTABLISHED = 1
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

Address = IPv4Address | IPv6Address


def connections(port: int) -> list[Connection]:
    """Return the TCP connections at a local port that a process has, or has still to accept. Raises Transient."""
    try:
        return [connection for family in _FAMILIES for connection in _dump(family, port, SS_CONN)]
    except OSError as error:
        raise _failed(error.errno) from None


def listening(port: int) -> list[int]:
    """Return the inodes of the sockets that listen at a local port. Raises Transient."""
    try:
        return [listener.inode for family in _FAMILIES for listener in _dump(family, port, 1 << SS_LISTEN)]
    except OSError as error:
        raise _failed(error.errno) from None


def destroy(doomed: Iterable[Connection]) -> int:
    """Destroy connections; returns how many of them still existed. Raises Transient.

    The next read or write of the socket's owner fails with ECONNABORTED, and the peer gets a reset.
    """
    requests = [
        Request(
            SOCK_DESTROY,
            _QUERY.pack(connection.identity[0], socket.IPPROTO_TCP, 0, SS_CONN) + connection.identity[1:],
        )
        for connection in doomed
    ]
    try:
        answers = exchange(NETLINK_SOCK_DIAG, requests)
    except OSError as error:
        raise _failed(error.errno) from None
    for answer in answers:
        # A connection that has ended meanwhile is no error.
        if answer.error not in (0, errno.ENOENT):
            raise _failed(answer.error)
    return sum(answer.error == 0 for answer in answers)


def _dump(family: int, local_port: int, states: int) -> Iterator[Connection]:
    ports = _PORTS.pack(local_port, 0)
    query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, states) + ports + bytes(_IDENTITY_BYTES - len(ports))
    (answer,) = exchange(NETLINK_SOCK_DIAG, [Request(SOCK_DIAG_BY_FAMILY, query, DUMP)])
    if answer.error:
        raise OSError(answer.error, os.strerror(answer.error))
    length = 4 if family == socket.AF_INET else 16
    for payload in answer.payloads:
        identity = payload[_ANSWER_HEAD.size : _ANSWER_HEAD.size + _IDENTITY_BYTES]
        at, port = _PORTS.unpack_from(identity)
        if at != local_port:
            continue
        own, peer = (_unmapped(ip_address(identity[start : start + length])) for start in (4, 20))
        (inode,) = _INODE.unpack_from(payload, _ANSWER_HEAD.size + _IDENTITY_BYTES)
        # What a process has closed already is on its way out by itself.
        if inode or payload[1] in (_ESTABLISHED, SS_LISTEN):
            yield Connection(peer, port, bytes([family]) + identity, inode, peer.is_loopback or peer == own)


def _unmapped(address: Address) -> Address:
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _failed(number: int | None) -> Transient:
    cause = os.strerror(number) if number else "no answer"
    return Transient(
        Reason.SESSIONS_FAILED,
        f"cannot end a session's connection: {cause}; the agent needs NET_ADMIN, the kernel INET_DIAG_DESTROY",
    )
