"""Hosts of our own: network namespaces, one for the server and one for each client, with addresses of their own.

A client's public address is on its ``lo``; the server has a route to it through the client's link. The server's
other link leads to the machine, where the API server of the tests listens.
"""

import itertools
from collections.abc import Sequence
from ipaddress import ip_address

from tests.harness.shell import run
from tests.harness.slot import SLOT

MACHINE, SERVER = f"172.31.250.{4 * SLOT + 1}", f"172.31.250.{4 * SLOT + 2}"
SERVER6 = "fd00:250:ffff::1"


class Network:
    """The namespaces of one test run; ``close`` takes them all away."""

    def __init__(self, prefix: str = "vbxt", machine: str = MACHINE, server: str = SERVER) -> None:
        self.server = f"{prefix}{SLOT}"
        self._clients: dict[str, str] = {}
        self._numbers = itertools.count()
        link = self.server
        run("ip", "netns", "add", self.server)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "machine", "netns", self.server)
        run("ip", "addr", "add", f"{machine}/30", "dev", link)
        run("ip", "link", "set", link, "up")
        self._in_server("ip", "addr", "add", f"{server}/30", "dev", "machine")
        self._in_server("ip", "link", "set", "machine", "up")
        self._in_server("ip", "link", "set", "lo", "up")
        # On no client's link, so that clients come with their public address.
        self._in_server("ip", "addr", "add", f"{SERVER6}/128", "dev", "lo", "nodad")

    def inside(self, host: str, command: Sequence[str]) -> list[str]:
        """The command as it runs on a host: ``server`` or an address that was added."""
        name = self.server if host == "server" else self._clients[host]
        return ["ip", "netns", "exec", name, *command]

    def client(self, address: str) -> str:
        """Make a client with that public address (v4 or v6); returns the address. One that is there is kept."""
        if address in self._clients:
            return address
        number = next(self._numbers)
        name = f"{self.server}c{number}"
        run("ip", "netns", "add", name)
        self._clients[address] = name
        self._in_server("ip", "link", "add", f"c{number}", "type", "veth", "peer", "name", "net", "netns", name)
        self._in_server("ip", "link", "set", f"c{number}", "up")
        for link in ("lo", "net"):
            run("ip", "-n", name, "link", "set", "dev", link, "up")
        self._connect(number, name, address)
        return address

    def client_of_both(self, address4: str, address6: str) -> str:
        """A client with a public address of each family; returns the IPv4 one. One that is there is kept."""
        if address6 not in self._clients:
            name = self._clients[self.client(address4)]
            self._connect(int(name.rpartition("c")[2]), name, address6)
            self._clients[address6] = name
        return address4

    def _connect(self, number: int, name: str, address: str) -> None:
        if ip_address(address).version == 4:
            near, far = f"172.31.251.{4 * number + 1}", f"172.31.251.{4 * number + 2}"
            self._in_server("ip", "addr", "add", f"{near}/30", "dev", f"c{number}")
            run("ip", "-n", name, "addr", "add", f"{address}/32", "dev", "lo")
            run("ip", "-n", name, "addr", "add", f"{far}/30", "dev", "net")
            run("ip", "-n", name, "route", "add", "default", "via", near, "src", address)
            self._in_server("ip", "route", "add", f"{address}/32", "via", far)
        else:
            near, far = f"fd00:250:{number + 1}::1", f"fd00:250:{number + 1}::2"
            self._in_server("ip", "addr", "add", f"{near}/64", "dev", f"c{number}", "nodad")
            run("ip", "-n", name, "addr", "add", f"{address}/128", "dev", "lo", "nodad")
            run("ip", "-n", name, "addr", "add", f"{far}/64", "dev", "net", "nodad")
            run("ip", "-n", name, "route", "add", "default", "via", near, "src", address)
            self._in_server("ip", "route", "add", f"{address}/128", "via", far)

    def gateway(self, address: str) -> str:
        """The address of a client's link, through which the server reaches what else the client has."""
        found = run(*self.inside("server", ["ip", "route", "get", address])).stdout.split()
        return found[found.index("via") + 1]

    def close(self) -> None:
        """Delete the namespaces, and with them all links; processes in them were ended by their owners."""
        # The link first: the kernel cleans up a namespace later, and two links with one address would compete.
        run("ip", "link", "del", self.server, check=False)
        for name in (*dict.fromkeys(self._clients.values()), self.server):
            run("ip", "netns", "del", name, check=False)

    def route(self, address: str, via: str) -> None:
        """Have the server reach an address that is none of its links'."""
        self._in_server("ip", "route", "add", f"{address}/32", "via", via)

    def _in_server(self, *command: str) -> None:
        run(*self.inside("server", command))
