"""A Tenant whose password is replaced: what is asked for, what its status says, and clients that log in meanwhile."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.harness.shell import wait_for
from tests.harness.world import Psql, World

from vaultbrix.api.login_names import second_login

ADDRESS = "203.0.113.77"
ONE = "SELECT 1"


class Rotated:
    """A tenant that ADDRESS may log in as, which it does."""

    def __init__(self, world: World, **credentials: Any) -> None:
        self.world, self.team = world, world.team()
        self.name = world.tenant(self.team, **({"credentials": credentials} if credentials else {}))
        self.role = f"tenant_{self.name.replace('-', '_')}"
        self.second = second_login(self.role)
        world.rule(self.team, self.name, f"{ADDRESS}/32")
        wait_for("it is let in", lambda: self.client().works())

    def client(self, *statements: str) -> Psql:
        """psql with what the Secret says now, now and later."""
        return self.world.psql(ADDRESS, self.team, self.name, *(statements or (ONE,)))

    def edit(self, **credentials: Any) -> None:
        """Change spec.credentials."""
        patch = {"spec": {"credentials": credentials}}
        assert "patched" in self.world.api.patch("tenant", self.name, self.team, patch)

    def status(self) -> dict[str, Any]:
        """status.credentials."""
        found: dict[str, Any] = self.world.api.get("tenant", self.name, self.team)["status"].get("credentials", {})
        return found

    def ask(self, **credentials: Any) -> dict[str, Any]:
        """Change spec.credentials and wait until the tokens among it are done; returns status.credentials."""
        self.edit(**credentials)
        return self.await_done(**credentials)

    def await_done(self, **credentials: Any) -> dict[str, Any]:
        """Wait until the tokens are done; returns status.credentials."""
        tokens = {key: value for key, value in credentials.items() if key.endswith("Token")}
        wait_for(
            f"{tokens} is done",
            lambda: tokens.items() <= self.status().items(),
            patience=60,
            tell=self.world.operator.text,
        )
        return self.status()

    def secret(self) -> dict[str, str]:
        """What the Secret holds."""
        return self.world.secret(self.team, f"{self.name}-db")

    def events(self, reason: str) -> list[str]:
        """Messages of the events of that reason about the Tenant."""
        items = json.loads(self.world.api.kubectl("-n", self.team, "get", "events", "-o", "json"))["items"]
        return [e["message"] for e in items if e["reason"] == reason and e["involvedObject"]["name"] == self.name]

    @contextmanager
    def logging_in(self, known: Psql | None = None) -> Iterator[list[str]]:
        """A client that logs in all the time, with what the Secret says then or with what it knew; its failures."""
        failures: list[str] = []
        logins, over = 0, threading.Event()

        def log_in() -> None:
            nonlocal logins
            while not over.is_set():
                done = (known or self.client()).run()
                logins += 1
                if done.returncode != 0:
                    failures.append(done.stderr)

        thread = threading.Thread(target=log_in)
        thread.start()
        try:
            yield failures
        finally:
            over.set()
            thread.join()
            assert logins > 0
