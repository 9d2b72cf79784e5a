"""Receipts of keys: what they were used for before their end, and who still tries them; told from real requests."""

import pytest
from tests.harness.command_line import Person
from tests.harness.gateway_process import GatewayProcess
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for
from tests.harness.shop import Shop, served
from tests.harness.world import World

pytestmark = pytest.mark.usefixtures("data_api")

# The store is asked later and later; what PostgreSQL logs after the end of a key tells that all before is there.
PATIENCE = 240


@pytest.fixture(scope="module")
def shop(running: World) -> Shop:
    shop = Shop(running)
    shop.run("CREATE TABLE notes (text text)")
    return shop


class Key:
    """A Secret key of the shop."""

    def __init__(self, shop: Shop, gateway: GatewayProcess) -> None:
        self.shop, self.gateway, self.world = shop, gateway, shop.world
        self.name = self.world.api_key(shop.team, shop.name, kind="Secret")

    @property
    def text(self) -> str:
        return self.world.secret(self.shop.team, f"{self.name}-api-key")["key"]

    def change(self, **spec: object) -> None:
        self.world.api.patch("apikey", self.name, self.shop.team, {"spec": spec})

    def use(self, text: str, count: int) -> None:
        wait_for("the key is known", lambda: self.gateway.ask(text) == 200)
        for _ in range(count):
            assert self.gateway.send(text, "/rest/v1/notes").status == 200

    def refused(self, text: str, count: int) -> None:
        """Once it is, that many more times."""
        wait_for("the key is refused", lambda: self.gateway.ask(text) == 401)
        for _ in range(count):
            assert self.gateway.ask(text) == 401

    def receipt(self) -> Object:
        status: Object = self.world.api.get("apikey", self.name, self.shop.team)["status"]
        found: Object = status.get("receipt", {})
        return found

    def counted(self, requests: int, least_refused: int) -> Object:
        """The receipt once it counts that many; what is asked of PostgreSQL tells that all before is on record."""

        def complete() -> Object | None:
            self.world.postgres.query("SELECT 1")
            found = self.receipt()
            done = "completeUntil" in found and found["refused"] >= least_refused
            return found if done else None

        found = wait_for("it is counted", complete, patience=PATIENCE, pause=1, tell=self.receipt)
        assert found["requests"] == requests
        return found


def test_an_ended_keys_receipt_tells_its_requests_and_who_still_tries(gateway: GatewayProcess, shop: Shop) -> None:
    served(gateway, shop)
    key = Key(shop, gateway)
    text = key.text
    key.use(text, 3)
    key.change(revoked=True)
    key.refused(text, 2)
    found = key.counted(3, 2)
    assert (found["reason"], found["lastAddress"], found["message"]) == ("Revoked", "203.0.113.7", "")
    assert found["createdAt"] <= found["firstUsedAt"] <= found["lastUsedAt"] <= found["closedAt"]
    assert found["closedAt"] <= found["completeUntil"]
    assert "sha256" not in found
    # Who looks at the keys sees it without knowing where.
    shown = Person(shop.world.api.kubeconfig).types("keys", "list", "--all", "-n", shop.team).stdout
    line = next(line for line in shown.splitlines() if line.startswith(key.name))
    assert f"3 requests, {found['refused']} refused since" in line


def test_a_replaced_keys_receipt_counts_its_own_text_alone(gateway: GatewayProcess, shop: Shop) -> None:
    served(gateway, shop)
    key = Key(shop, gateway)
    old = key.text
    key.use(old, 2)
    key.change(rotateToken="leaked")
    key.refused(old, 3)
    new = wait_for("there is a new key", lambda: key.text if key.text != old else None)
    key.use(new, 4)
    found = key.counted(2, 3)
    assert (found["reason"], found["prefix"], found["lastAddress"]) == ("Rotated", old[:20], "203.0.113.7")
    # At its own end all of its keys count.
    key.change(revoked=True)
    key.refused(new, 1)
    assert key.counted(6, 1)["reason"] == "Revoked"


def test_a_store_that_is_down_holds_up_no_key_and_is_asked_again(
    world: World, gateway: GatewayProcess, shop: Shop
) -> None:
    served(gateway, shop)
    key = Key(shop, gateway)
    key.use(key.text, 1)
    world.store.postgres.stop()
    try:
        key.change(revoked=True)
        told = wait_for(
            "it says why nothing is counted",
            lambda: "cannot be asked" in key.receipt().get("message", "") and key.receipt(),
        )
        assert "requests" not in told
        assert "Traceback" not in told["message"]
        other = Key(shop, gateway)
        other.use(other.text, 1)
    finally:
        world.store.postgres.start()
    key.counted(1, 0)


def test_an_operator_that_starts_anew_counts_on(world: World, gateway: GatewayProcess, shop: Shop) -> None:
    served(gateway, shop)
    key = Key(shop, gateway)
    text = key.text
    key.use(text, 2)
    key.change(revoked=True)
    before = key.counted(2, 0)
    world.operator.kill()
    key.refused(text, 2)
    world.operator.start()
    after = key.counted(2, before["refused"] + 2)
    assert after["completeUntil"] > before["completeUntil"]
