from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, Raw, approval, rule, server, tenant, true

from vaultbrix.access.decisions import decide
from vaultbrix.access.explain import Explanation, View, explain, next_step
from vaultbrix.access.request import parse_ip
from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer

JANE = "203.0.113.7"
AGENT = {"name": "agent-1", "generation": 1, "hba": True, "kernel": True, "at": rfc3339(NOW)}


def condition(type_: str, status: str = "True", reason: str = "Some", message: str = "") -> Raw:
    return {**true(type_)[0], "status": status, "reason": reason, "message": message}


def enforced(
    name: str = "jane", *, agents: list[Raw] | None = None, also: tuple[Raw, ...] = (), **spec: Any
) -> AccessRule:
    """A rule that operator and agents report to be in force, unless said otherwise."""
    held = {c["type"]: c for c in (*true("Ready", "NetworkPolicyApplied"), *also)}
    reported = [AGENT] if agents is None else agents
    return rule(name, status={"phase": "Open", "agents": reported, "conditions": list(held.values())}, **spec)


def there(*conditions: Raw, **spec: Any) -> PostgresServer:
    """A server that is ready, with these conditions besides or instead."""
    held = {c["type"]: c for c in (*true("Ready"), *conditions)}
    found = server(**spec)
    return PostgresServer.parse({**found.dump(), "status": {"conditions": list(held.values())}})


def asked(*rules: AccessRule, ip: str = JANE, minutes: int = 1, **changes: Any) -> Explanation:
    values: dict[str, Any] = {"tenant": tenant(), "server": there(), **changes}
    view = View("team", "acme", rules=rules, **values)
    return explain(parse_ip(ip), view, NOW + minutes * MINUTE)


def test_a_rule_that_is_in_force_lets_in_and_every_layer_says_so() -> None:
    found = asked(enforced())
    assert found.admitted
    assert found.headline == f"{JANE} may log in as tenant_acme"
    ((one,), (role,)) = found.findings, found.roles
    assert role == "tenant_acme"
    assert [(layer.name, layer.passes) for layer in one.layers] == [
        ("kernel", True),
        ("pg_hba", True),
        ("network policy", True),
    ]
    assert (found.obstacles, found.notes) == ((), ())


def test_a_login_of_the_rules_own_is_named_and_must_be_there() -> None:
    own = enforced(login="PerRule", also=(condition("LoginReady"),))
    found = asked(own, enforced("other"))
    assert found.admitted
    assert len(found.roles) == 2
    assert found.roles[0] == "tenant_acme"
    assert found.roles[1].startswith("tenant_acme_r_")
    missing = asked(enforced(login="PerRule", also=(condition("LoginReady", "False", message="no role yet"),)))
    assert not missing.admitted
    assert "layer login: no role yet" in missing.headline


def test_of_several_rules_those_that_let_in_are_shown() -> None:
    found = asked(
        enforced("wide", cidrs=["203.0.113.0/24"]), enforced("far", cidrs=["198.51.100.0/24"]), enforced("one")
    )
    assert [f.rule.metadata.name for f in found.findings] == ["one", "wide"]


def test_a_rule_for_the_other_kind_of_address_is_named_as_such() -> None:
    found = asked(enforced(), ip="2001:db8::7")
    assert (found.admitted, [f.covers for f in found.findings]) == (False, [False])
    assert found.headline == (
        "2001:db8::7 may not log in as tenant_acme: no rule of the tenant covers that address, which is of IPv6; "
        "rule jane is open for addresses of IPv4 alone"
    )
    six = enforced("six", cidrs=["2001:db8::/64"])
    assert "which is of IPv4; rule six is open for addresses of IPv6 alone" in asked(six).headline
    for rules in (
        [enforced(cidrs=["203.0.113.7/32", "2001:db8:1::/64"])],
        [rule("jane", startsAt=rfc3339(NOW + HOUR))],
    ):
        assert asked(*rules, ip="2001:db8::7").headline.endswith("no rule of the tenant covers that address")


def closed(name: str, at: int, phase: str, **spec: Any) -> AccessRule:
    """A rule that ended so many minutes after NOW."""
    return rule(name, status={"phase": phase, "closedAt": rfc3339(NOW + at * MINUTE)}, **spec)


LATER = {"startsAt": "2026-12-01T18:00:00Z"}
FAILED = {**AGENT, "hba": False, "error": "hba: line 3 is broken"}


