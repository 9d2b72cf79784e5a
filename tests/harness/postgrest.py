"""A real PostgREST for a tenant of a database of the tests, as the gateway runs it.

It knows one key of its own and no user's: who mints a token with that key decides which role a request gets.
"""

import base64
import hashlib
import hmac
import json
import signal
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.harness.database import SALT, Database, free_port
from tests.harness.http_messages import Answer, Headers, request
from tests.harness.processes import Process
from tests.harness.shell import TOP, run, wait_for

from vaultbrix.dataapi.serving import roles
from vaultbrix.dataapi.serving.decisions import ApiRoles
from vaultbrix.gateway.postgrest import Served, configuration, socket_name
from vaultbrix.postgres.connect import Target, conninfo

# What it logs then.
_READ = "Schema cache loaded"
PASSWORD = "postgrest-of-the-tests"
SECRET = bytes(range(32))


@cache
def program(name: str) -> Path:
    """Where it is, fetched or built first; see ``hack/api/prepare`` for the names."""
    return Path(run(TOP / "hack/api/prepare", name, timeout=900).stdout.splitlines()[-1].split(" ", 1)[1])


def token(secret: bytes = SECRET, **claims: Any) -> str:
    """A JWT as the gateway mints it (RFC 7519), written out here so that the gateway is not asked about itself."""

    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    content = {"exp": int(time.time()) + 120, **claims}
    text = ".".join(part(json.dumps(each).encode()) for each in ({"alg": "HS256"}, content))
    return f"{text}.{part(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def served_roles(database: Database, slug: str) -> ApiRoles:
    """Make a tenant's roles for the data API, as the operator does."""
    made = ApiRoles(tenant_role=f"tenant_{slug}", owner=("apps", slug), connection_limit=20, settings={})
    database.admin(roles.provision, made, PASSWORD, SALT)
    return made


class PostgREST:
    """A tenant's, in namespace ``apps``; it answers at the Unix socket ``socket`` in the folder of all sockets."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        slug: str,
        secret: bytes = SECRET,
        *,
        max_rows: int = 1000,
        name: str = "postgres",
        port: int | None = None,
    ) -> None:
        """``secret`` signs the tokens that it accepts, with HS256; ``name`` is the database's.

        With a ``port`` of 127.0.0.1 it answers there, and at no socket.
        """
        file = socket_name(("apps", slug)) + ("" if port is None else f"-{port}")
        self.socket = folder / f"{file}.socket"
        self._ready_port = free_port()
        login = served_roles(database, slug).rest
        self.served = Served(
            tenant=("apps", slug),
            server="main",
            schema=f"tenant_{slug}",
            conninfo=conninfo(
                Target("127.0.0.1", database.postgres.port, name, login, PASSWORD, ssl_mode="require", any_libpq=True)
            ),
            max_rows=max_rows,
            url="https://api.example.com",
        )
        text = configuration(self.served, socket=str(self.socket), secret=secret, admin_port=self._ready_port)
        if port is not None:
            text = text.replace("server-unix-socket =", f"server-port = {port}\n#")
        written = folder / f"{file}.conf"
        written.write_text(text)
        self._process = Process([str(program("postgrest")), str(written)], folder / f"{file}.log")

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def serve(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        self._process.stop()
        self.socket.unlink(missing_ok=True)
        self._process.start()
        self.await_ready()

    def await_ready(self) -> None:
        """Wait until it has read the schema and answers."""
        wait_for("PostgREST has read the schema", self._answers, tell=self._process.text)

    def read_again(self) -> None:
        """Have it read the schema again, and wait until it has."""
        before = self._process.text().count(_READ)
        self._process.send(signal.SIGUSR1)
        wait_for("PostgREST has read the schema again", lambda: self._process.text().count(_READ) > before)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()

    def send(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Answer:
        """One request straight to it, past any gateway."""
        return request(self.socket, method, target, headers, body)

    def _answers(self) -> bool:
        assert self._process.running, self._process.text()
        try:
            return request(self._ready_port, "GET", "/ready", {}).status == 200
        except OSError:
            return False
