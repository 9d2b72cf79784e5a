"""What became of rules that somebody decides on is on record, and rows of their sessions name who approved them."""

import json
from collections.abc import Iterator

import pytest
from tests.harness.processes import VAULTBRIX
from tests.harness.shell import run, wait_for
from tests.harness.trails import await_events, names, recorded
from tests.harness.world import SERVER_NAME, World, rule

BOB, CAROL, JANE = "bob@example.com", "carol@example.com", "jane@example.com"


@pytest.fixture(scope="module")
def module_required(running: World) -> Iterator[World]:
    running.heal()
    running.clear()
    with recorded(running):
        running.api.patch("pgs", SERVER_NAME, "default", {"spec": {"accessApproval": "Required"}})
        try:
            yield running
        finally:
            running.api.patch("pgs", SERVER_NAME, "default", {"spec": {"accessApproval": "None"}})


@pytest.fixture
def required(module_required: World) -> World:
    module_required.heal()
    return module_required


def status(world: World, team: str, name: str) -> dict[str, object]:
    found: dict[str, object] = world.api.get("accessrule", name, team).get("status", {})
    return found


def decide(world: World, team: str, name: str, by: str = BOB, verdict: str = "Approved", message: str = "") -> None:
    generation = world.api.get("accessrule", name, team)["metadata"]["generation"]
    wait_for("the operator has seen it", lambda: status(world, team, name).get("observedGeneration") == generation)
    decision = {"verdict": verdict, "by": by, "sha256": status(world, team, name)["sha256"], "message": message}
    said = world.api.patch("accessrule", name, team, {"spec": {"decision": decision}})
    assert "patched" in said, said


def uid_of(world: World, team: str, name: str) -> str:
    return str(world.api.get("accessrule", name, team)["metadata"]["uid"])


def gone(world: World, team: str, name: str) -> None:
    wait_for("the object is gone", lambda: not world.api.get("accessrule", name, team), tell=world.operator.text)


def rows(world: World, text: str) -> list[tuple[object, ...]]:
    """Person, approver and application of a statement's rows."""
    found = wait_for(
        "it is on record",
        lambda: world.store.query(
            "SELECT person, approver, application FROM audit.statement WHERE statement = %s", [text]
        ),
        tell=world.shipper.text,
    )
    return list(found)


