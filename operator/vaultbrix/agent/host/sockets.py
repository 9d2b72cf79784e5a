"""Destroys TCP connections of this network namespace by the kernel's socket diagnosis (inet_diag, SOCK_DESTROY).

Used for sessions that do not end when PostgreSQL is told to end them: it needs no help of the process that owns the
socket. Needs NET_ADMIN, and INET_DIAG_DESTROY in the kernel.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2.netlink import NETLINK_SOCK_DIAG
from pyroute2.netlink.diag import SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, SS_CONN

from vaultbrix.agent.host.netlink import DUMP, Request, exchange
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient

# inet_diag_req_v2 and the start of inet_diag_msg (linux/inet_diag.h). The identity of a socket is its ports, both
# addresses in 16 bytes each, interface and cookie; ports and addresses are in network order.
_QUERY = struct.Struct("=BBBxI")
_ANSWER_HEAD = struct.Struct("=BBBB")
_PORTS = struct.Struct("!HH")
_IDENTITY_BYTES = 48

Address = IPv4Address | IPv6Address
Peer = tuple[int, Address, int]


def destroy(connections: Iterable[tuple[int, str, int]]) -> int:
    """Destroy TCP connections, each (local port, peer's address, peer's port); returns how many of them existed.

    The next read or write of the socket's owner fails with ECONNABORTED, and the peer gets a reset. Raises Transient.
    """
    targets = {(local, _unmapped(ip_address(address)), port) for local, address, port in connections}
    try:
        requests = [
            Request(SOCK_DESTROY, _QUERY.pack(family, socket.IPPROTO_TCP, 0, SS_CONN) + identity)
            for local in {local for local, _, _ in targets}
            for family, identity, peer in _connections(local)
            if peer in targets
        ]
        answers = exchange(NETLINK_SOCK_DIAG, requests)
    except OSError as error:
        raise _failed(error.errno) from None
    for answer in answers:
        # A connection that has ended meanwhile is no error.
        if answer.error not in (0, errno.ENOENT):
            raise _failed(answer.error)
    return sum(answer.error == 0 for answer in answers)


def _connections(local_port: int) -> Iterator[tuple[int, bytes, Peer]]:
    """Yield address family, identity and peer of each connection at the port; an IPv6 socket may have an IPv4 peer."""
    ports = _PORTS.pack(local_port, 0)
    for family in (socket.AF_INET, socket.AF_INET6):
        query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, SS_CONN) + ports + bytes(_IDENTITY_BYTES - len(ports))
        (answer,) = exchange(NETLINK_SOCK_DIAG, [Request(SOCK_DIAG_BY_FAMILY, query, DUMP)])
        if answer.error:
            raise OSError(answer.error, os.strerror(answer.error))
        for payload in answer.payloads:
            identity = payload[_ANSWER_HEAD.size : _ANSWER_HEAD.size + _IDENTITY_BYTES]
            local, port = _PORTS.unpack_from(identity)
            address = identity[20:24] if family == socket.AF_INET else identity[20:36]
            yield family, identity, (local, _unmapped(ip_address(address)), port)


def _unmapped(address: Address) -> Address:
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _failed(number: int | None) -> Transient:
    cause = os.strerror(number) if number else "no answer"
    return Transient(
        Reason.SESSIONS_FAILED,
        f"cannot end a session's connection: {cause}; the agent needs NET_ADMIN, the kernel INET_DIAG_DESTROY",
    )
