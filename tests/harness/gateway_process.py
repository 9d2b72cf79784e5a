"""The process ``vaultbrix gateway``, asked as Traefik and Caddy ask it; what they pass on goes to PostgREST itself."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.harness.database import free_port
from tests.harness.http_messages import Answer, request
from tests.harness.known_keys import DOMAIN
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for
from tests.harness.world import JOBS

GOOD, REFUSED, NOT_READY = 403, 401, 503


class GatewayProcess:
    """One replica, asked as Traefik and Caddy ask."""

    def __init__(self, folder: Path, kubeconfig: Path, postgrest: str = "/bin/true") -> None:
        self.folder = folder
        self.socket = folder / "gateway.socket"
        self.probe_port = free_port()
        self.process = Process(
            [
                *VAULTBRIX, "gateway", f"--namespace={JOBS}", f"--domain={DOMAIN}", f"--postgrest={postgrest}",
                f"--folder={folder}", f"--socket={self.socket}", f"--probe-port={self.probe_port}",
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
        """The status of the answer to a request with that key."""
        return self.authorize(key).status

    def authorize(self, key: str, target: str = "/rest/v1/notes", method: str = "GET", bearer: str = "") -> Answer:
        """What it says of a request with that key, and with that user's token."""
        headers = {
            "Host": "gateway",
            "X-Forwarded-Method": method,
            "X-Forwarded-Uri": target,
            "X-Forwarded-Host": DOMAIN,
            "X-Forwarded-For": "203.0.113.7",
            "apikey": key,
            **({"Authorization": f"Bearer {bearer}"} if bearer else {}),
        }
        try:
            return request(self.socket, "GET", "/forward", headers)
        except OSError as error:
            raise AssertionError(f"{error}; it runs: {self.process.running}\n{self.process.text()[-3000:]}") from None

    def send(
        self, key: str, target: str, method: str = "GET", body: bytes = b"", *, bearer: str = "", **more: str
    ) -> Answer:
        """A request as a proxy passes it on; a refusal, where it is not let in."""
        decision = self.authorize(key, target, method, bearer)
        if decision.status != 200:
            return decision
        told = decision.headers
        names = ("authorization", "accept-profile", "content-profile", "x-request-id")
        headers = {**{name: told[name] for name in names}, **more}
        socket = self.folder / f"{told['x-vaultbrix-backend']}.socket"
        return request(socket, method, told["x-vaultbrix-path"], headers, body)

    def metrics(self) -> str:
        """All of its metrics."""
        return request(self.probe_port, "GET", "/metrics", {}).body.decode()

    def _probe(self) -> int:
        try:
            return request(self.probe_port, "GET", "/readyz", {}).status
        except OSError:
            return 0


@contextlib.contextmanager
def running(gateway: GatewayProcess, *, ready: bool = True) -> Iterator[GatewayProcess]:
    """Start a replica, and kill it at the end."""
    gateway.start(ready=ready)
    try:
        yield gateway
    finally:
        gateway.process.kill()
