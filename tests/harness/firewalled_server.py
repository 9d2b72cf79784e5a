"""A server behind a firewall, and what a client sees of it."""

import socket
from typing import Any

import pytest
from tests.harness.host_pair import Pair

from vaultbrix.agent.host.firewall import Firewall

PORT = 5433
LONG = 1000


class FirewalledServer:
    """A server with a firewall, and listeners that accept whatever the kernel lets through."""

    def __init__(self, pair: Pair, kernel: Firewall, port: int = PORT) -> None:
        self.pair, self.port = pair, port
        self.kernel = kernel
        self.listener = pair.server.do(socket.create_server, ("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        self.listener.settimeout(30)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.kernel, name)
        return lambda *args: self.pair.server.do(method, *args)

    def connect(self, source: str) -> "tuple[socket.socket, socket.socket]":
        """Both ends of a connection from there."""
        client = self.pair.connect(source, self.port)
        server, _ = self.listener.accept()
        server.settimeout(30)
        return client, server

    def lets_in(self, source: str) -> bool:
        """Whether a new connection from there succeeds; one that does not is answered with a reset."""
        try:
            for end in self.connect(source):
                end.close()
        except ConnectionRefusedError:
            return False
        return True


def exchanges(client: socket.socket, server: socket.socket) -> bool:
    """Whether a byte still goes to the server and back."""
    try:
        client.sendall(b"?")
        if server.recv(1) != b"?":
            return False
        server.sendall(b"!")
        return client.recv(1) == b"!"
    except ConnectionError:
        return False


def is_cut(client: socket.socket, server: socket.socket) -> bool:
    """Whether the server's kernel answers the client's next byte with a reset, and passes nothing on."""
    try:
        client.sendall(b"?")
        if client.recv(1):
            return False
    except ConnectionError:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)
        return True
    return False
