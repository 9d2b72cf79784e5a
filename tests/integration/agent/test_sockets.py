"""A connection ends though the process that has it answers to nothing any more."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.harness.host_pair import Pair

from vaultbrix.agent.connections import Connection
from vaultbrix.agent.host.sockets import connections, destroy

PORT = 5433

# Accepts, says so, and keeps all connections: on a socket for both families, or on one for IPv4.
SERVER = """
import socket, sys
bound = ("::", {port}) if sys.argv[1] == "both" else ("", {port})
family = socket.AF_INET6 if sys.argv[1] == "both" else socket.AF_INET
listener = socket.create_server(bound, family=family, dualstack_ipv6=sys.argv[1] == "both")
print("listening", flush=True)
kept = []
while True:
    kept.append(listener.accept()[0])
    print("accepted", flush=True)
"""


class Stopped:
    """A server that has accepted some connections and then was stopped."""

    def __init__(self, pair: Pair, listens: str) -> None:
        self._pair = pair
        self.process = pair.server.start(sys.executable, "-c", SERVER.format(port=PORT), listens)
        self._said("listening")

    def connect(self, source: str, source_port: int = 0) -> socket.socket:
        connection = self._pair.connect(source, PORT, source_port)
        self._said("accepted")
        return connection

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _said(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word


@pytest.fixture(params=["both", "ipv4"])
def server(request: pytest.FixtureRequest, pair: Pair) -> Iterator[Stopped]:
    started = Stopped(pair, request.param)
    yield started
    started.end()


def seen(pair: Pair, *clients: socket.socket) -> list[Connection]:
    """The connections of these clients, as the server's kernel has them."""
    peers = {client.getsockname()[:2] for client in clients}
    return [c for c in pair.server.do(connections, PORT) if (str(c.address), c.port) in peers]


def is_open(connection: socket.socket) -> bool:
    """Whether nothing came from the server, no reset either."""
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    return False


def test_a_connection_of_a_stopped_process_is_reset_and_no_other(pair: Pair, server: Stopped) -> None:
    ending, staying, other = (server.connect(source) for source in ("203.0.113.7", "203.0.113.7", "203.0.113.8"))
    server.stop()
    assert pair.server.do(destroy, seen(pair, ending)) == 1
    with pytest.raises(ConnectionResetError):
        ending.recv(1)
    assert is_open(staying)
    assert is_open(other)


def test_connections_over_ipv6_are_reset(pair: Pair) -> None:
    server = Stopped(pair, "both")
    ending, staying = server.connect("2001:db8::7"), server.connect("2001:db8::8")
    mapped = server.connect("203.0.113.7")
    server.stop()
    assert pair.server.do(destroy, seen(pair, ending, mapped)) == 2
    for connection in (ending, mapped):
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert is_open(staying)
    server.end()


def test_a_connection_whose_peer_has_gone_is_taken_away(pair: Pair, server: Stopped) -> None:
    connection = server.connect("203.0.113.7")
    gone = seen(pair, connection)
    server.stop()
    connection.close()
    assert pair.server.do(destroy, gone) == 1
    assert pair.server.do(destroy, gone) == 0


def test_a_connection_that_took_the_place_of_another_is_left_alone(pair: Pair, server: Stopped) -> None:
    earlier = server.connect("203.0.113.7")
    gone, port = seen(pair, earlier), earlier.getsockname()[1]
    assert pair.server.do(destroy, gone) == 1
    earlier.close()
    again = server.connect("203.0.113.7", port)
    assert again.getsockname()[1] == port
    assert pair.server.do(destroy, gone) == 0
    assert pair.server.do(destroy, []) == 0
    assert is_open(again)


def test_connections_at_other_ports_are_not_listed(pair: Pair, server: Stopped) -> None:
    client = server.connect("203.0.113.7")
    assert seen(pair, client)
    assert pair.server.do(connections, PORT + 1) == []


def test_many_connections_end_at_once(pair: Pair, server: Stopped) -> None:
    clients = [server.connect("203.0.113.7") for _ in range(300)]
    server.stop()
    ending = clients[::2]
    assert pair.server.do(destroy, seen(pair, *ending)) == len(ending)
    for client in ending:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert all(is_open(client) for client in clients[1::2])
    for client in clients:
        client.close()


def test_without_the_privilege_it_says_what_is_missing(pair: Pair, server: Stopped) -> None:
    connection = server.connect("203.0.113.7")
    ask = f"from vaultbrix.agent.host.sockets import connections, destroy; destroy(connections({PORT}))"
    command = ["setpriv", "--bounding-set=-all", sys.executable, "-c", ask]
    done = subprocess.run(
        ["ip", "netns", "exec", pair.server.name, *command], capture_output=True, text=True, check=False
    )
    assert "Operation not permitted" in done.stderr
    assert "NET_ADMIN" in done.stderr
    assert is_open(connection)
