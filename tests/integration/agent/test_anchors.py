"""The agent keeps what the record was sealed with where the operator cannot write."""

import json
from typing import Any

from tests.harness.shell import wait_for
from tests.harness.world import ANCHORS, SERVER_NAME, SYSTEM, World


def kept(world: World) -> list[dict[str, Any]]:
    """The anchors in the ConfigMap."""
    return [json.loads(line) for line in world.api.get("configmap", ANCHORS, SYSTEM).get("data", {}).values()]


def head_of(world: World, batch: int) -> str:
    """The hash of a batch's header, as the store's next batch goes on from it; empty while there is no next one."""
    found = world.store.query(
        "SELECT encode(previous, 'hex') FROM audit.batch WHERE server = %s AND batch = %s", [SERVER_NAME, batch + 1]
    )
    return str(found[0][0]) if found else ""


def test_the_newest_batch_of_the_day_is_there_as_it_was_sealed(world: World) -> None:
    (anchor,) = wait_for("it is kept", lambda: kept(world), patience=60, tell=world.agent.text)
    assert anchor["server"] == SERVER_NAME
    for number in range(3):
        world.postgres.query(f"SELECT {number}")
    assert wait_for("it is followed by another", lambda: head_of(world, anchor["batch"])) == anchor["head"]
    (agent,) = world.api.get("pgs", SERVER_NAME, "")["status"]["agents"]
    assert "anchor" not in agent["error"]


def test_without_a_place_for_it_the_agent_says_so_and_goes_on(world: World) -> None:
    world.api.kubectl("-n", SYSTEM, "delete", "configmap", ANCHORS)
    world.agent.stop()
    world.agent.start()
    try:

        def told() -> bool:
            agents = world.api.get("pgs", SERVER_NAME, "")["status"]["agents"]
            return f"anchor: ConfigMap {SYSTEM}/{ANCHORS} is not there" in agents[0]["error"]

        wait_for("the server's status says so", told, patience=60, tell=world.agent.text)
        team = world.team()
        tenant = world.tenant(team)
        world.api.await_condition("accessrule", world.rule(team, tenant, "203.0.113.88/32"), team)
    finally:
        world.keep_anchors()
    wait_for("it is kept again", lambda: kept(world), patience=60, tell=world.agent.text)
