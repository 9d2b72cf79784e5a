"""Receipts of ended rules: what the audit store holds of them, once it holds all; and nothing waits for it."""

from collections.abc import Iterator

import pytest
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for
from tests.harness.world import World, rule

# The store is asked later and later; what PostgreSQL logs after the end of a rule tells that all before is there.
PATIENCE = 120


@pytest.fixture
def no_store(world: World) -> Iterator[None]:
    """The audit store is down; up again afterwards."""
    world.store.postgres.stop()
    yield
    if not world.store.postgres.process.running:
        world.store.postgres.start()


def used(world: World, team: str, tenant: str, address: str, *statements: str, **spec: object) -> str:
    """A rule under which one session sent these statements."""
    name = world.rule(team, tenant, f"{address}/32", **spec)
    world.api.await_condition("accessrule", name, team)
    use(world, team, tenant, address, *statements, secret_name=f"{name}-access" if "login" in spec else "")
    return name


def use(world: World, team: str, tenant: str, address: str, *statements: str, **options: str) -> None:
    for statement in statements:
        world.psql(address, team, tenant, statement, **options).run()


def end(world: World, team: str, tenant: str, address: str, name: str, **spec: object) -> None:
    world.api.apply(rule(team, name, tenant, f"{address}/32", revoked=True, **spec))


def receipt(world: World, team: str, name: str) -> Object:
    found: Object = world.api.get("accessrule", name, team).get("status", {}).get("receipt", {})
    return found


def completed(world: World, team: str, name: str) -> Object:
    def complete() -> Object | None:
        world.postgres.query("SELECT 1")
        found = receipt(world, team, name)
        return found if found.get("complete") else None

    return wait_for(
        "the receipt is complete", complete, patience=PATIENCE, pause=1, tell=lambda: receipt(world, team, name)
    )


def test_a_receipt_tells_what_a_rule_was_used_for_and_not_what_an_earlier_one_of_its_name_was(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    address = "203.0.113.170"
    orders = f"tenant_{tenant.replace('-', '_')}.orders"
    name = used(
        world, team, tenant, address,
        "CREATE TABLE orders(id int)", "INSERT INTO orders VALUES (1)", "DROP TABLE orders", "SELECT nonsense",
    )  # fmt: skip
    end(world, team, tenant, address, name)
    found = completed(world, team, name)
    assert (found["sessions"], found["statements"], found["reason"]) == (4, 4, "Revoked")
    assert orders in found["objects"]
    opened, closed = (world.api.get("accessrule", name, team)["status"][k] for k in ("openedAt", "closedAt"))
    assert (found["openedAt"], found["closedAt"], found["message"]) == (opened, closed, "")

    world.api.delete("accessrule", name, team)
    world.rule(team, tenant, f"{address}/32", name=name)
    world.api.await_condition("accessrule", name, team)
    end(world, team, tenant, address, name)
    found = completed(world, team, name)
    assert (found["sessions"], found["statements"], found["objects"]) == (0, 0, [])


def test_statements_under_several_rules_count_for_each_and_those_of_another_login_do_not(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    address = "203.0.113.171"
    own = used(world, team, tenant, address, "SELECT 1", "SELECT 2", login="PerRule")
    first = used(world, team, tenant, address)
    second = used(world, team, tenant, address, "SELECT 3")
    for name in (first, second):
        end(world, team, tenant, address, name)
    end(world, team, tenant, address, own, login="PerRule")
    counts = [(r["sessions"], r["statements"]) for r in (completed(world, team, n) for n in (own, first, second))]
    assert counts == [(2, 2), (1, 1), (1, 1)]


def test_a_store_that_is_down_holds_up_no_rule_and_is_asked_again(world: World, no_store: None) -> None:
    team = world.team()
    tenant = world.tenant(team)
    address = "203.0.113.172"
    name = used(world, team, tenant, address, "SELECT 1")
    end(world, team, tenant, address, name)
    told = wait_for(
        "it says why nothing is counted",
        lambda: "cannot be asked" in receipt(world, team, name).get("message", "") and receipt(world, team, name),
    )
    assert not told["complete"]
    assert "statements" not in told
    assert "Traceback" not in told["message"]
    other = world.rule(team, tenant, "203.0.113.173/32")
    world.api.await_condition("accessrule", other, team)
    end(world, team, tenant, "203.0.113.173", other)
    wait_for("others end", lambda: world.api.get("accessrule", other, team)["status"]["phase"] == "Revoked")
    world.store.postgres.start()
    assert completed(world, team, name)["statements"] == 1


def test_a_receipt_survives_a_restart_and_is_then_left_alone(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    address = "203.0.113.174"
    name = used(world, team, tenant, address, "SELECT 1")
    end(world, team, tenant, address, name)
    world.operator.kill()
    world.operator.start()
    assert completed(world, team, name)["statements"] == 1
    version = world.api.get("accessrule", name, team)["metadata"]["resourceVersion"]
    world.operator.kill()
    world.operator.start()
    world.tenant(team)
    assert world.api.get("accessrule", name, team)["metadata"]["resourceVersion"] == version


def test_without_a_store_the_receipt_says_so(world: World) -> None:
    team = world.team()
    world.server("unaudited", auditSecretRef=None)
    tenant = world.tenant(team, serverRef={"name": "unaudited"})
    name = world.rule(team, tenant, "203.0.113.175/32")
    wait_for("it is open", lambda: world.api.get("accessrule", name, team)["status"].get("phase") == "Open")
    end(world, team, tenant, "203.0.113.175", name)
    found = wait_for("there is a receipt", lambda: receipt(world, team, name))
    assert not found["complete"]
    assert "spec.auditSecretRef" in found["message"]
    world.api.delete("tenant", tenant, team)
    world.api.delete("pgs", "unaudited")


def test_a_secret_of_the_store_that_is_missing_is_named(world: World) -> None:
    team = world.team()
    world.server("unread", auditSecretRef={"name": "no-such", "namespace": "vaultbrix-test"})
    tenant = world.tenant(team, serverRef={"name": "unread"})
    name = world.rule(team, tenant, "203.0.113.176/32")
    wait_for("it is open", lambda: world.api.get("accessrule", name, team)["status"].get("phase") == "Open")
    end(world, team, tenant, "203.0.113.176", name)
    wait_for("it is named", lambda: "vaultbrix-test/no-such" in receipt(world, team, name).get("message", ""))
    world.api.delete("tenant", tenant, team)
    world.api.delete("pgs", "unread")
