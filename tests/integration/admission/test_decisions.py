"""Who decides did not ask, may decide, knows the text, and is who they say."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.harness.admission import SHA256, Answer, Caller, approval, decision
from tests.harness.admission_team import MASTERS, PolicedTeam
from tests.harness.kube_http import Object

VERDICTS = ("Approved", "Denied")


def decide(caller: Caller, asked: Object, **fields: object) -> Answer:
    return caller.merge(asked, {"spec": {"decision": {**decision(caller.name), **fields}}})


def undecided(team: PolicedTeam, asked: Object) -> bool:
    return "decision" not in team.read(asked)["spec"]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_who_may_decide_and_did_not_ask_decides(team: PolicedTeam, verdict: str) -> None:
    asked = team.approval()
    assert decide(team.pat, asked, verdict=verdict, message="CHG-2").allowed
    assert team.read(asked)["spec"]["decision"] == {
        "verdict": verdict, "by": "pat@example.com", "sha256": SHA256, "message": "CHG-2", "allowNested": False,
    }  # fmt: skip


WAYS: dict[str, Callable[[Caller, Object, Object], Answer]] = {
    "merge patch": lambda who, asked, made: who.merge(asked, {"spec": {"decision": made}}),
    "JSON patch": lambda who, asked, made: who.json_patch(
        asked, [{"op": "add", "path": "/spec/decision", "value": made}]
    ),
    "apply of this field alone": lambda who, asked, made: who.apply(asked, {"spec": {"decision": made}}),
    "update": lambda who, asked, made: who.replace(asked, spec={**who.read(asked)["spec"], "decision": made}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_who_lacks_the_verb_decides_in_no_way(team: PolicedTeam, way: str, verdict: str) -> None:
    asked = team.approval()
    for caller in (team.joe, team.eve, team.gitops, team.everywhere):
        assert WAYS[way](caller, asked, decision(caller.name, verdict=verdict)).denial == (
            f"spec.decision takes verb approve on ddlapprovals.vaultbrix.com in namespace {team.namespace}, which "
            f"{caller.name} does not have"
        )
    assert undecided(team, asked)
    assert WAYS[way](team.pat, asked, decision(team.pat.name, verdict=verdict)).allowed


def test_the_operator_decides_nothing(team: PolicedTeam) -> None:
    asked = team.approval()
    for caller in (team.operator, team.remote_operator):
        denial = decide(caller, asked).denial
        # Two policies refuse it, and the API server tells of one of them.
        assert "takes verb approve" in denial or denial.startswith("spec of ddlapprovals is for people"), denial
    for caller in (team.agent, team.vm_agent, team.gateway):
        assert decide(caller, asked).code == 403
    assert undecided(team, asked)


def test_the_verb_may_be_for_some_objects_only(team: PolicedTeam) -> None:
    one, other = team.approval(name="lone"), team.approval()
    assert "takes verb approve" in decide(team.lone, other).denial
    assert decide(team.lone, one).allowed


@pytest.mark.parametrize("who", ["pat", "admin"])
def test_nobody_decides_on_what_they_asked_for(team: PolicedTeam, who: str) -> None:
    caller = getattr(team, who)
    asked = team.approval(caller)
    assert decide(caller, asked).denial == (
        f"spec.decision is by {caller.name}, who asked (spec.requestedBy) and cannot decide; ask somebody else"
    )
    assert undecided(team, asked)


def test_none_of_those_who_may_have_sent_a_refused_statement_decides(team: PolicedTeam) -> None:
    asked = approval(team.namespace, "pat@example.com,bob@example.com", team.name())
    assert team.operator.create(asked).allowed
    team.write(asked, sha256=SHA256, phase="Pending")
    assert "who asked (spec.requestedBy)" in decide(team.pat, asked).denial
    assert decide(team.admin, asked).allowed


@pytest.mark.parametrize("name", ["jane@example.com", "joe@example.com", MASTERS, "system:authenticated"])
def test_nobody_decides_in_anothers_name_or_a_groups(team: PolicedTeam, name: str) -> None:
    asked = team.approval()
    for caller in (team.pat, team.admin):
        assert decide(caller, asked, by=name).denial == (
            f"spec.decision.by is {name} and must be {caller.name}, who decides"
        )
    assert undecided(team, asked)


def test_who_acts_as_another_decides_as_the_other(team: PolicedTeam) -> None:
    asked = team.approval()
    as_jane, as_pat = team.admin.acting_as("jane@example.com"), team.admin.acting_as("pat@example.com")
    assert "who asked (spec.requestedBy)" in decide(as_jane, asked).denial
    assert "must be pat@example.com" in decide(as_pat, asked, by="admin@example.com").denial
    assert decide(team.joe.acting_as("pat@example.com"), asked).code == 403
    assert decide(as_pat, asked).allowed


def test_a_service_account_with_the_verb_decides(team: PolicedTeam) -> None:
    asked = team.approval()
    assert decide(team.robot, asked).allowed
    assert team.read(asked)["spec"]["decision"]["by"] == f"system:serviceaccount:{team.namespace}:robot"


@pytest.mark.parametrize("who", ["jane", "pat", "gitops", "admin", "operator"])
def test_a_decision_is_never_there_from_the_start(team: PolicedTeam, who: str) -> None:
    caller = getattr(team, who)
    decided = approval(team.namespace, caller.name, team.name(), decision=decision("pat@example.com"))
    for answer in (caller.create(decided), caller.apply(decided, {"spec": decided["spec"]})):
        # The operator may not apply at all.
        assert not answer.allowed
        if who != "operator":
            assert answer.denial.startswith("spec.decision cannot be there from the start: create the object")
    assert caller.create(decided).denial.startswith("spec.decision cannot be there from the start")


def test_a_decision_before_the_text_was_shown_is_none(team: PolicedTeam) -> None:
    asked = approval(team.namespace, "jane@example.com", team.name())
    assert team.jane.create(asked).allowed
    assert "comes too early, status.sha256 is not there yet" in decide(team.pat, asked).denial
    team.write(asked, phase="Pending")
    assert "comes too early, status.sha256 is not there yet" in decide(team.pat, asked).denial


def test_a_decision_on_another_text_is_none(team: PolicedTeam) -> None:
    asked = team.approval()
    assert decide(team.pat, asked, sha256="b" * 64).denial == (
        f"spec.decision.sha256 is of something else and must be status.sha256, {SHA256}; look at it again "
        "(vaultbrix approve shows it)"
    )
    assert undecided(team, asked)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Denied", "Expired", "Invalid"])
def test_a_decision_after_the_end_is_none(team: PolicedTeam, phase: str) -> None:
    asked = team.approval()
    team.write(asked, phase=phase, sha256=SHA256)
    assert decide(team.pat, asked).denial == (
        f"spec.decision comes too late, status.phase is {phase}; have it asked for again"
    )


def test_a_decision_on_what_was_deleted_is_none(team: PolicedTeam) -> None:
    asked = team.approval()
    assert team.operator.merge(asked, {"metadata": {"finalizers": ["vaultbrix.com/run"]}}).allowed
    assert team.jane.send("DELETE", team.jane.path(asked)).allowed
    assert "comes too late, the DDLApproval was deleted" in decide(team.pat, asked).denial


def test_a_decision_is_written_once_and_never_changed_or_taken_back(team: PolicedTeam) -> None:
    asked = team.approval()
    assert decide(team.pat, asked, verdict="Denied", message="no").allowed
    for change in ({"verdict": "Approved"}, {"by": "jane@example.com"}, {"allowNested": True}):
        answer = team.admin.merge(asked, {"spec": {"decision": change}})
        assert (answer.allowed, "written once" in answer.body["message"]) == (False, True)
    answer = team.admin.merge(asked, {"spec": {"decision": None}})
    assert (answer.allowed, "written once" in answer.body["message"]) == (False, True)


def test_an_object_that_was_decided_stays_everybodys_to_label(team: PolicedTeam) -> None:
    asked = team.approval()
    assert decide(team.pat, asked).allowed
    assert team.joe.merge(asked, {"metadata": {"labels": {"a": "b"}}}).allowed
    assert team.joe.replace(asked).allowed
    assert team.joe.apply(asked, {"spec": {"decision": decision("pat@example.com")}}).allowed


@pytest.mark.parametrize("kind", ["approval", "asked_rule"])
def test_of_two_who_decide_at_once_one_does_and_the_other_is_told_so(team: PolicedTeam, kind: str) -> None:
    for _ in range(10):
        asked = getattr(team, kind)()
        start = threading.Barrier(2)

        def decide_at_once(
            who: Caller, verdict: str, asked: Object = asked, start: threading.Barrier = start
        ) -> Answer:
            made = {**decision(who.name), "verdict": verdict}
            if kind == "asked_rule":
                made.pop("allowNested", None)
            start.wait()
            return who.merge(asked, {"spec": {"decision": made}})

        with ThreadPoolExecutor() as pool:
            verdicts = {"pat@example.com": "Approved", team.admin.name: "Denied"}
            answers = dict(
                zip(verdicts, pool.map(decide_at_once, (team.pat, team.admin), verdicts.values()), strict=True)
            )
        (winner,) = [name for name, answer in answers.items() if answer.allowed]
        (loser,) = [answer for answer in answers.values() if not answer.allowed]
        written = team.read(asked)["spec"]["decision"]
        assert (written["by"], written["verdict"]) == (winner, verdicts[winner])
        assert loser.denial or loser.code in (409, 422)
