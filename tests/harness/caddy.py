"""Caddy in front of the data API, with the configuration that the documents show."""

from collections.abc import Mapping
from pathlib import Path

from tests.harness.database import free_port
from tests.harness.http_messages import Answer, Headers, raw, request
from tests.harness.known_keys import DOMAIN
from tests.harness.postgrest import program
from tests.harness.processes import Process
from tests.harness.shell import TOP, wait_for

CADDYFILE = TOP / "docs/examples/Caddyfile"


class Caddy:
    """Caddy on a port of 127.0.0.1, without TLS; ``sockets`` is the folder of PostgREST's."""

    def __init__(self, directory: Path, gateway: Path, sockets: Path) -> None:
        self.folder = directory / "caddy"
        self.folder.mkdir()
        self.port = free_port()
        self._process = Process(
            [str(program("caddy")), "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"],
            self.folder / "caddy.log",
            env={
                "HOME": str(self.folder),
                "XDG_DATA_HOME": str(self.folder / "data"),
                "XDG_CONFIG_HOME": str(self.folder / "config"),
                "VAULTBRIX_LISTEN": "127.0.0.1",
                "VAULTBRIX_SITE": f"http://:{self.port}",
                "VAULTBRIX_GATEWAY": f"unix/{gateway}",
                "VAULTBRIX_FOLDER": str(sockets),
            },
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process.start()
        wait_for("Caddy answers", self._answers, tell=self._process.text)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def send(self, method: str, target: str, headers: Headers = (), body: bytes = b"", *, host: str = DOMAIN) -> Answer:
        """One request as a client sends it."""
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        return request(self.port, method, target, [("Host", host), *pairs], body)

    def send_raw(self, message: bytes, *, timeout: float = 5) -> bytes:
        """These bytes; all that is answered."""
        return raw(self.port, message, timeout=timeout)

    def log(self) -> str:
        """All that it has logged."""
        return self._process.text()

    def _answers(self) -> bool:
        assert self._process.running, self._process.text()
        try:
            return self.send("GET", "/").status != 0
        except OSError:
            return False
