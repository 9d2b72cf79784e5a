"""Sockets of this network namespace, by the kernel's socket diagnosis (inet_diag, SOCK_DESTROY).

For sessions that do not end when they are asked: the connection goes without a word from the process that has it.
Needs NET_ADMIN, and INET_DIAG_DESTROY in the kernel.
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
_ASK = struct.Struct("=BBBxI")
_FOUND = struct.Struct("=BBBB")
_PORTS = struct.Struct("!HH")
_IDENTITY_BYTES = 48

Address = IPv4Address | IPv6Address
Peer = tuple[int, Address, int]


def destroy(connections: Iterable[tuple[int, str, int]]) -> int:
    """End the TCP connections (local port, peer's address, peer's port); returns how many there were.

    The owner's next read or write fails with ECONNABORTED and the peer gets a reset. A connection that is not there
    is fine. Raises Transient.
    """
    wanted = {(local, _plain(ip_address(address)), port) for local, address, port in connections}
    try:
        requests = [
            Request(SOCK_DESTROY, _ASK.pack(family, socket.IPPROTO_TCP, 0, SS_CONN) + identity)
            for local in {local for local, _, _ in wanted}
            for family, identity, peer in _connections(local)
            if peer in wanted
        ]
        answers = exchange(NETLINK_SOCK_DIAG, requests)
    except OSError as error:
        raise _failed(error.errno) from None
    for answer in answers:
        # One that has gone meanwhile is fine.
        if answer.error not in (0, errno.ENOENT):
            raise _failed(answer.error)
    return sum(answer.error == 0 for answer in answers)


def _connections(local_port: int) -> Iterator[tuple[int, bytes, Peer]]:
    """Family, identity and peer of each connection at the port; a socket of IPv6 may have a peer of IPv4."""
    ports = _PORTS.pack(local_port, 0)
    for family in (socket.AF_INET, socket.AF_INET6):
        ask = _ASK.pack(family, socket.IPPROTO_TCP, 0, SS_CONN) + ports + bytes(_IDENTITY_BYTES - len(ports))
        (answer,) = exchange(NETLINK_SOCK_DIAG, [Request(SOCK_DIAG_BY_FAMILY, ask, DUMP)])
        if answer.error:
            raise OSError(answer.error, os.strerror(answer.error))
        for payload in answer.payloads:
            identity = payload[_FOUND.size : _FOUND.size + _IDENTITY_BYTES]
            local, port = _PORTS.unpack_from(identity)
            address = identity[20:24] if family == socket.AF_INET else identity[20:36]
            yield family, identity, (local, _plain(ip_address(address)), port)


def _plain(address: Address) -> Address:
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _failed(number: int | None) -> Transient:
    said = os.strerror(number) if number else "no answer"
    return Transient(
        Reason.SESSIONS_FAILED,
        f"cannot end a session's connection: {said}; the agent needs NET_ADMIN, the kernel INET_DIAG_DESTROY",
    )
