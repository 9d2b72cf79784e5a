"""A tenant with a data API, as a team has it, with users of its own, and requests to it that the gateway lets in."""

import contextlib
import time
from collections.abc import Iterator

import jwt
from tests.harness.gateway_process import GatewayProcess
from tests.harness.http_messages import Answer
from tests.harness.processes import commands_ending_with
from tests.harness.shell import wait_for
from tests.harness.world import SERVER_NAME, World, secret

from vaultbrix.gateway.postgrest import socket_name

USERS = "the secret that the issuer of these users signs with"


class Shop:
    """A tenant with a data API, users of its own and a Secret key."""

    def __init__(self, world: World) -> None:
        self.world, self.team = world, world.team()
        world.api.apply(secret(self.team, "users", {"secret": USERS}))
        self.name = world.tenant(self.team, dataAPI={"jwt": {"secretRef": {"name": "users"}}})
        self.role = f"tenant_{self.name.replace('-', '_')}"
        world.api.await_condition("tenant", self.name, self.team, type_="DataAPIReady", patience=120)
        self.secret = self.key("Secret")

    def key(self, kind: str) -> str:
        """A new key; its text."""
        name = self.world.api_key(self.team, self.name, kind=kind)
        return self.world.secret(self.team, f"{name}-api-key")["key"]

    def run(self, *statements: str) -> None:
        """Run statements as the tenant, as somebody with an open rule would."""
        with contextlib.closing(self.world.postgres.connect()) as connection:
            for statement in (f"SET SESSION AUTHORIZATION {self.role}", f"SET search_path = {self.role}", *statements):
                connection.execute(statement)
            connection.commit()

    def postgrest(self) -> list[int]:
        """Processes of its PostgREST: one for each gateway that runs one."""
        return commands_ending_with(f"{socket_name((self.team, self.name))}.conf")

    def pids(self) -> list[int]:
        """PostgreSQL's processes that serve its PostgREST."""
        login = f"vaultbrix_rest_{self.role.removeprefix('tenant_')}"
        return [pid for (pid,) in self.world.postgres.query(
            "SELECT pid FROM pg_stat_activity WHERE usename = %s", [login])]  # fmt: skip


def served(gateway: GatewayProcess, shop: Shop, target: str = "/rest/v1/notes") -> Answer:
    """The answer once there is one; the gateway hears of objects a moment after they were made."""

    def answer() -> Answer | None:
        # What is in the way when PostgREST ends is a proxy's error.
        with contextlib.suppress(ConnectionError):
            sent = gateway.send(shop.secret, target)
            return sent if sent.status == 200 else None
        return None

    return wait_for("it is served", answer, tell=gateway.process.text)


@contextlib.contextmanager
def data_api(world: World) -> Iterator[None]:
    """Have the world's server be reached by a data API, until the end."""
    world.heal()
    world.api.patch("pgs", SERVER_NAME, "", {"spec": {"dataAPI": {"url": "https://api.example.com"}}})
    world.api.await_condition("pgs", SERVER_NAME, "", type_="DataAPIReady", patience=120)
    try:
        yield
    finally:
        world.api.patch("pgs", SERVER_NAME, "", {"spec": {"dataAPI": None}})


def user(sub: str) -> str:
    """The token of a user of any Shop, good for a minute."""
    claims = {"sub": sub, "role": "authenticated", "exp": int(time.time()) + 60}
    return jwt.encode(claims, USERS, algorithm="HS256")
