"""Who decides on access did not ask for it, may decide, and knows what the rule gives."""

import pytest
from tests.harness.admission import SHA256, Answer, Caller, decision, rule
from tests.harness.admission_team import PolicedTeam
from tests.harness.kube_http import Object

EDITED = "c" * 64


def decide(caller: Caller, asked: Object, **fields: object) -> Answer:
    return caller.merge(asked, {"spec": {"decision": {**on_access(caller.name), **fields}}})


def on_access(by: str) -> Object:
    """A decision without what is for texts alone."""
    return {key: value for key, value in decision(by).items() if key != "allowNested"}


def undecided(team: PolicedTeam, asked: Object) -> bool:
    return "decision" not in team.read(asked)["spec"]


@pytest.mark.parametrize("verdict", ["Approved", "Denied"])
def test_who_may_decide_and_did_not_ask_decides(team: PolicedTeam, verdict: str) -> None:
    asked = team.asked_rule()
    assert decide(team.pat, asked, verdict=verdict).allowed
    assert team.read(asked)["spec"]["decision"]["by"] == "pat@example.com"


def test_who_lacks_the_verb_decides_in_no_way(team: PolicedTeam) -> None:
    asked = team.asked_rule()
    for caller in (team.joe, team.eve, team.gitops, team.everywhere, team.robot):
        made = on_access(caller.name)
        ways = [
            caller.merge(asked, {"spec": {"decision": made}}),
            caller.json_patch(asked, [{"op": "add", "path": "/spec/decision", "value": made}]),
            caller.apply(asked, {"spec": {"decision": made}}),
        ]
        for answer in ways:
            assert not answer.allowed
        assert "takes verb approve on accessrules.vaultbrix.com" in ways[0].denial
    for operator in (team.operator, team.remote_operator):
        assert decide(operator, asked).denial
    for caller in (team.agent, team.vm_agent, team.gateway):
        assert decide(caller, asked).code == 403
    assert undecided(team, asked)


def test_nobody_decides_on_what_they_asked_for_or_in_anothers_name(team: PolicedTeam) -> None:
    asked = team.asked_rule(team.pat)
    assert not decide(team.pat, asked).allowed
    assert "must be pat@example.com, who decides" in decide(team.pat, team.asked_rule(), by="admin@example.com").denial
    assert undecided(team, asked)


def test_a_decision_is_never_there_from_the_start(team: PolicedTeam) -> None:
    for caller in (team.jane, team.pat, team.admin):
        asked = rule(team.namespace, caller.name, team.name(), decision=on_access("lone@example.com"))
        assert not caller.create(asked).allowed


def test_a_decision_on_anything_but_what_the_rule_gives_is_none(team: PolicedTeam) -> None:
    asked = team.asked_rule()
    assert not decide(team.pat, asked, sha256="b" * 64).allowed
    assert not decide(team.pat, team.rule()).allowed, "nothing was shown yet"
    assert undecided(team, asked)


@pytest.mark.parametrize("phase", ["Expired", "Revoked"])
def test_a_decision_after_the_end_is_none(team: PolicedTeam, phase: str) -> None:
    asked = team.asked_rule(phase=phase)
    assert f"comes too late, status.phase is {phase}" in decide(team.pat, asked).denial


def test_another_decision_on_a_rule_that_was_edited_takes_the_verb_again(team: PolicedTeam) -> None:
    asked = team.asked_rule()
    assert decide(team.pat, asked).allowed
    assert team.jane.merge(asked, {"spec": {"cidrs": ["203.0.113.8/32"]}}).allowed
    team.write(asked, phase="Pending", sha256=EDITED)
    for caller in (team.jane, team.joe):
        assert not decide(caller, asked, sha256=EDITED).allowed
    assert not team.jane.merge(asked, {"spec": {"decision": {"sha256": EDITED}}}).allowed, "in pat's name"
    assert team.read(asked)["spec"]["decision"]["sha256"] == SHA256
    assert decide(team.admin, asked, sha256=EDITED).allowed


def test_a_rule_that_was_decided_stays_its_editors_to_change_and_end(team: PolicedTeam) -> None:
    asked = team.asked_rule()
    assert decide(team.pat, asked).allowed
    assert team.joe.merge(asked, {"metadata": {"labels": {"a": "b"}}}).allowed
    assert team.jane.merge(asked, {"spec": {"revoked": True}}).allowed


@pytest.mark.parametrize("change", [{"cidrs": ["198.51.100.9/32"]}, {"ttl": "2h"}])
def test_who_changes_what_a_rule_gives_asks_for_it(team: PolicedTeam, change: Object) -> None:
    asked = team.asked_rule()
    for caller in (team.joe, team.pat, team.eve):
        answer = caller.merge(asked, {"spec": change})
        assert answer.denial.startswith(f"spec.requestedBy is jane@example.com and must be {caller.name}, who asks")
    assert team.gitops.merge(asked, {"spec": change}).allowed
    assert team.jane.merge(asked, {"spec": {"ttl": "3h"}}).allowed


def test_a_decision_comes_with_no_other_change(team: PolicedTeam) -> None:
    asked = team.asked_rule()
    both = {"cidrs": ["198.51.100.9/32"], "decision": on_access(team.admin.name)}
    assert "is on what was shown" in team.admin.merge(asked, {"spec": both}).denial
    assert undecided(team, asked)
