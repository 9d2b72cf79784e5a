"""Access that depends on the record: closed while it does not flow, open again once it does, whoever is down."""

from collections.abc import Iterator

import pytest
from tests.harness.direct_access import held_session, is_reset
from tests.harness.shell import wait_for
from tests.harness.small_disk import disks
from tests.harness.world import SERVER_NAME, World, in_seconds, server

# The least that a PostgresServer may ask for, and what it takes to see and do it.
GRACE, PATIENCE = "1m", 120.0
ADDRESS, ENDING = "203.0.113.60", "203.0.113.61"


@pytest.fixture
def required(world: World) -> Iterator[World]:
    """The world's server closes access a minute after the record stopped."""
    flowing(world)
    world.api.apply(server(auditRequired=True, auditGrace=GRACE))
    wait_for("the agent knows", lambda: '"audit_grace":"PT1M"' in last_server(world))
    yield world
    world.api.apply(server())
    world.heal()
    wait_for("the agent knows", lambda: '"audit_grace":null' in last_server(world))
    flowing(world)


def remembered(world: World) -> str:
    return world.grants.read_text() + world.grants.with_suffix(".journal").read_text()


def last_server(world: World) -> str:
    lines = [line for line in remembered(world).splitlines() if "audit_grace" in line]
    return lines[-1] if lines else ""


def flowing(world: World) -> None:
    world.api.await_condition("pgs", SERVER_NAME, "", type_="AuditFlowing", reason="Flowing", patience=90)


def test_access_closes_with_the_store_and_opens_again_with_it(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, f"{ADDRESS}/32")
    world.api.await_condition("accessrule", name, team)
    session = held_session(world, ADDRESS, team, tenant, "required")
    deadline = world.api.get("accessrule", name, team)["status"]["expiresAt"]
    world.store.stop()
    try:
        told = world.api.await_condition(
            "pgs", SERVER_NAME, "", type_="AuditFlowing", status="False", reason="AuditStoreUnreachable", patience=90
        )
        assert "complete only until" in told["message"]
        assert session.running, "not before the grace time is over"
        found = world.api.await_condition(
            "accessrule", name, team, type_="Enforced", status="False", reason="AuditNotFlowing", patience=PATIENCE
        )
        assert "spec.auditRequired" in found["message"]
        assert "AuditStoreUnreachable" in found["message"]
        wait_for("the session has ended", lambda: not session.running)
        assert is_reset(world, ADDRESS)
        another = world.rule(team, tenant, f"{ENDING}/32", expiresAt=in_seconds(10))
        world.api.await_condition("accessrule", another, team, status="False", reason="AuditNotFlowing")
        wait_for("it has ended", lambda: world.api.get("accessrule", another, team)["status"]["phase"] == "Expired")
    finally:
        world.store.postgres.start()
    world.api.await_condition("accessrule", name, team, patience=90)
    assert not is_reset(world, ADDRESS)
    assert is_reset(world, ENDING), "its deadline has passed meanwhile"
    assert world.api.get("accessrule", name, team)["status"]["expiresAt"] == deadline
    flowing(world)


def test_access_closes_at_once_where_the_log_has_no_room_and_opens_again_with_it(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, f"{ADDRESS}/32")
    world.api.await_condition("accessrule", name, team)
    with disks(world.directory, **{world.log_disk.name: 16}) as mounted:
        disk = mounted[world.log_disk.name]
        # It sees what was mounted when it started.
        world.agent.stop()
        world.agent.start()
        session = held_session(world, ADDRESS, team, tenant, "floor")
        disk.fill()
        # Well before the grace time is over, though the shipper says that all is stored.
        wait_for("the session has ended", lambda: not session.running, patience=30)
        assert is_reset(world, ADDRESS)
        found = world.api.await_condition(
            "accessrule", name, team, type_="Enforced", status="False", reason="AuditNotFlowing"
        )
        assert "LogDiskFull" in found["message"]
        told = world.api.await_condition(
            "pgs", SERVER_NAME, "", type_="AuditFlowing", status="False", reason="LogDiskFull", patience=60
        )
        assert "enlarge it" in told["message"]
        assert "direct access is closed" in told["message"]
        events = world.api.request("GET", "/api/v1/namespaces/default/events?limit=500")["items"]
        (event,) = [event for event in events if event["reason"] == "LogDiskFull"]
        assert "enlarge it" in event["message"]
        assert event["involvedObject"]["name"] == SERVER_NAME
        # Not a restart of the agent opens it.
        world.agent.kill()
        world.agent.start()
        world.api.await_condition("accessrule", name, team, type_="Enforced", status="False", reason="AuditNotFlowing")
        assert is_reset(world, ADDRESS)
        disk.free()
        world.api.await_condition("accessrule", name, team, patience=60)
        assert not is_reset(world, ADDRESS)
        world.agent.stop()
    world.heal()


def test_access_closes_without_shipper_operator_and_api_server_and_a_restart_opens_nothing(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, f"{ADDRESS}/32")
    world.api.await_condition("accessrule", name, team)
    session = held_session(world, ADDRESS, team, tenant, "alone")
    world.operator.stop()
    world.api.pause()
    try:
        world.shipper.kill()
        wait_for("the session has ended", lambda: not session.running, patience=PATIENCE)
        assert is_reset(world, ADDRESS)
        world.agent.kill()
        world.agent.start()
        wait_for("the agent is up", lambda: "closed by default" in world.agent.text().split("firewall")[-1])
        assert is_reset(world, ADDRESS)
        world.flow.unlink()
    finally:
        world.api.resume()
    world.api.await_condition("accessrule", name, team, type_="Enforced", status="False", reason="AuditNotFlowing")
    world.operator.start()
    world.api.await_condition(
        "pgs", SERVER_NAME, "", type_="AuditFlowing", status="False", reason="NoShipper", patience=90
    )
    world.shipper.start()
    world.api.await_condition("accessrule", name, team, patience=90)
    assert not is_reset(world, ADDRESS)
