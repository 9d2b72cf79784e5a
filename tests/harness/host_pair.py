"""Two hosts of our own, joined by a cable: network namespaces with the kernel's firewall between their processes.

What is tested runs in a thread that has entered the namespace, so that it is called like anything else.
"""

import itertools
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from pyroute2 import netns
from tests.harness.shell import PATIENCE, run
from tests.harness.slot import SLOT

P = ParamSpec("P")
T = TypeVar("T")

SERVER4, SERVER6 = "192.0.2.1", "2001:db8:ffff::1"

# One side's names are unlike those of any other run on this machine.
_numbers = itertools.count()


class Host:
    """A network namespace."""

    def __init__(self) -> None:
        self.name = f"vbxf{SLOT}n{next(_numbers)}"
        run("ip", "netns", "add", self.name)
        self._thread = ThreadPoolExecutor(1, initializer=netns.setns, initargs=(self.name,))
        # Nobody else is on these links, so addresses need no probing.
        self.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        self.run("ip", "link", "set", "lo", "up")

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it there."""
        return self._thread.submit(function, *args, **kwargs).result(PATIENCE)

    def run(self, *command: str, check: bool = True, input_text: str | None = None) -> str:
        """Run a command there; returns what it printed."""
        return run("ip", "netns", "exec", self.name, *command, check=check, input_text=input_text).stdout

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command there whose output is read by the caller, who ends it."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command], stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def close(self) -> None:
        """Delete it with all its links and rules."""
        self._thread.shutdown()
        run("ip", "netns", "del", self.name, check=False)


class Pair:
    """A server and a client that has any address it likes."""

    def __init__(self) -> None:
        self.server, self.client = Host(), Host()
        cable = ("type", "veth", "peer", "name", "cable", "netns", self.client.name)
        self.server.run("ip", "link", "add", "cable", *cable)
        for host, near, far in ((self.server, 1, 2), (self.client, 2, 1)):
            host.run("ip", "addr", "add", f"172.31.240.{near}/30", "dev", "cable")
            host.run("ip", "addr", "add", f"fd00:240::{near}/64", "dev", "cable", "nodad")
            host.run("ip", "link", "set", "cable", "up")
            host.run("ip", "route", "add", "default", "via", f"172.31.240.{far}")
            host.run("ip", "route", "add", "default", "via", f"fd00:240::{far}")
        self.server.run("ip", "addr", "add", f"{SERVER4}/32", "dev", "lo")
        self.server.run("ip", "addr", "add", f"{SERVER6}/128", "dev", "lo", "nodad")
        self._addresses: set[str] = set()

    def connect(self, source: str, port: int, source_port: int = 0) -> socket.socket:
        """A connection from that address, and port unless it is 0; OSError if the server refuses it."""
        version6 = ":" in source
        if source not in self._addresses:
            self.client.run("ip", "addr", "add", source, "dev", "lo", *(["nodad"] if version6 else []))
            self._addresses.add(source)
        target = (SERVER6 if version6 else SERVER4, port)
        return self.client.do(socket.create_connection, target, PATIENCE, (source, source_port))

    def close(self) -> None:
        """Delete both."""
        self.client.close()
        self.server.close()
