"""A connection ends though the process that has it answers to nothing any more."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.harness.host_pair import Pair

from vaultbrix.agent.host.sockets import destroy

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

    def connect(self, source: str) -> socket.socket:
        connection = self._pair.connect(source, PORT)
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


def peer(connection: socket.socket) -> tuple[int, str, int]:
    address, port = connection.getsockname()[:2]
    return (PORT, address, port)


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
    assert pair.server.do(destroy, [peer(ending)]) == 1
    with pytest.raises(ConnectionResetError):
        ending.recv(1)
    assert is_open(staying)
    assert is_open(other)


def test_connections_over_ipv6_are_reset(pair: Pair) -> None:
    server = Stopped(pair, "both")
    ending, staying = server.connect("2001:db8::7"), server.connect("2001:db8::8")
    mapped = server.connect("203.0.113.7")
    server.stop()
    local, address, port = peer(mapped)
    assert pair.server.do(destroy, [peer(ending), (local, f"::ffff:{address}", port)]) == 2
    for connection in (ending, mapped):
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert is_open(staying)
    server.end()


def test_a_connection_whose_peer_has_gone_is_taken_away(pair: Pair, server: Stopped) -> None:
    connection = server.connect("203.0.113.7")
    gone = peer(connection)
    server.stop()
    connection.close()
    assert pair.server.do(destroy, [gone]) == 1
    assert pair.server.do(destroy, [gone]) == 0


def test_what_is_not_there_is_fine(pair: Pair, server: Stopped) -> None:
    connection = server.connect("203.0.113.7")
    _, address, port = peer(connection)
    absent = [(PORT, address, port + 1), (PORT + 1, address, port), (PORT, "203.0.113.8", port), (PORT, "::1", port)]
    assert pair.server.do(destroy, absent) == 0
    assert pair.server.do(destroy, []) == 0
    assert is_open(connection)


def test_many_connections_end_at_once(pair: Pair, server: Stopped) -> None:
    connections = [server.connect("203.0.113.7") for _ in range(300)]
    server.stop()
    ending = connections[::2]
    assert pair.server.do(destroy, map(peer, ending)) == len(ending)
    for connection in ending:
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert all(is_open(connection) for connection in connections[1::2])
    for connection in connections:
        connection.close()


def test_without_the_privilege_it_says_what_is_missing(pair: Pair, server: Stopped) -> None:
    connection = server.connect("203.0.113.7")
    ask = f"from vaultbrix.agent.host.sockets import destroy; destroy([{peer(connection)!r}])"
    command = ["setpriv", "--bounding-set=-all", sys.executable, "-c", ask]
    done = subprocess.run(
        ["ip", "netns", "exec", pair.server.name, *command], capture_output=True, text=True, check=False
    )
    assert "Operation not permitted" in done.stderr
    assert "NET_ADMIN" in done.stderr
    assert is_open(connection)
