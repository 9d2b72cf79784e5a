"""What loosens a guard of a Tenant takes verb approve on it; what tightens one, and all else, is for every editor."""

from typing import Any

import pytest
from tests.harness.admission import Answer, Caller, tenant
from tests.harness.admission_team import PolicedTeam
from tests.harness.kube_http import Object

UID = "3f1c9a52-0000-4000-8000-000000000000"
CLASSES = ("READ", "WRITE", "FUNCTION", "ROLE", "DDL", "MISC")
ADDITIVE = {"autoApprove": ["Additive"]}


def merged(known: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A JSON merge patch by hand, for updates of whole objects."""
    result = dict(known)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def ways(caller: Caller, known: Object, change: Object) -> list[Answer]:
    spec = merged(caller.read(known)["spec"], change)
    return [caller.merge(known, {"spec": change}), caller.replace(known, spec=spec)]


# What was, what is changed, and the fields that the refusal names.
LOOSENED: dict[str, tuple[Object, Object, str]] = {
    "additive DDL passes": ({}, {"ddlPolicy": ADDITIVE}, "ddlPolicy.autoApprove"),
    "relations are lost without an approval": (
        {}, {"ddlPolicy": {"rebuildable": ["daily"]}}, "ddlPolicy.rebuildable",
    ),
    "more relations are": (
        {"ddlPolicy": {"rebuildable": ["daily"]}}, {"ddlPolicy": {"rebuildable": ["daily*"]}}, "ddlPolicy.rebuildable",
    ),
    "retained data is taken over": ({}, {"adopt": UID}, "adopt"),
    "other data is taken over": ({"adopt": "a"}, {"adopt": UID}, "adopt"),
    "deletion drops the data": ({}, {"deletionPolicy": "Delete"}, "deletionPolicy"),
    "deletion drops the data, which was said to stay": (
        {"deletionPolicy": "Retain"}, {"deletionPolicy": "Delete"}, "deletionPolicy",
    ),
    "a suspension ends": ({"suspended": True}, {"suspended": False}, "suspended"),
    "a suspension is left out": ({"suspended": True}, {"suspended": None}, "suspended"),
    "records are kept for fewer days": (
        {"auditRetention": {"days": 90}}, {"auditRetention": {"days": 89}}, "auditRetention",
    ),
    "records are kept for no days of their own": (
        {"auditRetention": {"days": 90}}, {"auditRetention": None}, "auditRetention",
    ),
    "days are left out": (
        {"auditRetention": {"days": 90, "classes": {"DDL": 900}}}, {"auditRetention": {"days": None}}, "auditRetention",
    ),
    "one class is kept for fewer days": (
        {"auditRetention": {"classes": {"DDL": 900}}}, {"auditRetention": {"classes": {"DDL": 899}}}, "auditRetention",
    ),
    "one class is left out": (
        {"auditRetention": {"classes": {"DDL": 900}}}, {"auditRetention": {"classes": {"DDL": None}}}, "auditRetention",
    ),
    "one class falls to what holds for all": (
        {"auditRetention": {"days": 90, "classes": {"DDL": 900}}},
        {"auditRetention": {"classes": {"DDL": None}}},
        "auditRetention",
    ),
    "one class is named with less than all have": (
        {"auditRetention": {"days": 90}}, {"auditRetention": {"classes": {"READ": 30}}}, "auditRetention",
    ),
    "all days shrink, though every class is named": (
        {"auditRetention": {"days": 90, "classes": dict.fromkeys(CLASSES, 90)}},
        {"auditRetention": {"days": 30}},
        "auditRetention",
    ),
    "two at once": ({}, {"adopt": UID, "deletionPolicy": "Delete"}, "adopt, spec.deletionPolicy"),
}  # fmt: skip

TIGHTENED: dict[str, tuple[Object, Object]] = {
    "DDL passes no more": ({"ddlPolicy": ADDITIVE}, {"ddlPolicy": {"autoApprove": []}}),
    "the policy is left out": ({"ddlPolicy": ADDITIVE}, {"ddlPolicy": None}),
    "fewer relations are lost without an approval": (
        {"ddlPolicy": {"rebuildable": ["daily", "nightly"]}}, {"ddlPolicy": {"rebuildable": ["nightly"]}},
    ),
    "refusals become requests": ({"ddlPolicy": ADDITIVE}, {"ddlPolicy": {"requestOnRefusal": True}}),
    "nothing is taken over": ({"adopt": UID}, {"adopt": None}),
    "deletion keeps the data": ({"deletionPolicy": "Delete"}, {"deletionPolicy": "Retain"}),
    "it is suspended": ({}, {"suspended": True}),
    "it stays suspended": ({"suspended": True}, {"connectionLimit": 3}),
    "records are kept": ({}, {"auditRetention": {"days": 1}}),
    "records are kept longer": ({"auditRetention": {"days": 90}}, {"auditRetention": {"days": 91}}),
    "one class longer": ({"auditRetention": {"days": 90}}, {"auditRetention": {"classes": {"DDL": 900}}}),
    "the class's days become those of all": (
        {"auditRetention": {"days": 90, "classes": {"DDL": 60}}}, {"auditRetention": {"classes": {"DDL": None}}},
    ),
    "what is no guard changes beside loosened ones": (
        {"ddlPolicy": ADDITIVE, "deletionPolicy": "Delete", "adopt": UID, "auditRetention": {"days": 2}},
        {"connectionLimit": 3, "settings": {"work_mem": "8MB"}, "dataAPI": {"enabled": True}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOOSENED)
def test_an_editor_loosens_no_guard(team: PolicedTeam, case: str) -> None:
    before, change, fields = LOOSENED[case]
    made = team.tenant(**before)
    for caller in (team.jane, team.gitops, team.eve):
        for answer in ways(caller, made, change):
            assert answer.denial == (
                f"spec.{fields} so loosens a guard: that takes verb approve on tenants.vaultbrix.com in namespace "
                f"{team.namespace}, which {caller.name} does not have"
            ), answer.body


@pytest.mark.parametrize("case", LOOSENED)
def test_who_has_the_verb_does(team: PolicedTeam, case: str) -> None:
    before, change, _ = LOOSENED[case]
    assert team.pat.merge(team.tenant(**before), {"spec": change}).allowed


@pytest.mark.parametrize("case", TIGHTENED)
def test_an_editor_tightens_a_guard_and_changes_what_is_none(team: PolicedTeam, case: str) -> None:
    before, change = TIGHTENED[case]
    for index in range(2):
        answer = ways(team.jane, team.tenant(**before), change)[index]
        assert answer.allowed, answer.body


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ddlPolicy": ADDITIVE}, "ddlPolicy.autoApprove"),
        ({"ddlPolicy": {"rebuildable": ["*"]}}, "ddlPolicy.rebuildable"),
        ({"adopt": UID}, "adopt"),
        ({"deletionPolicy": "Delete"}, "deletionPolicy"),
    ],
)
def test_a_new_tenant_has_its_guards_unless_an_admin_makes_it(team: PolicedTeam, spec: Object, field: str) -> None:
    made = tenant(team.namespace, team.name(), **spec)
    assert team.jane.create(made).denial.startswith(f"spec.{field} so loosens a guard")
    assert team.jane.apply(made, {"spec": made["spec"]}).denial.startswith(f"spec.{field} so loosens a guard")
    assert team.pat.create(made).allowed


@pytest.mark.parametrize(
    "spec", [{}, {"deletionPolicy": "Retain"}, {"auditRetention": {"days": 1}}, {"suspended": True}, {"ddlPolicy": {}}]
)
def test_an_editor_makes_a_tenant_with_its_guards(team: PolicedTeam, spec: Object) -> None:
    assert team.jane.create(tenant(team.namespace, team.name(), **spec)).allowed


def test_one_field_is_applied_by_who_owns_no_other(team: PolicedTeam) -> None:
    made = team.tenant()
    assert "spec.deletionPolicy" in team.jane.apply(made, {"spec": {"deletionPolicy": "Delete"}}).denial
    assert team.jane.apply(made, {"spec": {"connectionLimit": 5}}, manager="other").allowed
    # To own a field no more takes it away where nobody else owns it.
    assert team.pat.apply(made, {"spec": {"suspended": True}}, manager="pat").allowed
    assert "spec.suspended" in team.jane.apply(made, {"spec": {}}, manager="pat").denial


def test_metadata_is_for_every_editor_whatever_the_guards_are(team: PolicedTeam) -> None:
    made = team.tenant(deletionPolicy="Delete", ddlPolicy=ADDITIVE, suspended=True)
    assert team.joe.merge(made, {"metadata": {"labels": {"a": "b"}}}).allowed
    assert team.joe.replace(made).allowed
