"""Whether the policies are in force, since when, and which decisions count by that."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, NOW, SECOND

from vaultbrix.admission.decisions import (
    NOT_INSTALLED,
    SETTLING,
    SPREADING,
    InstalledPolicy,
    Look,
    Standing,
    Version,
    admission_enforced,
    fault_of,
    installed_policies,
    objection,
    spec_sha256,
    standing_after,
)
from vaultbrix.api.conditions import Reason

WRITTEN = {
    "failurePolicy": "Fail",
    "matchConstraints": {"resourceRules": [{"apiGroups": ["vaultbrix.com"], "resources": ["ddlapprovals"]}]},
    "validations": [{"expression": "a < b && c", "message": "ü"}],
}
BOUND = {"policyName": "x-decisions", "validationActions": ["Deny"]}
INSTALLED = InstalledPolicy("x-decisions", spec_sha256(WRITTEN))


def stored() -> dict[str, Any]:
    """The same, as the API server completes it."""
    spec: dict[str, Any] = deepcopy(WRITTEN)
    spec["matchConstraints"].update(matchPolicy="Equivalent", namespaceSelector={}, objectSelector={})
    spec["matchConstraints"]["resourceRules"][0]["scope"] = "*"
    return spec


def test_what_the_api_server_adds_by_itself_changes_nothing() -> None:
    assert fault_of(INSTALLED, stored(), BOUND) is None


LOOSENED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "it fails open": lambda spec: spec.update(failurePolicy="Ignore"),
    "one validation less": lambda spec: spec["validations"].clear(),
    "another expression": lambda spec: spec["validations"][0].update(expression="true"),
    "some namespaces only": lambda spec: spec["matchConstraints"].update(namespaceSelector={"matchLabels": {"a": "b"}}),
    "some objects only": lambda spec: spec["matchConstraints"].update(objectSelector={"matchLabels": {"a": "b"}}),
    "one version alone": lambda spec: spec["matchConstraints"].update(matchPolicy="Exact"),
    "without some": lambda spec: spec["matchConstraints"].update(excludeResourceRules=[{"resources": ["*"]}]),
    "one scope alone": lambda spec: spec["matchConstraints"]["resourceRules"][0].update(scope="Cluster"),
    "on a condition": lambda spec: spec.update(matchConditions=[{"name": "never", "expression": "false"}]),
    "nothing is matched": lambda spec: spec.pop("matchConstraints"),
}


@pytest.mark.parametrize("case", LOOSENED)
def test_a_policy_that_is_another_is_told(case: str) -> None:
    spec = stored()
    LOOSENED[case](spec)
    fault = fault_of(INSTALLED, spec, BOUND)
    assert fault is not None
    assert fault[0] is Reason.POLICIES_CHANGED
    assert "x-decisions" in fault[1]


@pytest.mark.parametrize(
    "binding",
    [
        None,
        {**BOUND, "validationActions": ["Warn"]},
        {**BOUND, "validationActions": []},
        {**BOUND, "policyName": "other"},
        {**BOUND, "matchResources": {"namespaceSelector": {"matchLabels": {"a": "b"}}}},
        {**BOUND, "paramRef": {"name": "x"}},
    ],
)
def test_a_binding_that_lets_something_through_is_told(binding: dict[str, Any] | None) -> None:
    fault = fault_of(INSTALLED, stored(), binding)
    assert fault is not None
    assert fault[0] is Reason.POLICIES_UNBOUND


def test_a_policy_that_is_gone_is_told() -> None:
    fault = fault_of(INSTALLED, None, BOUND)
    assert fault is not None
    assert fault[0] is Reason.POLICIES_MISSING


@pytest.mark.parametrize("data", [{}, {"x": ""}, {"x": "abc"}, {"x": "A" * 64}, {"x": "a" * 64, "y": "z" * 64}])
def test_a_list_without_hashes_is_refused(data: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no policy|no sha256"):
        installed_policies(data)


def test_a_list_names_policies_with_their_hashes() -> None:
    found = installed_policies({"y": "b" * 64, "x": "a" * 64})
    assert found == (InstalledPolicy("x", "a" * 64), InstalledPolicy("y", "b" * 64))


def version(uid: str = "a", generation: int = 1, created: datetime = NOW - HOUR) -> Version:
    return Version(uid, generation, created)


def look(*versions: Version, at: datetime = NOW) -> Look:
    return Look(at, versions or (version(),))


GONE = Look(NOW, fault=(Reason.POLICIES_MISSING, "gone"))
AWAY = Look(NOW, fault=(Reason.UNREACHABLE, "away"), unreadable=True)


def test_policies_that_never_changed_are_in_force_since_the_last_was_created() -> None:
    found = standing_after(Standing(), look(version(), version("b", created=NOW - 60 * SECOND)))
    assert found.since == NOW - 60 * SECOND + SETTLING
    assert admission_enforced(found, NOW).status is True


def test_of_those_that_were_changed_nobody_knows_when_so_it_counts_from_now_on() -> None:
    found = standing_after(Standing(), look(version(generation=2)))
    assert found.since == NOW + SETTLING
    assert admission_enforced(found, NOW)[:2] == (None, Reason.WAITING)
    assert admission_enforced(found, NOW + SETTLING).status is True


def test_after_a_change_people_are_told_to_decide_once_agents_have_seen_it_too() -> None:
    before = standing_after(Standing(), look(version()))
    after = standing_after(before, look(version("b")))
    assert after.in_force(NOW)
    assert admission_enforced(after, NOW)[:2] == (None, Reason.WAITING)
    assert admission_enforced(after, NOW + SPREADING).status is True


@pytest.mark.parametrize("between", [GONE, AWAY])
def test_the_same_versions_after_a_fault_have_not_changed_meanwhile(between: Look) -> None:
    before = standing_after(Standing(), look(version(generation=3)))
    assert standing_after(standing_after(before, between), look(version(generation=3), at=NOW + HOUR)) == before


def test_a_change_that_nobody_saw_and_that_was_taken_back_counts_all_the_same() -> None:
    before = standing_after(Standing(), look())
    for after in (version(generation=3), version("another", created=NOW)):
        assert standing_after(before, look(after)).since == NOW + SETTLING


def test_what_is_said_of_each() -> None:
    told = standing_after(Standing(), GONE)
    assert admission_enforced(told, NOW)[:2] == (False, Reason.POLICIES_MISSING)
    assert admission_enforced(standing_after(Standing(), AWAY), NOW)[:2] == (None, Reason.UNREACHABLE)
    assert admission_enforced(NOT_INSTALLED, NOW)[:2] == (None, Reason.NOT_INSTALLED)
    assert admission_enforced(Standing(), NOW).status is None


def test_where_there_are_none_every_decision_counts() -> None:
    assert objection(NOT_INSTALLED, "AccessRule", NOW, NOW) is None


@pytest.mark.parametrize("standing", [standing_after(Standing(), GONE), standing_after(Standing(), AWAY), Standing()])
def test_while_they_are_not_in_force_no_decision_is_taken_over(standing: Standing) -> None:
    found = objection(replace(standing, since=NOW - HOUR), "AccessRule", NOW, NOW)
    assert found is not None
    assert not found.final


def test_a_decision_counts_if_it_was_written_after_they_were_in_force() -> None:
    standing = standing_after(Standing(), look(version(created=NOW - HOUR)))
    since = NOW - HOUR + SETTLING
    assert objection(standing, "AccessRule", since, NOW) is None
    found = objection(standing, "AccessRule", since - SECOND, NOW)
    assert found is not None
    assert found.final
    assert "another AccessRule" in found.message


@dataclass
class Cluster:
    """One policy that comes, goes and changes, and an operator that looks now and then; the API server has no lag."""

    now: datetime = NOW
    uid: int = 0
    generation: int = 1
    created: datetime = NOW
    there: bool = True
    right: bool = True
    standing: Standing = field(default_factory=Standing)
    # The last time at which a write would have gone unchecked.
    unchecked: datetime | None = None

    def do(self, act: str) -> None:
        if act == "wait":
            self.now += 7 * SECOND
        elif act == "delete":
            self.there = False
        elif act == "create" and not self.there:
            self.there, self.right, self.created = True, True, self.now
            self.uid, self.generation = self.uid + 1, 1
        elif act in ("loosen", "mend") and self.there:
            self.generation += self.right != (act == "mend")
            self.right = act == "mend"
        elif act == "restart":
            self.standing = Standing()
        if not (self.there and self.right):
            self.unchecked = self.now
        if act == "look":
            self._look()

    def _look(self) -> None:
        seen = look(Version(str(self.uid), self.generation, self.created), at=self.now)
        self.standing = standing_after(self.standing, seen if self.there and self.right else GONE)


@given(st.lists(st.sampled_from(["wait", "delete", "create", "loosen", "mend", "restart", "look"]), max_size=40))
def test_no_decision_counts_that_may_have_gone_unchecked(acts: list[str]) -> None:
    cluster = Cluster()
    for act in acts:
        cluster.do(act)
        before = cluster.standing
        # Whoever takes over a decision looks first.
        cluster.do("look")
        if cluster.unchecked is not None:
            assert objection(cluster.standing, "AccessRule", cluster.unchecked, cluster.now) is not None
        # Not to change what the acts alone would have given.
        cluster.standing = before
