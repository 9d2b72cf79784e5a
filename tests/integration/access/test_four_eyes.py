"""Access by four eyes, end to end: nothing gets in but what somebody else approved exactly as it is."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness.command_line import Person
from tests.harness.direct_access import held_session, is_reset
from tests.harness.kube_http import Object
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.world import SERVER_NAME, World, in_seconds, rule


def want(world: World, approval: str, up_to: str | None = None) -> None:
    """Whether the server wants an approval."""
    world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"accessApproval": approval, "autoApproveUpTo": up_to}})


@pytest.fixture
def required(world: World) -> Iterator[World]:
    """The world with a server that wants an approval of every rule."""
    want(world, "Required")
    yield world
    if not world.operator.running:
        world.operator.start()
    want(world, "None")


def refused(world: World, team: str, name: str, reason: str) -> Object:
    """The status of a rule once it says for its last change that it waits, and why."""
    world.api.await_condition("accessrule", name, team, status="False", reason=reason)
    found: Object = world.api.get("accessrule", name, team)["status"]
    return found


def decide(world: World, team: str, name: str, verdict: str = "Approved") -> None:
    """Write the decision as another program would."""
    sha256 = world.api.get("accessrule", name, team)["status"]["sha256"]
    decision = {"verdict": verdict, "by": "bob@example.com", "sha256": sha256}
    said = world.api.patch("accessrule", name, team, {"spec": {"decision": decision}})
    assert "patched" in said, said


def works(world: World, address: str, team: str, tenant: str) -> bool:
    return world.psql(address, team, tenant, "SELECT 1").works()


def in_hba(world: World, address: str) -> bool:
    return address in world.postgres.hba_file.read_text()


def events(world: World, team: str, name: str) -> list[dict[str, Any]]:
    found = json.loads(world.api.kubectl("-n", team, "get", "events", "-o", "json"))["items"]
    return [
        e for e in found if e["involvedObject"]["name"] == name and e["source"]["component"] == "vaultbrix-operator"
    ]


def test_access_waits_opens_closes_when_edited_opens_again_and_ends(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    one, other = "203.0.113.90", "203.0.113.91"
    name = world.rule(team, tenant, f"{one}/32")
    told = refused(world, team, name, "ApprovalNeeded")
    sha256 = told["sha256"]
    assert told["phase"] == "Pending"
    (accepted,) = [c for c in told["conditions"] if c["type"] == "Accepted"]
    for words in ("somebody else than jane@example.com", f"vaultbrix approve {name} -n {team}", sha256):
        assert words in accepted["message"]
    assert is_reset(world, one)
    assert not in_hba(world, one)
    assert f"{one}/32" not in world.let_in()

    boss = Person.admin(world, team)
    assert name in boss.succeeds("rules", "--pending")
    assert "ApprovalNeeded" in boss.succeeds("rules")
    done = boss.types("explain", "--ip", one, "--tenant", tenant)
    assert (done.returncode, "wants an approval" in done.stdout) == (1, True)
    said = boss.succeeds("approve", name, "--sha256", sha256[:8], "--message", "CHG-1")
    for words in (f"{one}/32", tenant, "1h in all", "jane@example.com", "tests", sha256, "is approved by test"):
        assert words in said
    world.api.await_condition("accessrule", name, team)
    session = held_session(world, one, team, tenant, "approved")
    assert works(world, one, team, tenant)
    assert "Approved by test" in boss.succeeds("rules")
    assert "Approved by test" in boss.succeeds("explain", "--ip", one, "--tenant", tenant)
    assert "no rule waits for a decision" in boss.succeeds("rules", "--pending")
    assert "was decided: Approved by test" in boss.fails("approve", name, "--yes")

    world.api.apply(rule(team, name, tenant, f"{one}/32", f"{other}/32"))
    told = refused(world, team, name, "ApprovalOutdated")
    assert told["sha256"] != sha256
    wait_for("the session has ended", lambda: not session.running)
    for address in (one, other):
        wait_for(f"{address} is refused", lambda address=address: is_reset(world, address))
        assert not in_hba(world, address)
    world.api.patch("accessrule", name, team, {"spec": {"ttl": None, "expiresAt": in_seconds(25)}})
    before = world.api.get("accessrule", name, team)["metadata"]["generation"]
    wait_for(
        "the operator has seen it",
        lambda: world.api.get("accessrule", name, team)["status"]["observedGeneration"] == before,
    )
    decide(world, team, name)
    world.api.await_condition("accessrule", name, team)
    for address in (one, other):
        assert works(world, address, team, tenant)
    assert [(e["type"], e["reason"]) for e in events(world, team, name)] == [("Normal", "Approved")] * 2
    assert any(sha256 in e["message"] and "by test" in e["message"] for e in events(world, team, name))
    session = held_session(world, other, team, tenant, "approved-anew")
    wait_for("the deadline has ended it", lambda: not session.running, patience=60)
    wait_for("it is refused", lambda: is_reset(world, other))
    ended = wait_for("it has a receipt", lambda: world.api.get("accessrule", name, team)["status"].get("receipt"))
    assert (ended["reason"], ended["approvedBy"]) == ("Expired", "bob@example.com")


def test_a_denial_ends_what_was_open_for_good(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.92/32")
    sha256 = refused(world, team, name, "ApprovalNeeded")["sha256"]
    boss = Person.admin(world, team)
    assert "there is no terminal to ask on" in boss.fails("approve", name, code=2)
    for typed, code in (("0" * 8, 1), (sha256[:8], 0)):
        screen = boss.terminal("approve", name)
        screen.awaits("To approve it, type the first 8 characters of its sha256")
        screen.types(typed)
        assert screen.ends() == code
    world.api.await_condition("accessrule", name, team)
    world.api.apply(rule(team, name, tenant, "203.0.113.92/32", ttl="2h"))
    refused(world, team, name, "ApprovalOutdated")
    assert "is denied by test" in boss.succeeds("deny", name, "--yes", "--message", "use the replica")
    told = refused(world, team, name, "Denied")
    assert (told["phase"], told["closedReason"]) == ("Rejected", "Denied")
    want(world, "None")
    world.api.apply(rule(team, name, tenant, "203.0.113.92/32", ttl="3h"))
    told = refused(world, team, name, "Denied")
    assert is_reset(world, "203.0.113.92")
    assert "denied by test: use the replica" in json.dumps(told)


def test_wanting_an_approval_closes_what_has_none_and_no_longer_wanting_it_opens_what_waits(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    long, short = "203.0.113.93", "203.0.113.94"
    names = [world.rule(team, tenant, f"{long}/32", ttl="2h"), world.rule(team, tenant, f"{short}/32", ttl="1h")]
    for name in names:
        world.api.await_condition("accessrule", name, team)
    ending, staying = (held_session(world, a, team, tenant, f"wanted-{a}") for a in (long, short))
    want(world, "Required", "1h")
    try:
        refused(world, team, names[0], "ApprovalNeeded")
        wait_for("its session has ended", lambda: not ending.running)
        wait_for("it is refused", lambda: is_reset(world, long))
        assert staying.running
        world.api.patch("accessrule", names[1], team, {"spec": {"ttl": "3601s"}})
        refused(world, team, names[1], "ApprovalNeeded")
        wait_for("its session has ended", lambda: not staying.running)
    finally:
        want(world, "None")
    for name in names:
        world.api.await_condition("accessrule", name, team)
    assert works(world, long, team, tenant)


def test_the_agent_alone_opens_what_is_approved_and_nothing_else(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    yes, no, late = "203.0.113.95", "203.0.113.96", "203.0.113.97"
    approved, waiting = (world.rule(team, tenant, f"{address}/32") for address in (yes, no))
    for name in (approved, waiting):
        refused(world, team, name, "ApprovalNeeded")
    world.operator.kill()
    unseen = world.rule(team, tenant, f"{late}/32")
    decide(world, team, approved)
    wait_for("the agent lets it in by itself", lambda: works(world, yes, team, tenant))
    for address in (no, late):
        assert is_reset(world, address)
        assert not in_hba(world, address)
    said = world.api.patch(
        "accessrule", unseen, team, {"spec": {"decision": {"verdict": "Approved", "by": "bob", "sha256": "0" * 64}}}
    )
    assert "must wait until the operator has written status.sha256" in said

    session = held_session(world, yes, team, tenant, "agent-alone")
    world.api.patch("accessrule", approved, team, {"spec": {"ttl": "2h"}})
    wait_for("the agent closes it by itself", lambda: not session.running)
    wait_for("it is refused", lambda: is_reset(world, yes))
    world.agent.kill()
    world.agent.start()
    wait_for("the agent is back", lambda: is_reset(world, yes))
    world.operator.start()
    refused(world, team, approved, "ApprovalOutdated")
    decide(world, team, approved)
    world.api.await_condition("accessrule", approved, team, patience=60)
    assert works(world, yes, team, tenant)
    assert is_reset(world, no)


def test_an_agent_that_hears_nothing_keeps_what_it_remembers(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    yes, no = "203.0.113.98", "203.0.113.99"
    approved, waiting = (world.rule(team, tenant, f"{address}/32") for address in (yes, no))
    for name in (approved, waiting):
        refused(world, team, name, "ApprovalNeeded")
    decide(world, team, approved)
    world.api.await_condition("accessrule", approved, team)
    psql = {address: world.psql(address, team, tenant, "SELECT 1") for address in (yes, no)}
    world.api.pause()
    try:
        world.agent.kill()
        world.agent.start()
        wait_for("what was approved is let in", psql[yes].works)
        assert not psql[no].works()
    finally:
        world.api.resume()


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.3])
def test_an_operator_killed_between_decision_and_effect_takes_it_over_later(required: World, pause: float) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.100/32", login="PerRule")
    refused(world, team, name, "ApprovalNeeded")
    decide(world, team, name)
    time.sleep(pause)
    world.operator.kill()
    world.operator.start()
    world.api.await_condition("accessrule", name, team, patience=60)
    found = world.api.get("accessrule", name, team)
    assert found["status"]["decided"]["by"] == "bob@example.com"
    assert world.psql("203.0.113.100", team, tenant, "SELECT 1", secret_name=f"{name}-access").works()


def test_a_person_asks_waits_extends_and_the_session_goes_on(required: World) -> None:
    world = required
    team = world.team()
    tenant = world.tenant(team)
    jane, address = Person.admin(world, team), "203.0.113.101"
    asked = ("--cidr", address, "--for", "20s", "--reason", "CHG-1", "--requested-by", "jane@example.com")
    waiting = Process(
        jane.command("allow", tenant, *asked, "--name", "jane"), world.directory / "ask.log", env=jane.environment
    )
    waiting.start()
    wait_for("it says whom it waits for", lambda: "somebody else than jane@example.com" in waiting.text())
    assert waiting.running
    decide(world, team, "jane")
    wait_for("it is told that it is open", lambda: not waiting.running)
    assert "AccessRule jane in namespace" in waiting.text()
    assert "psql" in waiting.text()

    session = held_session(world, address, team, tenant, "goes-on")
    first_end = world.api.get("accessrule", "jane", team)["status"]["expiresAt"]
    said = jane.succeeds("extend", "jane", "--for", "10m", "--no-wait")
    assert "jane goes on as it is" in said
    names = {n.partition("/")[2] for n in world.api.kubectl("-n", team, "get", "ar", "-o", "name").split()}
    (second,) = names - {"jane"}
    assert second in said
    refused(world, team, second, "ApprovalNeeded")
    assert world.api.get("accessrule", "jane", team)["status"]["expiresAt"] == first_end
    decide(world, team, second)
    world.api.await_condition("accessrule", second, team)
    wait_for("the first has ended", lambda: world.api.get("accessrule", "jane", team)["status"]["phase"] == "Expired")
    assert session.running
    assert works(world, address, team, tenant)
    world.api.patch("accessrule", second, team, {"spec": {"revoked": True}})
    wait_for("the session has ended with the second", lambda: not session.running)

    late = jane.types("allow", tenant, *asked[:2], "--for", "1h", *asked[4:], "--name", "late", "--timeout", "1s")
    assert late.returncode == 1
    assert "waits for an approval" in late.stderr
    decide(world, team, "late", "Denied")
    refused(world, team, "late", "Denied")
    assert "never opens again" in jane.fails("extend", "late", "--for", "1h")