def test_a_rule_is_told_from_its_request_to_its_end_after_it_is_gone(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.210/32")
    wait_for("its hash is shown", lambda: status(world, team, name).get("sha256"))
    # Nobody can decide before the object is sure to stay until that is on record.
    assert "vaultbrix.com/record" in world.api.get("accessrule", name, team)["metadata"]["finalizers"]
    uid = uid_of(world, team, name)
    decide(world, team, name, message="CHG-9")
    world.api.await_condition("accessrule", name, team)
    world.api.apply(rule(team, name, tenant, "203.0.113.210/32", revoked=True))
    await_events(world, uid, "Requested", "Decided", "Opened", "Ended")
    world.api.delete("accessrule", name, team)
    gone(world, team, name)
    requested, decided, opened, ended = await_events(world, uid, "Requested", "Decided", "Opened", "Ended")
    assert (requested["by"], requested["message"]) == (JANE, "tests")
    assert "203.0.113.210/32" in requested["terms"]
    assert (decided["by"], decided["message"], decided["counts"]) == (BOB, "CHG-9", True)
    assert decided["sha256"] == requested["sha256"] == ended["sha256"]
    assert (ended["reason"], "why" in ended) == ("Revoked", False)
    assert requested["at"] <= decided["at"] <= opened["at"] <= ended["at"]
    environment = {**world.store.environment(world.store.reader), "PYTHONPATH": "operator"}
    shown = run(*VAULTBRIX, "audit", "approvals", f"{team}/{name}", env=environment).stdout
    for words in ("AccessRule", BOB, "CHG-9", "Revoked", JANE):
        assert words in shown


def test_every_decision_is_told_though_the_store_was_away_while_they_replaced_each_other(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.211/32")
    uid = uid_of(world, team, name)
    await_events(world, uid, "Requested")
    world.store.postgres.stop()
    decide(world, team, name)
    world.api.await_condition("accessrule", name, team)
    world.api.apply(rule(team, name, tenant, "203.0.113.211/32", "203.0.113.212/32"))
    world.api.await_condition("accessrule", name, team, status="False", reason="ApprovalOutdated")
    decide(world, team, name, by=CAROL)
    world.api.await_condition("accessrule", name, team)
    world.api.delete("accessrule", name, team, wait=False)
    wait_for("it gives nothing", lambda: not [c for c in world.let_in() if c.startswith("203.0.113.21")])
    assert world.api.get("accessrule", name, team)
    world.operator.kill()
    world.store.postgres.start()
    world.operator.start()
    gone(world, team, name)
    events = await_events(
        world, uid, "Requested", "Decided", "Opened", "Requested", "Decided", "Ended", patience=90
    )  # fmt: skip
    assert [event["by"] for event in events if event["event"] == "Decided"] == [BOB, CAROL]
    assert events[-1]["why"] == "the AccessRule was deleted"


def test_denied_and_undecided_rules_are_told_and_those_that_need_nobody_are_not(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    denied = world.rule(team, tenant, "203.0.113.213/32")
    decide(world, team, denied, verdict="Denied", message="no")
    *_, ended = await_events(world, uid_of(world, team, denied), "Requested", "Decided", "Ended")
    assert ended["reason"] == "Denied"
    waiting = world.rule(team, tenant, "203.0.113.214/32", ttl="3s")
    *_, ended = await_events(world, uid_of(world, team, waiting), "Requested", "Ended")
    assert ended["reason"] == "Undecided"
    world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"autoApproveUpTo": "1h"}})
    try:
        free = world.rule(team, tenant, "203.0.113.215/32", ttl="5m")
        world.api.await_condition("accessrule", free, team)
        assert world.api.get("accessrule", free, team)["metadata"].get("finalizers", []) == []
        assert names(world, uid_of(world, team, free)) == []
    finally:
        world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"autoApproveUpTo": None}})


def test_rows_of_a_rules_sessions_name_the_approver_whatever_the_tenant_calls_its_application(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    address, other = "203.0.113.216", "203.0.113.217"
    name = world.rule(team, tenant, f"{address}/32")
    decide(world, team, name)
    world.api.await_condition("accessrule", name, team)
    forged = f"approved_by={CAROL}"
    text = f"SELECT '{name} approved'"
    assert world.psql(address, team, tenant, f"SET application_name = '{forged}'", text).works()
    assert rows(world, text) == [(JANE, BOB, forged)]
    own = world.rule(team, tenant, f"{other}/32", login="PerRule")
    decide(world, team, own, by=CAROL)
    world.api.await_condition("accessrule", own, team)
    text = f"SELECT '{own} approved'"
    assert world.psql(other, team, tenant, text, secret_name=f"{own}-access").works()
    ((person, approver, _),) = rows(world, text)
    assert (person, approver) == (JANE, CAROL)


def test_what_was_done_before_an_approval_names_no_approver(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    address = "203.0.113.218"
    world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"accessApproval": "None"}})
    try:
        name = world.rule(team, tenant, f"{address}/32")
        world.api.await_condition("accessrule", name, team)
        text = f"SELECT '{name} free'"
        assert world.psql(address, team, tenant, text).works()
        assert rows(world, text)[0][:2] == (JANE, "")
        decide(world, team, name)
        uid = uid_of(world, team, name)
        await_events(world, uid, "Requested", "Decided", "Opened")
        grants = json.loads(world.grants.read_text())["grants"]
        assert grants is not None
        text = f"SELECT '{name} approved'"
        assert world.psql(address, team, tenant, text).works()
        assert rows(world, text)[0][:2] == (JANE, BOB)
    finally:
        world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"accessApproval": "Required"}})
