"""From start to record: startsAt, the limit on a tenant's rules, ttlAfterClosed, counts of the server."""

import time
from datetime import UTC, datetime

import pytest
from tests.harness.direct_access import is_reset
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for
from tests.harness.world import World, in_seconds, rule


def status(world: World, team: str, name: str) -> Object:
    found: Object = world.api.get("accessrule", name, team).get("status", {})
    return found


def phase(world: World, team: str, name: str) -> str:
    return str(status(world, team, name).get("phase"))


def test_a_rule_opens_by_itself_when_it_begins_and_lasts_from_then(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    begins = in_seconds(6)
    name = world.rule(team, tenant, "203.0.113.150/32", startsAt=begins, ttl="1h")
    told = world.api.await_condition("accessrule", name, team, status="False", reason="NotYet")
    assert begins in told["message"]
    assert is_reset(world, "203.0.113.150")
    world.api.await_condition("accessrule", name, team)
    found = status(world, team, name)
    start = datetime.fromisoformat(begins)
    assert datetime.fromisoformat(found["openedAt"]) >= start
    assert (datetime.fromisoformat(found["expiresAt"]) - start).total_seconds() == 3600
    assert world.psql("203.0.113.150", team, tenant, "SELECT 1").works()


def test_an_ended_rule_is_deleted_when_its_time_as_a_record_is_over_and_no_other(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    short = {"ttlAfterClosed": "3s"}
    pending = world.rule(team, "missing", "203.0.113.151/32", **short)
    rejected = world.rule(team, tenant, "203.0.0.0/16", **short)
    running = world.rule(team, tenant, "203.0.113.152/32", **short)
    kept = world.rule(team, tenant, "203.0.113.153/32", ttl="1s")
    expiring = world.rule(team, tenant, "203.0.113.154/32", ttl="2s", **short)
    wait_for("it has ended", lambda: phase(world, team, expiring) == "Expired")
    closed = datetime.fromisoformat(status(world, team, expiring)["closedAt"])
    wait_for("it is deleted", lambda: not world.api.get("accessrule", expiring, team))
    assert (datetime.now(UTC) - closed).total_seconds() >= 3, "deleted early"
    world.api.apply(rule(team, running, tenant, "203.0.113.152/32", revoked=True, **short))
    wait_for("the revoked one is deleted", lambda: not world.api.get("accessrule", running, team))
    assert [phase(world, team, name) for name in (pending, rejected, kept)] == ["Pending", "Rejected", "Expired"]


@pytest.mark.parametrize("ending", ["revoke", "delete", "expire"])
def test_a_tenant_has_no_more_rules_than_the_limit_and_the_next_in_line_gets_a_free_slot(
    world: World, ending: str
) -> None:
    team = world.team()
    world.server("limited", limits={"maxRulesPerTenant": 2})
    tenant = world.tenant(team, serverRef={"name": "limited"})
    names = []
    for number in range(4):
        lasting = {"ttl": "12s"} if ending == "expire" and number == 0 else {}
        names.append(world.rule(team, tenant, f"203.0.113.{155 + number}/32", **lasting))
        # Creation times are whole seconds.
        time.sleep(1.1)

    def phases() -> list[str]:
        return [phase(world, team, name) for name in names]

    wait_for("the first two are open", lambda: phases() == ["Open", "Open", "Rejected", "Rejected"], tell=phases)
    told = world.api.condition("accessrule", names[3], "Accepted", team)
    assert told["reason"] == "TooManyRules"
    assert "maxRulesPerTenant" in told["message"]
    if ending == "revoke":
        world.api.apply(rule(team, names[0], tenant, "203.0.113.155/32", revoked=True))
    elif ending == "delete":
        world.api.delete("accessrule", names[0], team)
    wait_for("the third has its slot", lambda: phases()[1:] == ["Open", "Open", "Rejected"], tell=phases)
    world.server("limited", limits={"maxRulesPerTenant": 3})
    wait_for("a higher limit lets in the fourth", lambda: phases()[1:] == ["Open", "Open", "Open"], tell=phases)
    policy = f"vaultbrix-limited.tenant-{tenant}-access"

    def admitted() -> set[str]:
        found = world.api.get("networkpolicy", policy, "vaultbrix-test")
        return {p["ipBlock"]["cidr"] for i in found.get("spec", {}).get("ingress", []) for p in i["from"]}

    wait_for("the policy follows", lambda: admitted() == {f"203.0.113.{n}/32" for n in (156, 157, 158)}, tell=admitted)
    world.api.delete("tenant", tenant, team)
    world.api.delete("pgs", "limited")


def test_a_policy_that_somebody_changed_is_not_that_of_a_second_tenant_of_the_slug(world: World) -> None:
    team, other = world.team(), world.team()
    first = world.tenant(team)
    name = world.rule(team, first, "203.0.113.159/32")
    world.api.await_condition("accessrule", name, team)
    policy = f"vaultbrix-main.tenant-{first}-access"
    before = world.api.get("networkpolicy", policy, "vaultbrix-test")["metadata"]["resourceVersion"]
    thief = world.tenant(other, wait=False, slug=first.replace("-", "_"))
    world.api.await_condition("tenant", thief, other, status="False", reason="SlugTaken")
    world.api.delete("tenant", thief, other)
    world.tenant(other)
    assert world.api.get("networkpolicy", policy, "vaultbrix-test")["metadata"]["resourceVersion"] == before


def test_a_server_counts_its_tenants_and_open_rules(world: World) -> None:
    team = world.team()
    world.server("counted")
    world.api.await_condition("pgs", "counted", "")
    tenant = world.tenant(team, serverRef={"name": "counted"})
    names = [world.rule(team, tenant, f"203.0.113.{160 + n}/32") for n in range(2)]
    for name in names:
        wait_for("it is open", lambda name=name: phase(world, team, name) == "Open")
    world.api.apply(rule(team, names[0], tenant, "203.0.113.160/32", revoked=True))
    wait_for("it is revoked", lambda: phase(world, team, names[0]) == "Revoked")
    world.api.kubectl("annotate", "pgs", "counted", "tests=look")

    def counts() -> tuple[int, int]:
        found = world.api.get("pgs", "counted", "")["status"]
        return (found["tenants"], found["openRules"])

    wait_for("the counts are right", lambda: counts() == (1, 1), tell=counts)
    world.api.delete("tenant", tenant, team)
    world.api.delete("pgs", "counted")