@pytest.mark.parametrize(
    ("rules", "world", "says", "names"),
    [
        ([], {}, "the tenant has no rule that is open", []),
        ([enforced(cidrs=["198.51.100.0/24"])], {}, "no rule of the tenant covers that address", ["jane"]),
        ([rule(tenantRef={"name": "beta"})], {}, "the tenant has no rule that is open", []),
        ([closed("old", 1, "Expired")], {"minutes": 6}, "rule old covered that address and ended 5m ago", ["old"]),
        ([closed("old", 1, "Revoked")], {"minutes": 6}, "covered that address and was revoked 5m ago", ["old"]),
        ([rule("old", ttl="1m")], {"minutes": 6}, "rule old covered that address and ended 5m ago", ["old"]),
        ([rule(**LATER)], {}, "is Pending: opens at 2026-12-01T18:00:00Z", ["jane"]),
        ([rule(cidrs=["203.0.0.0/16"])], {}, "is Rejected: spec.cidrs[0] 203.0.0.0/16 is wider", ["jane"]),
        ([enforced(agents=[])], {}, "layer kernel: no agent has reported", ["jane"]),
        ([enforced(agents=[{**AGENT, "kernel": False}])], {}, "kernel: agent-1: does not let it in yet", ["jane"]),
        ([enforced(agents=[FAILED])], {}, "layer pg_hba: agent-1: hba: line 3 is broken", ["jane"]),
        ([enforced(agents=[AGENT, {**FAILED, "name": "agent-2"}])], {}, "layer pg_hba: agent-2", ["jane"]),
        ([enforced(metadata={"generation": 2})], {}, "agent-1 has not taken over the last change", ["jane"]),
        (
            [enforced(also=(condition("NetworkPolicyApplied", "False", message="not applied yet"),))],
            {},
            "layer network policy: not applied yet",
            ["jane"],
        ),
        ([rule(status={"agents": [AGENT]})], {}, "layer network policy: the operator has not reported", ["jane"]),
        ([enforced()], {"tenant": tenant(suspended=True)}, "is Pending: Tenant team/acme is suspended", ["jane"]),
        ([enforced()], {"tenant": tenant(ready=False)}, "is Pending: Tenant team/acme is not provisioned", ["jane"]),
        ([enforced()], {"tenant": None}, "Tenant acme does not exist in namespace team", []),
        ([enforced()], {"server": None}, "is Pending: PostgresServer main of Tenant", ["jane"]),
        (
            [enforced()],
            {"server": there(condition("Ready", "False", "Unreachable", "no route"))},
            "rule jane is in force, but PostgresServer main is not ready: Unreachable: no route",
            ["jane"],
        ),
        (
            [enforced()],
            {"server": there(condition("SourceAddressPreserved", "False", message="node addresses only"))},
            "does not see the addresses of clients: node addresses only",
            ["jane"],
        ),
        ([closed("b", 1, "Expired"), rule("a", **LATER)], {"minutes": 6}, "rule a covers that address but is Pending",
         ["a", "b"]),
    ],
)  # fmt: skip
def test_an_address_that_is_kept_out_is_told_why(
    rules: list[AccessRule], world: dict[str, Any], says: str, names: list[str]
) -> None:
    found = asked(*rules, **world)
    assert not found.admitted
    assert found.roles == ()
    assert says in found.headline
    assert [f.rule.metadata.name for f in found.findings] == names


def test_the_nearest_rules_come_first_and_old_ones_do_not_bury_them() -> None:
    many = [closed(f"old-{n}", n, "Expired") for n in range(9)]
    near = enforced("near", cidrs=["203.0.113.8/32"])
    far = [enforced(f"far-{n}", cidrs=[f"198.51.100.{n}/32", "2001:db8::/64"]) for n in range(9)]
    found = asked(*many, *far, near, minutes=60)
    assert [f.rule.metadata.name for f in found.findings] == ["old-8", "old-7", "old-6", "near", "far-0", "far-1"]


def test_what_does_not_stand_in_the_way_is_noted() -> None:
    held = there(condition("AgentConnected", "False", message="since 12:00"))
    found = asked(enforced(), server=held)
    assert found.admitted
    assert any("AgentConnected is False: since 12:00" in note for note in found.notes)
    other = asked(enforced("theirs", tenantRef={"name": "beta"}))
    assert other.notes == ("rule theirs lets that address in as Tenant beta",)


