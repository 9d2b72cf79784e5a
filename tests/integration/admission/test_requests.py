"""Who asks is who they say: ``spec.requestedBy`` is the caller, or the caller may ask for others."""

from collections.abc import Callable

import pytest
from tests.harness.admission import EDIT, api_key, approval, rule
from tests.harness.admission_team import MASTERS, PolicedTeam
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for

BUILDERS: dict[str, Callable[..., Object]] = {"accessrules": rule, "ddlapprovals": approval, "apikeys": api_key}

kinds = pytest.mark.parametrize("kind", BUILDERS)


def request(team: PolicedTeam, kind: str, requested_by: str) -> Object:
    return BUILDERS[kind](team.namespace, requested_by, team.name())


@kinds
@pytest.mark.parametrize("who", ["jane", "gitops", "eve", "admin", "operator"])
def test_whoever_may_create_asks_in_their_own_name(team: PolicedTeam, kind: str, who: str) -> None:
    caller = getattr(team, who)
    answer = caller.create(request(team, kind, caller.name))
    # The operator asks for nothing but what was refused.
    by_rbac = who == "operator" and kind != "ddlapprovals"
    assert (answer.allowed, answer.denial) == (not by_rbac, "")


@kinds
@pytest.mark.parametrize("who", ["joe", "pat", "eve", "everywhere"])
def test_nobody_asks_in_anothers_name(team: PolicedTeam, kind: str, who: str) -> None:
    caller = getattr(team, who)
    assert caller.create(request(team, kind, team.jane.name)).denial == (
        f"spec.requestedBy is jane@example.com and must be {caller.name}, who asks; to ask for others takes verb "
        f"request-for on {kind}.vaultbrix.com in namespace {team.namespace}"
    )


@kinds
@pytest.mark.parametrize("who", ["gitops", "admin", "remote_operator"])
def test_who_may_ask_for_others_names_them(team: PolicedTeam, kind: str, who: str) -> None:
    assert getattr(team, who).create(request(team, kind, team.jane.name)).allowed


def test_the_operator_makes_requests_of_refusals_in_the_name_of_all_who_may_have_sent_them(team: PolicedTeam) -> None:
    assert team.operator.create(request(team, "ddlapprovals", "jane@example.com,bob@example.com")).allowed


def test_who_may_ask_for_others_in_one_namespace_does_so_in_no_other(team: PolicedTeam) -> None:
    elsewhere = team.cluster.api.namespace(team.name())
    team.cluster.let(team.gitops.name, elsewhere, EDIT)
    wait_for(
        "gitops may edit there", lambda: team.gitops.create(rule(elsewhere, team.gitops.name, team.name())).allowed
    )
    denial = team.gitops.create(rule(elsewhere, "jane@example.com", team.name())).denial
    assert denial.endswith(f"takes verb request-for on accessrules.vaultbrix.com in namespace {elsewhere}")


@kinds
@pytest.mark.parametrize("name", [MASTERS, "system:authenticated", "platform-team"])
def test_a_group_is_nobody(team: PolicedTeam, kind: str, name: str) -> None:
    member = team.cluster.person("jane@example.com", "platform-team")
    assert member.create(request(team, kind, name)).denial.startswith(f"spec.requestedBy is {name} and must be jane")


@kinds
def test_who_acts_as_another_is_the_other(team: PolicedTeam, kind: str) -> None:
    as_jane = team.admin.acting_as("jane@example.com")
    assert as_jane.create(request(team, kind, "jane@example.com")).allowed
    assert as_jane.create(request(team, kind, "admin@example.com")).denial.startswith("spec.requestedBy")


def test_who_may_not_act_as_another_does_not(team: PolicedTeam) -> None:
    answer = team.joe.acting_as("jane@example.com").create(request(team, "accessrules", "jane@example.com"))
    assert answer.code == 403
    assert 'cannot impersonate resource "users"' in answer.body["message"]


@kinds
def test_a_dry_run_and_an_apply_are_checked_alike(team: PolicedTeam, kind: str) -> None:
    asked = request(team, kind, "jane@example.com")
    assert team.joe.create(asked, dry_run=True).denial.startswith("spec.requestedBy")
    assert team.joe.apply(asked, {"spec": asked["spec"]}).denial.startswith("spec.requestedBy")
    assert team.jane.apply(asked, {"spec": asked["spec"]}).allowed


@kinds
@pytest.mark.parametrize("who", ["jane", "gitops", "admin"])
def test_who_asked_is_never_changed(team: PolicedTeam, kind: str, who: str) -> None:
    asked, caller = request(team, kind, "jane@example.com"), getattr(team, who)
    assert team.jane.create(asked).allowed
    change = {"spec": {"requestedBy": "joe@example.com"}}
    for answer in (caller.merge(asked, change), caller.apply(asked, change)):
        assert not answer.allowed
        assert "immutable" in answer.body["message"]
    assert team.read(asked)["spec"]["requestedBy"] == "jane@example.com"


@kinds
def test_metadata_and_what_else_may_change_are_for_every_editor(team: PolicedTeam, kind: str) -> None:
    asked = request(team, kind, "jane@example.com")
    assert team.jane.create(asked).allowed
    assert team.joe.merge(asked, {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}).allowed
    assert team.joe.apply(asked, {"metadata": {"name": asked["metadata"]["name"], "labels": {"e": "f"}}}).allowed
    if kind != "ddlapprovals":
        assert team.joe.merge(asked, {"spec": {"revoked": True}}).allowed
    assert team.joe.send("DELETE", team.joe.path(asked)).allowed


@kinds
def test_a_status_that_comes_with_a_new_object_is_dropped(team: PolicedTeam, kind: str) -> None:
    plain, forged = (request(team, kind, "jane@example.com") for _ in range(2))
    assert team.jane.create(plain).allowed
    phase = {"accessrules": "Open", "ddlapprovals": "Approved", "apikeys": "Active"}[kind]
    assert team.jane.create({**forged, "status": {"phase": phase, "observedGeneration": 1}}).allowed
    assert team.read(forged)["status"] == team.read(plain)["status"]
    assert "phase" not in team.read(forged)["status"]


@pytest.mark.parametrize(
    "change",
    [{"allowedCIDRs": ["198.51.100.9/32"]}, {"ttl": "720h"}, {"expiresAt": "2030-01-01T00:00:00Z"}, {"overlap": "1h"}],
)
def test_who_changes_what_a_key_gives_asks_for_it(team: PolicedTeam, change: Object) -> None:
    made = team.api_key()
    for caller in (team.joe, team.pat, team.eve):
        answer = caller.merge(made, {"spec": change})
        assert answer.denial.startswith(f"spec.requestedBy is jane@example.com and must be {caller.name}, who asks")
    for caller in (team.gitops, team.jane):
        assert caller.merge(made, {"spec": change}).allowed


def test_to_rotate_or_revoke_a_key_takes_no_asking(team: PolicedTeam) -> None:
    made = team.api_key()
    for change in ({"rotateToken": "leaked"}, {"revoked": True}):
        assert team.joe.merge(made, {"spec": change}).allowed
