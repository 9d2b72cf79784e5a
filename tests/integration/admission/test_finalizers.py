"""Finalizers of ours are the operator's, or of whom RBAC lets update them."""

import pytest
from tests.harness.admission import decision, rule
from tests.harness.admission_team import PolicedTeam
from tests.harness.kube_http import Object

OURS, OTHERS = "vaultbrix.com/login", "example.com/backup"


def held(team: PolicedTeam) -> Object:
    made = team.rule()
    assert team.operator.merge(made, {"metadata": {"finalizers": [OURS]}}).allowed
    return made


@pytest.mark.parametrize("who", ["operator", "remote_operator", "keeper", "admin"])
def test_who_may_adds_and_takes_away(team: PolicedTeam, who: str) -> None:
    made, caller = team.rule(), getattr(team, who)
    for finalizers in ([OURS], [OTHERS], [OURS, OTHERS], None):
        assert caller.merge(made, {"metadata": {"finalizers": finalizers}}).allowed


@pytest.mark.parametrize("who", ["jane", "pat", "gitops", "eve", "everywhere"])
def test_nobody_else_does(team: PolicedTeam, who: str) -> None:
    made, caller = held(team), getattr(team, who)
    for finalizers in (None, [], [OTHERS], [OURS, "vaultbrix.com/more"], ["vaultbrix.com/other"]):
        answer = caller.merge(made, {"metadata": {"finalizers": finalizers}})
        assert answer.denial.startswith("metadata.finalizers: vaultbrix.com/"), answer.body
        assert answer.denial.endswith(
            f"to change it takes verb update on accessrules.vaultbrix.com/finalizers, which {caller.name} does not have"
        )
    assert team.read(made)["metadata"]["finalizers"] == [OURS]


def test_nobody_makes_an_object_that_cannot_go(team: PolicedTeam) -> None:
    made = rule(team.namespace, team.jane.name, team.name())
    forged = {**made, "metadata": {**made["metadata"], "finalizers": [OURS]}}
    assert team.jane.create(forged).denial.startswith(f"metadata.finalizers: {OURS} is the operator's")


@pytest.mark.parametrize("kind", ["rule", "tenant", "approval", "api_key"])
def test_it_holds_for_every_kind(team: PolicedTeam, kind: str) -> None:
    made = getattr(team, kind)()
    assert "metadata.finalizers" in team.jane.merge(made, {"metadata": {"finalizers": [OURS]}}).denial


def test_finalizers_of_others_and_what_else_is_in_metadata_are_for_every_editor(team: PolicedTeam) -> None:
    made = held(team)
    for metadata in (
        {"finalizers": [OURS, OTHERS]},
        {"finalizers": [OTHERS, OURS]},
        {"finalizers": [OURS], "labels": {"a": "b"}},
        {"annotations": {"a": "b"}, "ownerReferences": []},
    ):
        assert team.joe.merge(made, {"metadata": metadata}).allowed


def test_what_is_held_goes_once_the_operator_lets_go(team: PolicedTeam) -> None:
    made = held(team)
    assert team.jane.send("DELETE", team.jane.path(made)).allowed
    assert "metadata.finalizers" in team.jane.merge(made, {"metadata": {"finalizers": None}}).denial
    assert team.read(made)["metadata"]["deletionTimestamp"]
    assert team.operator.merge(made, {"metadata": {"finalizers": None}}).allowed
    assert team.admin.send("GET", team.admin.path(made)).code == 404


@pytest.mark.parametrize("who", ["operator", "remote_operator"])
def test_the_operator_changes_no_spec(team: PolicedTeam, who: str) -> None:
    """It may patch whole objects, for their finalizers."""
    changes: list[tuple[Object, Object]] = [
        (team.rule(), {"cidrs": ["198.51.100.9/32"]}),
        (team.rule(), {"revoked": True}),
        (team.asked_rule(), {"decision": {**decision("pat@example.com"), "allowNested": None}}),
        (team.tenant(), {"suspended": True}),
        (team.approval(), {"decision": decision("pat@example.com")}),
    ]
    caller = getattr(team, who)
    for made, change in changes:
        before = team.read(made)["spec"]
        answer = caller.merge(made, {"spec": change, "metadata": {"finalizers": [OURS]}})
        assert answer.denial, answer.body
        assert team.read(made)["spec"] == before
    plain = caller.merge(changes[0][0], {"spec": changes[0][1]}).denial
    assert plain.startswith("spec of accessrules is for people and GitOps controllers to change"), plain
    assert plain.endswith(f"not for the operator, {caller.name}")
    assert caller.merge(changes[0][0], {"metadata": {"labels": {"a": "b"}}}).allowed
