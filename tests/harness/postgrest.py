"""A real PostgREST over a database of the tests, as the chart configures a shard.

It knows one key of its own and no user's: who mints a token with that key decides which role and which schema a
request gets.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from psycopg import sql
from tests.harness.database import Database, free_port
from tests.harness.http_messages import Answer, request
from tests.harness.processes import Process
from tests.harness.shell import TOP, run, wait_for

LOGIN = "vaultbrix_rest"
PASSWORD = "postgrest-of-the-tests"


@cache
def programs(*names: str) -> Mapping[str, Path]:
    """Where these are, or all of them if none is named; see ``tests/api/prepare``."""
    lines = run(TOP / "tests/api/prepare", *names, timeout=900).stdout.splitlines()
    return {name: Path(program) for name, program in (line.split(" ", 1) for line in lines)}


def admit(database: Database, role: str) -> None:
    """Make a tenant's two roles for the data API, and let PostgREST's login take them and the tenant's own."""
    schema, login = sql.Identifier(role), sql.Identifier(LOGIN)
    with database.postgres.connect() as connection:
        for suffix in ("_anon", "_authenticated"):
            name = sql.Identifier(role + suffix)
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(name))
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, name))
            connection.execute(sql.SQL("GRANT {} TO {}").format(name, login))
        connection.execute(sql.SQL("GRANT {} TO {}").format(schema, login))


def make_login(database: Database) -> None:
    """Make PostgREST's login, which has no right but to take the roles that it is given."""
    with database.postgres.connect() as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOINHERIT PASSWORD {}").format(sql.Identifier(LOGIN), sql.Literal(PASSWORD))
        )


class PostgREST:
    """One shard; it answers at the Unix socket ``socket``, or at a port."""

    def __init__(
        self,
        directory: Path,
        database: Database,
        secret: bytes,
        *,
        port: int | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """``secret`` signs the tokens that it accepts, with HS256; ``port`` is one of 127.0.0.1."""
        directory.mkdir()
        self.socket = directory / "postgrest.socket"
        self.address: Path | int = self.socket if port is None else port
        self._settings = settings or {}
        self._ready_port = free_port()
        self._database = database
        self._secret = base64.b64encode(secret).decode()
        self._configuration = directory / "postgrest.conf"
        self._process = Process(
            [str(programs("postgrest")["postgrest"]), str(self._configuration)], directory / "postgrest.log"
        )

    def serve(self, schemas: Iterable[str]) -> None:
        """Start it, or start it again, with these schemas, and wait until it answers."""
        self._process.stop()
        self.socket.unlink(missing_ok=True)
        port = self._database.postgres.port
        values = {
            "admin-server-port": self._ready_port,
            "db-uri": f"postgresql://{LOGIN}:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=require",
            "db-schemas": ", ".join(schemas),
            "db-extra-search-path": "",
            "db-config": False,
            "db-pool": 5,
            "db-max-rows": 1000,
            "jwt-secret": self._secret,
            "jwt-secret-is-base64": True,
            "jwt-role-claim-key": ".vaultbrix.role",
            "log-level": "info",
            "openapi-mode": "follow-privileges",
            **self._listen,
            **self._settings,
        }
        self._configuration.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
        self._process.start()
        wait_for("PostgREST has read the schemas", self._answers, tell=self._process.text)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()

    @property
    def pid(self) -> int:
        """Its process id; it must have been started."""
        return self._process.pid

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """One request straight to it, past any gateway."""
        return request(self.address, method, target, headers, body)

    @property
    def _listen(self) -> Mapping[str, object]:
        if isinstance(self.address, int):
            return {"server-host": "127.0.0.1", "server-port": self.address}
        return {"server-unix-socket": str(self.address), "server-unix-socket-mode": "666"}

    def _answers(self) -> bool:
        assert self._process.running, self._process.text()
        try:
            return request(self._ready_port, "GET", "/ready", {}).status == 200
        except OSError:
            return False
