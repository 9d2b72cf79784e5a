"""The data API as clients meet it: nginx as the product configures it, the authorizer beside it, PostgREST behind."""

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from tests.harness.database import free_port
from tests.harness.http_messages import Answer, Headers, raw, request
from tests.harness.known_keys import DOMAIN, KnownInMemory, users_secret
from tests.harness.postgrest import SECRET, program
from tests.harness.processes import Process
from tests.harness.shell import wait_for

from vaultbrix.api.apikey import KeyKind
from vaultbrix.gateway.app import Authorizer
from vaultbrix.gateway.decisions import Settings
from vaultbrix.gateway.jwt import Users, secret_key
from vaultbrix.runtime.templates import render


class AuthorizerThread:
    """The authorizer in a thread of the test, which decides from what the test has made known."""

    def __init__(self, directory: Path, known: KnownInMemory, secret: bytes = SECRET, **options: Any) -> None:
        """``options`` are as for Authorizer."""
        self.socket = directory / "gateway.socket"
        self.application = Authorizer(known, Settings(DOMAIN, secret), lambda: datetime.now(UTC), **options)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Serve, and wait until it does."""
        self.socket.unlink(missing_ok=True)
        server = uvicorn.Server(
            uvicorn.Config(self.application, uds=str(self.socket), lifespan="off", access_log=False, log_config=None)
        )
        self._server = server
        self._thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
        self._thread.start()
        wait_for("the authorizer serves", lambda: server.started)

    def stop(self) -> None:
        """End it."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(20)
            self._server = None


class Nginx:
    """nginx on a port of 127.0.0.1, without TLS unless ``changes`` has certificate and key."""

    def __init__(self, directory: Path, gateway: Path, sockets: Path, **changes: Any) -> None:
        """``sockets`` is the folder of PostgREST's; ``changes`` are values of the template."""
        self.folder = directory / "nginx"
        self.folder.mkdir()
        # Its workers are another user's.
        self.folder.chmod(0o777)
        self.port = free_port()
        self._configuration = self.folder / "nginx.conf"
        values = {
            "folder": self.folder,
            "listen": f"127.0.0.1:{self.port}",
            "tls": None,
            "gateway": f"unix:{gateway}",
            "sockets": sockets,
            "trusted_proxies": [],
            "max_body": "1m",
            "access_log": self.folder / "access.log",
            **changes,
        }
        self._configuration.write_text(render("gateway/nginx.conf.j2", **values))
        self._process = Process(
            [str(program("nginx")), "-c", str(self._configuration), "-e", "stderr"], self.folder / "nginx.log"
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process.start()
        wait_for("nginx answers", self._answers, tell=self._process.text)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    @property
    def pid(self) -> int:
        """Process id of the master; it must have been started."""
        return self._process.pid

    def send(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        host: str = DOMAIN,
        timeout: float = 30,
    ) -> Answer:
        """One request as a client sends it."""
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        return request(self.port, method, target, [("Host", host), *pairs], body, timeout=timeout)

    def send_raw(self, message: bytes, *, timeout: float = 5) -> bytes:
        """These bytes; all that is answered."""
        return raw(self.port, message, timeout=timeout)

    def access_log(self) -> str:
        """What it has logged of requests."""
        return (self.folder / "access.log").read_text(errors="replace")

    def error_log(self) -> str:
        """What it has said beside that."""
        return self._process.text()

    def _answers(self) -> bool:
        assert self._process.running, self._process.text()
        try:
            # 400 is for who speaks no TLS where that is wanted.
            return self.send("GET", "/").status in {400, 404}
        except OSError:
            return False


@dataclass(frozen=True)
class Api:
    """The data API with a fresh Secret and Publishable key of each tenant."""

    nginx: Nginx
    authorizer: AuthorizerThread
    known: KnownInMemory
    secret: Mapping[str, str]
    publishable: Mapping[str, str]


@dataclass(frozen=True)
class Front:
    """nginx and authorizer, running."""

    nginx: Nginx
    authorizer: AuthorizerThread
    known: KnownInMemory

    def api(self, slugs: Iterable[str]) -> Api:
        """With these tenants and new keys alone; whatever was known before is forgotten."""
        self.known.keys.clear()
        self.known.tenants.clear()
        slugs = list(slugs)
        for slug in slugs:
            self.known.add_tenant(slug, users=Users((secret_key(users_secret(slug)),)))
        return Api(
            self.nginx,
            self.authorizer,
            self.known,
            secret={slug: self.known.add_key(slug, KeyKind.SECRET) for slug in slugs},
            publishable={slug: self.known.add_key(slug) for slug in slugs},
        )


@contextlib.contextmanager
def in_front_of(
    sockets: Path, directory: Path, *, options: Mapping[str, Any] | None = None, **changes: Any
) -> Iterator[Front]:
    """Serve what each PostgREST has whose socket is in ``sockets``, until the end; ``directory`` is made if need be.

    ``options`` are as for Authorizer, ``changes`` as for Nginx.
    """
    directory.mkdir(exist_ok=True)
    known = KnownInMemory()
    authorizer = AuthorizerThread(directory, known, **(options or {}))
    nginx = Nginx(directory, authorizer.socket, sockets, **changes)
    try:
        authorizer.start()
        nginx.start()
        yield Front(nginx, authorizer, known)
    finally:
        nginx.stop()
        authorizer.stop()
