"""A status is the operator's, but for what an agent says of itself and for when the gateway let a key in."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.harness.admission import AGENT, OTHER_SERVER, SERVER, VM_AGENT, Answer, Caller, server
from tests.harness.admission_team import PolicedTeam
from tests.harness.kube_http import Object

NOW = "2026-12-01T12:00:00Z"
LATER = "2026-12-01T12:00:10Z"


def condition(type_: str, status: str = "True", **fields: Any) -> Object:
    return {"type": type_, "status": status, "reason": type_, "message": "", "lastTransitionTime": NOW, **fields}


def on_rule(name: str, **fields: Any) -> Object:
    """What an agent says of a rule."""
    return {"name": name, "generation": 1, "hba": True, "kernel": True, "at": NOW, **fields}


def on_server(name: str, **fields: Any) -> Object:
    """What an agent says of itself."""
    return {"name": name, "namespace": "default", "at": NOW, **fields}


# A field of each kind's status that only the operator writes.
OF_THE_OPERATOR: Mapping[str, Object] = {
    "tenant": {"role": "tenant_x"},
    "rule": {"phase": "Revoked"},
    "approval": {"sha256": "b" * 64},
    "api_key": {"phase": "Revoked"},
    "server": {"version": "17.0"},
}
WAYS: dict[str, Callable[[Caller, Object, Object], Answer]] = {
    "merge patch": lambda who, known, status: who.merge(known, {"status": status}, "status"),
    "JSON patch": lambda who, known, status: who.json_patch(
        known,
        [{"op": "add", "path": f"/status/{field}", "value": value} for field, value in status.items()],
        "status",
    ),
    "apply": lambda who, known, status: who.apply(known, {"status": status}, "status"),
    "update": lambda who, known, status: who.replace(
        known, "status", status={**who.read(known).get("status", {}), **status}
    ),
}

kinds = pytest.mark.parametrize("kind", OF_THE_OPERATOR)


def known_object(team: PolicedTeam, kind: str) -> Object:
    made: Object = server(SERVER) if kind == "server" else getattr(team, kind)()
    return made


@kinds
@pytest.mark.parametrize("who", ["operator", "remote_operator"])
def test_the_operator_writes_the_status_of_every_kind(team: PolicedTeam, kind: str, who: str) -> None:
    known, status = known_object(team, kind), {**OF_THE_OPERATOR[kind], "conditions": [condition("Ready")]}
    assert getattr(team, who).apply(known, {"status": status}, "status", manager="vaultbrix-operator").allowed


@kinds
@pytest.mark.parametrize("way", WAYS)
def test_nobody_else_writes_it_in_any_way(team: PolicedTeam, kind: str, way: str) -> None:
    known, status = known_object(team, kind), OF_THE_OPERATOR[kind]
    if kind == "server":
        team.write(known, version="15.0")
    (field,) = status
    for caller in (team.everywhere, team.admin, *([team.eve] if kind != "server" else [])):
        assert WAYS[way](caller, known, status).denial == (
            f"status.{field} is written by the operator, which {caller.name} is not (admission.operators of the chart)"
        )
    assert team.read(known)["status"].get(field) != status[field]


@kinds
def test_who_has_no_right_by_rbac_does_not_get_as_far(team: PolicedTeam, kind: str) -> None:
    known = known_object(team, kind)
    for caller in (team.jane, team.pat, team.gitops):
        assert caller.merge(known, {"status": OF_THE_OPERATOR[kind]}, "status").code == 403


@kinds
def test_a_field_or_all_of_a_status_is_not_taken_away(team: PolicedTeam, kind: str) -> None:
    known, status = known_object(team, kind), OF_THE_OPERATOR[kind]
    team.write(known, **status)
    (field,) = status
    for taken in ({field: None}, None):
        answer = team.everywhere.merge(known, {"status": taken}, "status")
        assert answer.denial.startswith("status."), answer.body
    assert team.read(known)["status"][field] == status[field]


@pytest.mark.parametrize("kind", [kind for kind in OF_THE_OPERATOR if kind != "server"])
def test_a_condition_is_the_operators(team: PolicedTeam, kind: str) -> None:
    known = known_object(team, kind)
    team.write(known, conditions=[condition("Ready", "False"), condition("Accepted", "False")])
    for forged in ([condition("Ready")], [condition("Ready"), condition("Accepted", "False")], []):
        assert team.eve.merge(known, {"status": {"conditions": forged}}, "status").denial.startswith(
            "status.conditions"
        )


@kinds
def test_there_is_no_other_subresource_to_write(team: PolicedTeam, kind: str) -> None:
    known = known_object(team, kind)
    for subresource in ("scale", "finalizers", "decision", "approval"):
        assert team.admin.merge(known, {"spec": {"replicas": 0}}, subresource).code == 404


@kinds
def test_a_write_that_changes_nothing_is_nobodys_business(team: PolicedTeam, kind: str) -> None:
    known = known_object(team, kind)
    team.write(known, **OF_THE_OPERATOR[kind])
    assert team.everywhere.replace(known, "status").allowed


@kinds
def test_spec_and_metadata_are_out_of_reach_by_way_of_the_status(team: PolicedTeam, kind: str) -> None:
    known = known_object(team, kind)
    before = team.read(known)
    change = {
        "metadata": {"finalizers": ["vaultbrix.com/x"], "labels": {"a": "b"}},
        "spec": {"decision": {}, "suspended": True},
    }
    assert team.everywhere.merge(known, change, "status").allowed
    after = team.read(known)
    assert (after["spec"], after["metadata"].get("finalizers"), after["metadata"].get("labels")) == (
        before["spec"], before["metadata"].get("finalizers"), before["metadata"].get("labels"),
    )  # fmt: skip


@pytest.mark.parametrize(("who", "name"), [("agent", AGENT), ("vm_agent", VM_AGENT)])
def test_an_agent_reports_on_a_rule_and_says_whether_it_is_enforced(team: PolicedTeam, who: str, name: str) -> None:
    made, agent = team.rule(), getattr(team, who)
    team.write(made, phase="Open", conditions=[condition("Accepted"), condition("Ready", "False")])
    for at, enforced in ((NOW, "False"), (LATER, "True")):
        status = {"agents": [on_rule(name, at=at)], "conditions": [condition("Enforced", enforced)]}
        assert agent.apply(made, {"status": status}, "status", manager=f"vaultbrix-agent-{name}").allowed
    read = team.read(made)["status"]
    assert [a["at"] for a in read["agents"]] == [LATER]
    assert {c["type"]: c["status"] for c in read["conditions"]} == {
        "Accepted": "True", "Ready": "False", "Enforced": "True",
    }  # fmt: skip


@pytest.mark.parametrize(("who", "name"), [("agent", AGENT), ("vm_agent", VM_AGENT)])
def test_an_agent_says_of_itself_what_its_server_shows(team: PolicedTeam, who: str, name: str) -> None:
    agent, manager = getattr(team, who), f"vaultbrix-agent-{name}"
    for at in (NOW, LATER):
        status = {"agents": [on_server(name, at=at)]}
        assert agent.apply(server(SERVER), {"status": status}, "status", manager=manager).allowed
    assert name in {a["name"] for a in team.read(server(SERVER))["status"]["agents"]}
    assert agent.apply(server(OTHER_SERVER), {"status": status}, "status", manager=manager).denial == (
        "status.agents: an agent reports for its own server alone, which takes verb report on "
        f"postgresservers.vaultbrix.com/{OTHER_SERVER}, which {agent.name} does not have"
    )


def test_an_agent_reports_on_no_rule_of_another_server(team: PolicedTeam) -> None:
    made, report = team.rule(), {"status": {"agents": [on_rule(AGENT)], "conditions": [condition("Enforced")]}}
    team.write(made, phase="Open", server=OTHER_SERVER)
    for caller, status in ((team.agent, report), (team.vm_agent, {"status": {"agents": [on_rule(VM_AGENT)]}})):
        denial = caller.apply(made, status, "status").denial
        assert f"takes verb report on postgresservers.vaultbrix.com/{OTHER_SERVER}" in denial
    team.write(made, phase="Open", server=SERVER)
    assert team.agent.apply(made, report, "status").allowed
    assert "status.server is written by the operator" in (
        team.agent.merge(made, {"status": {"server": OTHER_SERVER}}, "status").denial
    )


def test_an_agent_writes_nothing_for_another(team: PolicedTeam) -> None:
    made = team.rule()
    assert team.vm_agent.apply(made, {"status": {"agents": [on_rule(VM_AGENT)]}}, "status").allowed
    denial = (
        f"status.agents: to write the entry {VM_AGENT} takes verb report on agents.vaultbrix.com/{VM_AGENT}, which "
        f"{team.agent.name} does not have"
    )
    changed, taken = [on_rule(VM_AGENT, hba=False)], None
    for agents in (changed, taken):
        assert team.agent.merge(made, {"status": {"agents": agents}}, "status").denial == denial
    both = [on_rule(VM_AGENT, hba=False), on_rule(AGENT)]
    assert "its own entry, and no other at the same time" in (
        team.agent.merge(made, {"status": {"agents": both}}, "status").denial
    )
    # Beside the other's, its own.
    assert team.agent.apply(
        made, {"status": {"agents": [on_rule(AGENT)]}}, "status", manager="vaultbrix-agent-pod"
    ).allowed
    assert [a["name"] for a in team.read(made)["status"]["agents"]] == [VM_AGENT, AGENT]


@pytest.mark.parametrize(
    ("status", "named"),
    [
        ({"phase": "Revoked"}, "status.phase"),
        ({"expiresAt": NOW}, "status.expiresAt"),
        ({"closedAt": NOW, "closedReason": "Revoked"}, "status.closed"),
        ({"sessions": {"open": 7}}, "status.sessions"),
        ({"conditions": [condition("Accepted")]}, "status.conditions: Accepted"),
        ({"conditions": [condition("Ready")]}, "status.conditions: Ready"),
    ],
)
def test_an_agent_neither_opens_nor_ends_a_rule(team: PolicedTeam, status: Object, named: str) -> None:
    made = team.rule()
    team.write(made, phase="Open")
    for caller in (team.agent, team.vm_agent):
        name = AGENT if caller is team.agent else VM_AGENT
        for body in (status, {**status, "agents": [on_rule(name)]}):
            assert caller.apply(made, {"status": body}, "status").denial.startswith(named)


def test_an_agent_changes_no_rule_and_no_other_kind(team: PolicedTeam) -> None:
    for caller in (team.agent, team.vm_agent):
        for known in (team.rule(), team.tenant(), team.approval(), team.api_key()):
            assert caller.merge(known, {"spec": {"revoked": True}}).code == 403
            assert caller.merge(known, {"metadata": {"labels": {"a": "b"}}}).code == 403
            if known["kind"] != "AccessRule":
                assert caller.merge(known, {"status": {"conditions": []}}, "status").code == 403


def test_nobody_says_that_a_rule_is_enforced_but_an_agent_that_reports_on_it(team: PolicedTeam) -> None:
    made = team.rule()
    enforced = {"status": {"conditions": [condition("Enforced")]}}
    refusal = "status.conditions: Enforced is written by an agent that has an entry in status.agents"
    assert team.agent.apply(made, enforced, "status").denial == refusal
    assert team.agent.apply(made, {"status": {"agents": [on_rule(AGENT)]}}, "status").allowed
    for caller in (team.eve, team.vm_agent):
        assert caller.apply(made, enforced, "status", manager="other").denial == refusal
    assert team.agent.apply(made, enforced, "status", manager="other").allowed


def test_an_agent_reports_where_lists_are_as_long_as_they_can_be(team: PolicedTeam) -> None:
    made, long = team.rule(), {"watchdog": "w" * 256, "error": "e" * 1024}
    others = [on_rule(f"agent-{n}", **long) for n in range(15)]
    conditions = [condition(f"Condition{n}", message="m" * 2048) for n in range(15)]
    team.write(made, phase="Open", agents=others, conditions=conditions)
    for at in (NOW, LATER):
        status = {"agents": [on_rule(AGENT, at=at, **long)], "conditions": [condition("Enforced")]}
        assert team.agent.apply(made, {"status": status}, "status", manager="agent").allowed
    assert "verb report on agents" in team.eve.apply(made, {"status": {}}, "status", manager="agent").denial


def test_no_person_reports_as_an_agent(team: PolicedTeam) -> None:
    made, entry = team.rule(), {"status": {"agents": [on_rule(AGENT)]}}
    assert f"verb report on agents.vaultbrix.com/{AGENT}" in team.eve.apply(made, entry, "status").denial
    entry = {"status": {"agents": [on_server("eve@example.com")]}}
    assert "verb report on agents.vaultbrix.com/eve" in team.everywhere.apply(server(SERVER), entry, "status").denial


def test_an_admin_takes_away_the_entry_of_an_agent_that_is_no_more(team: PolicedTeam) -> None:
    made = team.rule()
    assert team.vm_agent.apply(made, {"status": {"agents": [on_rule(VM_AGENT)]}}, "status").allowed
    assert team.admin.merge(made, {"status": {"agents": []}}, "status").allowed


def test_the_gateway_says_when_a_key_was_used_and_nothing_else(team: PolicedTeam) -> None:
    made = team.api_key()
    team.write(made, phase="Active")
    used = {"status": {"lastUsedAt": NOW}}
    assert team.gateway.apply(made, used, "status", manager="vaultbrix-gateway").allowed
    refused: list[Object] = [{"phase": "Revoked"}, {"keys": []}, {"conditions": [condition("Ready")]}]
    for status in refused:
        answer = team.gateway.merge(made, {"status": {"expiresAt": NOW, **status}}, "status")
        assert answer.denial.startswith("status."), answer.body
    assert "verb report on apikeys" in team.eve.merge(made, {"status": {"lastUsedAt": LATER}}, "status").denial
    assert team.gateway.apply(team.rule(), {"status": {"agents": []}}, "status").code == 403
