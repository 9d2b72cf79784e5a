"""Parts that die under the data API while two tenants' clients go on asking: nginx, gateway and its PostgRESTs.

Whatever dies, an answer is the tenant's own rows or an error in PostgREST's form.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
from tests.harness import gateway_process
from tests.harness.api_traffic import Seen, await_answers, traffic
from tests.harness.gateway import Nginx
from tests.harness.gateway_process import GatewayProcess
from tests.harness.http_messages import Answer
from tests.harness.postgrest import program
from tests.harness.shell import wait_for
from tests.harness.shop import Shop, data_api
from tests.harness.slot import folder
from tests.harness.world import World

NOTES = "/rest/v1/notes?select=text&limit=1"


class Door:
    """A replica in front of two tenants, each with a row of its own."""

    def __init__(self, world: World, gateway: GatewayProcess, nginx: Nginx) -> None:
        self.gateway, self.nginx = gateway, nginx
        self.shops = {shop.name: shop for shop in (Shop(world), Shop(world))}
        for name, shop in self.shops.items():
            shop.run(
                "CREATE TABLE notes (text text)",
                f"INSERT INTO notes VALUES ('{name}''s own')",
            )

    def get(self, key: str) -> Answer:
        """What nginx answers, which waits two minutes for PostgREST."""
        return self.nginx.send("GET", NOTES, [("apikey", key)], timeout=150)

    def reading(self) -> dict[str, Callable[[], Answer]]:
        """How each tenant asks for its row."""
        return {name: lambda key=shop.secret: self.get(key) for name, shop in self.shops.items()}  # type: ignore[misc]

    def await_served(self) -> None:
        """Wait until both tenants have their rows."""
        for shop in self.shops.values():
            wait_for("it is served", lambda shop=shop: self.get(shop.secret).status == 200)  # type: ignore[misc]


@pytest.fixture(scope="module")
def made(running: World) -> Iterator[Door]:
    # nginx's workers are another user's.
    place = folder()
    gateway = GatewayProcess(place, running.api.kubeconfig, str(program("postgrest")))
    nginx = Nginx(place, gateway.socket, place)
    try:
        with data_api(running), gateway_process.running(gateway):
            nginx.start()
            yield Door(running, gateway, nginx)
    finally:
        nginx.stop()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def door(world: World, made: Door) -> Door:
    """With both tenants served."""
    made.await_served()
    return made


def served_again(seen: Seen, door: Door) -> None:
    """Wait until clients of both tenants get their rows."""
    await_answers(seen, lambda more: all(more.of(200, name) > 20 for name in door.shops))


def test_a_postgrest_that_is_killed_is_started_again_and_the_other_tenant_sees_nothing_of_it(door: Door) -> None:
    killed, other = door.shops
    with traffic(door.reading()) as seen:
        for _ in range(3):
            served_again(seen, door)
            (process,) = door.shops[killed].postgrest()
            os.kill(process, signal.SIGKILL)
            await_answers(seen, lambda more: more.of(200, killed) > 5)
            assert door.shops[killed].postgrest() != [process]
    assert [answer.body for answer in seen.wrong] == []
    assert {status for name, status in seen.answers if name == other} == {200}


def test_a_gateway_that_is_killed_refuses_until_it_is_there_again(door: Door) -> None:
    with traffic(door.reading()) as seen:
        for _ in range(2):
            served_again(seen, door)
            door.gateway.process.kill()
            await_answers(seen, lambda more: more.of(503) > 5)
            door.gateway.start()
        served_again(seen, door)
    assert [answer.body for answer in seen.wrong] == []
    # Its PostgRESTs have ended with it, and the new one's are there once.
    assert [len(shop.postgrest()) for shop in door.shops.values()] == [1, 1]


def test_postgresql_that_is_restarted_is_found_again(world: World, door: Door) -> None:
    with traffic(door.reading()) as seen:
        served_again(seen, door)
        world.postgres.crash()
        try:
            await_answers(seen, lambda more: more.of(503) > 5)
        finally:
            world.postgres.start()
        served_again(seen, door)
    assert [answer.body for answer in seen.wrong] == []


def test_without_an_api_server_known_keys_are_served_and_revoked_ones_are_not(world: World, door: Door) -> None:
    shop, *_ = door.shops.values()
    name = world.api_key(shop.team, shop.name)
    revoked = world.secret(shop.team, f"{name}-api-key")["key"]
    wait_for("the key is known", lambda: door.get(revoked).status == 200)
    world.api.patch("apikey", name, shop.team, {"spec": {"revoked": True}})
    wait_for("the key is refused", lambda: door.get(revoked).status == 401)
    world.api.pause()
    try:
        with traffic(door.reading()) as seen:
            served_again(seen, door)
            # As after ten minutes without requests: what a PostgREST is run for is known without an API server.
            for each in door.shops.values():
                os.kill(each.postgrest()[0], signal.SIGKILL)
            served_again(seen, door)
        assert [answer.body for answer in seen.wrong] == []
        assert door.get(revoked).status == 401
        # One that starts now knows nothing, and lets nobody in.
        door.gateway.process.kill()
        door.gateway.start(ready=False)
        for text in (shop.secret, revoked):
            answer = door.get(text)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.json["message"] == "The data API is not available at the moment"
    finally:
        world.api.resume()
    door.await_served()
    assert door.get(revoked).status == 401
