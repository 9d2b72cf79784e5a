from typing import Any

import pytest
from tests.harness.builders import HOUR, MINUTE, NOW, Raw, approval, rule, server, tenant, true

from vaultbrix.access.progress import (
    Progress,
    Remainder,
    closed,
    lacking,
    opening,
    readiness,
    remainders,
    sessions_ended,
    sessions_open,
)
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.tenant import Tenant
from vaultbrix.servers.overview import not_true, overview

GONE = {"name": "agent-1", "generation": 1, "hba": False, "kernel": False, "at": rfc3339(NOW)}


def ready(status: str, reason: str = "Some", generation: int = 1) -> Raw:
    return {**true("Ready")[0], "status": status, "reason": reason, "observedGeneration": generation}


@pytest.mark.parametrize(
    ("status", "spec", "progress"),
    [
        ({}, {}, Progress.WAITING),
        ({"phase": "Open", "conditions": [ready("True")]}, {}, Progress.READY),
        ({"phase": "Open", "conditions": [ready("True", generation=0)]}, {}, Progress.WAITING),
        ({"phase": "Open", "conditions": [ready("False", "AgentPending")]}, {}, Progress.WAITING),
        ({"phase": "Rejected", "conditions": [ready("False", "PrefixTooWide")]}, {}, Progress.NEVER),
        ({"phase": "Pending", "conditions": [ready("False", "TenantSuspended")]}, {}, Progress.NEVER),
        ({"phase": "Pending", "conditions": [ready("False", "TenantNotReady")]}, {}, Progress.WAITING),
        ({"phase": "Pending", "conditions": [ready("False", "NotYet")]}, {"startsAt": "2026-12-01T18:00:00Z"},
         Progress.LATER),
        ({"phase": "Pending", "conditions": [ready("False", "NotYet")]}, {"startsAt": "2026-12-01T11:00:00Z"},
         Progress.WAITING),
        ({"phase": "Expired", "conditions": [ready("False", "Expired")]}, {}, Progress.NEVER),
        ({"phase": "Expired", "observedGeneration": 1}, {}, Progress.NEVER),
        ({"phase": "Expired", "observedGeneration": 0}, {}, Progress.WAITING),
    ],
)  # fmt: skip
def test_a_wait_ends_when_the_rule_is_settled(status: Raw, spec: Any, progress: Progress) -> None:
    assert opening(rule(status=status, **spec), NOW) is progress


@pytest.mark.parametrize(
    ("phase", "agents", "done"),
    [
        ("Open", [GONE], False),
        ("Revoked", [GONE], True),
        ("Expired", [GONE], True),
        ("Revoked", [], True),
        ("Revoked", [{**GONE, "kernel": True}], False),
        ("Revoked", [{**GONE, "hba": True}], False),
        ("Revoked", [{**GONE, "sessions": False}], False),
        ("Revoked", [{**GONE, "error": "kernel: busy"}], False),
        ("Revoked", [{**GONE, "generation": 0}], False),
        ("Revoked", [GONE, {**GONE, "name": "agent-2", "hba": True}], False),
    ],
)
def test_a_rule_is_closed_when_nothing_of_it_is_left_with_any_agent(phase: str, agents: Any, done: bool) -> None:
    assert closed(rule(revoked=True, status={"phase": phase, "agents": agents})) is done


def test_a_rule_that_was_open_is_not_closed_before_an_agent_says_so() -> None:
    assert not closed(rule(revoked=True, status={"phase": "Revoked", "openedAt": rfc3339(NOW)}))
    assert closed(rule(revoked=True, status={"phase": "Revoked", "openedAt": rfc3339(NOW), "agents": [GONE]}))


def test_sessions_are_counted_over_all_agents() -> None:
    agents = [
        {**GONE, "openSessions": 1, "terminatedSessions": 2},
        {**GONE, "name": "agent-2", "openSessions": 3, "terminatedSessions": 4},
    ]
    found = rule(status={"agents": agents})
    assert (sessions_open(found), sessions_ended(found)) == (4, 6)
    assert sessions_ended(rule(status={"sessions": {"terminated": 7}, "agents": agents})) == 7


def test_what_is_left_open_of_a_revoked_rule_is_told_by_agent() -> None:
    agents = [
        {**GONE, "hba": True, "sessions": False, "error": "boom"},
        {**GONE, "name": "done"},
        {**GONE, "name": "late", "generation": 0},
    ]
    assert remainders(rule(status={"agents": agents})) == [
        Remainder("agent-1", ("pg_hba", "sessions"), "boom"),
        Remainder("late", (), ""),
    ]


def test_readiness_is_one_word() -> None:
    def word(*conditions: Raw) -> str:
        return readiness(rule(status={"conditions": list(conditions)}).status.conditions)

    assert [word(), word(ready("True")), word(ready("False", "AgentPending"))] == ["Waiting", "True", "AgentPending"]
    assert readiness([], "Expired") == "Expired"


def test_what_a_rule_lacks_is_named_by_its_cause() -> None:
    cause = {**true("Enforced")[0], "status": "False"}
    assert [c.type for c in lacking(rule(status={"conditions": [ready("False"), cause]}))] == ["Enforced"]
    assert [c.type for c in lacking(rule(status={"conditions": [ready("False")]}))] == ["Ready"]
    assert lacking(rule(status={"conditions": [ready("True")]})) == []


def test_an_overview_sorts_what_needs_attention_by_urgency() -> None:
    def opened(name: str, ttl: str, status: str = "True") -> Any:
        return rule(name, ttl=ttl, status={"phase": "Open", "conditions": [ready(status)]})

    rules = [
        opened("long", "3h"),
        opened("soon", "50m"),
        opened("sooner", "40m"),
        opened("stuck", "3h", "False"),
        rule("later", startsAt=rfc3339(NOW + HOUR), status={"phase": "Pending", "conditions": [ready("False")]}),
        rule("wide", startsAt=rfc3339(NOW + HOUR), status={"phase": "Rejected", "conditions": [ready("False")]}),
        rule("new"),
        opened("over", "1m"),
        rule("gone", revoked=True),
    ]
    decision = {"verdict": "Approved", "by": "boss", "sha256": "0" * 64}
    approvals = [
        approval("decided", decision=decision),
        approval("waits"),
        approval("broken", status={"phase": "Invalid"}),
    ]
    fine = Tenant.parse({**tenant("fine").dump(), "status": {"conditions": true("Ready")}})
    found = overview([server("b"), server("a")], [tenant("ill"), fine], rules, approvals, NOW + 2 * MINUTE)
    assert [s.metadata.name for s in found.servers] == ["a", "b"]
    assert [t.metadata.name for t in found.tenants_not_ready] == ["ill"]
    assert found.open_rules == 4
    assert [r.metadata.name for r in found.ending] == ["sooner", "soon"]
    assert [r.metadata.name for r in found.rules_not_ready] == ["new", "stuck", "wide"]
    assert [a.metadata.name for a in found.approvals_waiting] == ["waits"]


def test_what_is_not_true_is_told_before_what_sums_it_up() -> None:
    unknown = {**true("AgentConnected")[0], "status": "Unknown"}
    found = rule(status={"conditions": [ready("False"), *true("Accepted"), unknown]}).status.conditions
    assert [c.type for c in not_true(found)] == ["AgentConnected", "Ready"]
