"""A rule that is edited, begins later, or shares what it gives with others: always the union of what is open now."""

from collections.abc import Iterator
from datetime import datetime

import pytest
from tests.harness.direct_access import held_session, is_reset
from tests.harness.shell import wait_for
from tests.harness.world import SERVER_NAME, World, in_seconds, rule


def status(world: World, team: str, name: str) -> dict[str, object]:
    found: dict[str, object] = world.api.get("accessrule", name, team)["status"]
    return found


def test_a_rule_that_begins_later_opens_then_and_not_before(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    begins = in_seconds(8)
    name = world.rule(team, tenant, "203.0.113.70/32", startsAt=begins, ttl="5m")
    told = world.api.await_condition("accessrule", name, team, status="False", reason="NotYet")
    assert begins in told["message"]
    assert is_reset(world, "203.0.113.70")
    world.api.await_condition("accessrule", name, team)
    assert datetime.now().astimezone() >= datetime.fromisoformat(begins), "opened early"
    assert world.psql("203.0.113.70", team, tenant, "SELECT 1").works()


def test_an_extended_rule_goes_on_with_its_session(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    until = in_seconds(6)
    name = world.rule(team, tenant, "203.0.113.71/32", expiresAt=until)
    world.api.await_condition("accessrule", name, team)
    session = held_session(world, "203.0.113.71", team, tenant, "extended")
    world.api.apply(rule(team, name, tenant, "203.0.113.71/32", expiresAt=in_seconds(600)))
    wait_for("its first deadline has passed", lambda: datetime.now().astimezone() > datetime.fromisoformat(until))
    world.api.await_condition("accessrule", name, team)
    assert session.running
    assert world.psql("203.0.113.71", team, tenant, "SELECT 1").works()
    session.kill()


def test_a_shortened_rule_ends_at_its_new_deadline(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.72/32")
    world.api.await_condition("accessrule", name, team)
    session = held_session(world, "203.0.113.72", team, tenant, "shortened")
    world.api.apply(rule(team, name, tenant, "203.0.113.72/32", ttl="5s"))
    wait_for("the session has ended", lambda: not session.running)
    assert is_reset(world, "203.0.113.72")
    wait_for("it says so", lambda: status(world, team, name)["phase"] == "Expired")


def test_an_address_that_is_edited_out_loses_its_session_and_the_others_keep_theirs(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.73/32", "203.0.113.74/32")
    world.api.await_condition("accessrule", name, team)
    leaves = held_session(world, "203.0.113.73", team, tenant, "leaves")
    stays = held_session(world, "203.0.113.74", team, tenant, "stays")
    world.api.apply(rule(team, name, tenant, "203.0.113.74/32"))
    wait_for("the session has ended", lambda: not leaves.running)
    assert is_reset(world, "203.0.113.73")
    world.api.await_condition("accessrule", name, team)
    assert stays.running
    assert world.psql("203.0.113.74", team, tenant, "SELECT 1").works()
    stays.kill()


def test_nested_prefixes_of_two_tenants_end_each_for_its_own(world: World) -> None:
    team = world.team()
    mine, theirs = world.tenant(team), world.tenant(team)
    narrow = world.rule(team, mine, "203.0.113.75/32")
    wide = world.rule(team, theirs, "203.0.113.72/29")
    for name in (narrow, wide):
        world.api.await_condition("accessrule", name, team)
    ending = held_session(world, "203.0.113.75", team, mine, "narrow")
    staying = held_session(world, "203.0.113.75", team, theirs, "wide")
    world.api.delete("accessrule", narrow, team)
    wait_for("the session of the ended rule has ended", lambda: not ending.running)
    assert staying.running
    assert not is_reset(world, "203.0.113.75"), "the kernel still lets the address in for the other tenant"
    assert "pg_hba.conf" in world.psql("203.0.113.75", team, mine, "SELECT 1").run().stderr
    world.api.delete("accessrule", wide, team)
    wait_for("the last session has ended", lambda: not staying.running)
    wait_for("the address is refused", lambda: is_reset(world, "203.0.113.75"))


def test_sessions_are_counted_while_open_and_once_they_were_ended(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.76/32")
    world.api.await_condition("accessrule", name, team)
    sessions = [held_session(world, "203.0.113.76", team, tenant, f"counted-{n}") for n in range(2)]

    def reported() -> tuple[int, int]:
        (agent,) = world.api.get("accessrule", name, team)["status"]["agents"]
        return agent["openSessions"], agent["terminatedSessions"]

    wait_for("both are counted", lambda: reported() == (2, 0))
    world.api.apply(rule(team, name, tenant, "203.0.113.76/32", revoked=True))
    wait_for("both have ended", lambda: not any(s.running for s in sessions))
    wait_for("both are said to have been ended", lambda: reported() == (0, 2))


@pytest.fixture
def three_rules(world: World) -> Iterator[None]:
    """A server that allows each tenant three rules."""
    before = world.api.get("pgs", SERVER_NAME, "")["spec"]["limits"]["maxRulesPerTenant"]
    world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"limits": {"maxRulesPerTenant": 3}}})
    yield
    world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"limits": {"maxRulesPerTenant": before}}})


def test_a_tenant_has_as_many_rules_as_the_server_allows_and_the_next_waits_for_room(
    world: World, three_rules: None
) -> None:
    team = world.team()
    tenant = world.tenant(team)
    names = []
    for number in range(3):
        names.append(world.rule(team, tenant, f"198.51.100.{100 + number}/32"))
        world.api.await_condition("accessrule", names[-1], team)
    one_more = world.rule(team, tenant, "198.51.100.200/32")
    told = world.api.await_condition("accessrule", one_more, team, status="False", reason="TooManyRules")
    assert "maxRulesPerTenant" in told["message"]
    assert is_reset(world, "198.51.100.200")
    world.api.delete("accessrule", names[1], team)
    world.api.await_condition("accessrule", one_more, team)
    assert not is_reset(world, "198.51.100.200")