def test_an_address_that_the_server_trusts_is_told_that_no_rule_can_be_for_it() -> None:
    found = asked(enforced(), server=there(trusted={"addresses": ["203.0.113.7"]}))
    assert not found.admitted
    assert any("203.0.113.7 is trusted by PostgresServer main" in note for note in found.notes)


def test_a_person_who_may_not_see_the_server_gets_what_was_reported() -> None:
    hidden: dict[str, Any] = {"server": None, "server_hidden": True}
    assert asked(enforced(), **hidden).admitted
    told = asked(
        rule(status={"phase": "Rejected", "conditions": [condition("Ready", "False", message="too wide")]}), **hidden
    )
    assert "is Rejected: too wide" in told.headline
    assert "you may not read PostgresServers" in told.notes[0]
    assert "ended" in asked(enforced(), **hidden, minutes=300).headline
    assert "was revoked" in asked(enforced(revoked=True), **hidden).headline


@pytest.mark.parametrize(
    ("rules", "world", "step"),
    [
        ([], {}, True),
        ([closed("old", 1, "Expired")], {"minutes": 6}, True),
        ([enforced(cidrs=["198.51.100.0/24"])], {}, True),
        ([enforced()], {}, False),
        ([rule(**LATER)], {}, False),
        ([enforced(agents=[])], {}, False),
        ([], {"tenant": None}, False),
        ([], {"tenant": tenant(suspended=True)}, False),
    ],
)
def test_a_next_step_is_offered_where_it_would_help(rules: list[AccessRule], world: dict[str, Any], step: bool) -> None:
    values: dict[str, Any] = {"tenant": tenant(), "server": there(), **world}
    minutes = values.pop("minutes", 1)
    view = View("team", "acme", rules=tuple(rules), **values)
    told = next_step(explain(parse_ip(JANE), view, NOW + minutes * MINUTE), parse_ip(JANE), view)
    assert told == (f"vaultbrix allow acme -n team --cidr {JANE} --for 1h --reason ..." if step else "")


CIDRS = st.sampled_from(["203.0.113.7/32", "203.0.113.0/24", "198.51.100.0/24", "2001:db8::/64", "203.0.0.0/16"])
RULES = st.lists(
    st.builds(
        lambda cidr, ttl, revoked, agents: (cidr, ttl, revoked, agents),
        CIDRS,
        st.integers(min_value=1, max_value=5),
        st.booleans(),
        st.sampled_from([[AGENT], [], [FAILED]]),
    ),
    max_size=6,
)


@given(
    RULES, st.integers(min_value=0, max_value=6), st.sampled_from([JANE, "198.51.100.1", "2001:db8::1", "192.0.2.1"])
)
def test_nobody_is_said_to_be_let_in_whom_no_open_rule_covers(rules: Any, hours: int, ip: str) -> None:
    made = [
        enforced(str(n), cidrs=[cidr], ttl=f"{ttl}h", revoked=revoked, agents=agents)
        for n, (cidr, ttl, revoked, agents) in enumerate(rules)
    ]
    now = NOW + hours * HOUR
    found = asked(*made, ip=ip, minutes=60 * hours)
    grants = [v.grant for v in (decide(r, tenant(), there(), now) for r in made) if v.phase is AccessPhase.OPEN]
    covered = any(g is not None and g.covers(parse_ip(ip)) for g in grants)
    assert not found.admitted or covered
    assert found.headline


def test_sessions_that_the_watchdog_ended_are_mentioned_with_what_was_measured() -> None:
    ended = {"endedByWatchdog": 2, "watchdog": "200,000 locks (limit 10,000)"}
    found = asked(
        enforced(agents=[AGENT | ended]), enforced("other", cidrs=["198.51.100.9/32"], agents=[AGENT | ended])
    )
    assert found.admitted
    assert found.notes == ("rule jane: 2 sessions ended by the watchdog, the latest for 200,000 locks (limit 10,000)",)


def test_ddl_of_the_tenant_that_waits_is_mentioned() -> None:
    decided = approval("decided", status={"phase": "Succeeded"})
    others = approval("others", tenantRef={"name": "beta"})
    one = asked(enforced(), approvals=(decided, others, approval("drop")))
    assert one.admitted
    assert one.notes == ("DDL of the tenant that waits for a decision: drop (vaultbrix ddl list -n team)",)
    (note,) = asked(enforced(), approvals=(approval("drop"), approval("alter"))).notes
    assert "alter and 1 more" in note
