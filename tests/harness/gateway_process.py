"""``vaultbrix gateway`` as a process of its own, with what it knows from a real API server.

A key that is good is told by the answer 403: the tenant's data API is not switched on.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.harness.database import free_port
from tests.harness.http_messages import request
from tests.harness.known_keys import DOMAIN
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for

GOOD, REFUSED, NOT_READY = 403, 401, 503


class Gateway:
    """One replica, asked as Traefik and Caddy ask."""

    def __init__(self, folder: Path, kubeconfig: Path, secret: bytes = bytes(range(32))) -> None:
        self.socket = folder / "gateway.socket"
        self.probe_port = free_port()
        (folder / "secret").write_bytes(secret)
        self.process = Process(
            [
                *VAULTBRIX, "gateway", f"--domain={DOMAIN}", f"--secret-file={folder / 'secret'}",
                f"--socket={self.socket}", f"--probe-port={self.probe_port}",
            ],
            folder / "gateway.log",
            env={"KUBECONFIG": str(kubeconfig)},
        )  # fmt: skip

    def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until it answers, and knows everything unless told otherwise."""
        self.socket.unlink(missing_ok=True)
        self.process.start()
        wait_for(
            "the gateway answers", lambda: self._probe() in ({200} if ready else {200, 503}), tell=self.process.text
        )
        wait_for("the gateway serves", self.socket.exists, tell=self.process.text)

    def ask(self, key: str) -> int:
        """The answer to a request with that key."""
        headers = {
            "Host": "gateway",
            "X-Forwarded-Method": "GET",
            "X-Forwarded-Uri": "/rest/v1/notes",
            "X-Forwarded-Host": DOMAIN,
            "X-Forwarded-For": "203.0.113.7",
            "apikey": key,
        }
        return request(self.socket, "GET", "/forward", headers).status

    def metrics(self) -> str:
        """All of its metrics."""
        return request(self.probe_port, "GET", "/metrics", {}).body.decode()

    def _probe(self) -> int:
        try:
            return request(self.probe_port, "GET", "/readyz", {}).status
        except OSError:
            return 0


@contextlib.contextmanager
def running(gateway: Gateway, *, ready: bool = True) -> Iterator[Gateway]:
    """Start a replica, and kill it at the end."""
    gateway.start(ready=ready)
    try:
        yield gateway
    finally:
        gateway.process.kill()
