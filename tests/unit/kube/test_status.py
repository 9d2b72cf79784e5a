from typing import Any

import pytest
from tests.harness.builders import HOUR, NOW, named, rule, true

from vaultbrix.api.accessrule import AccessRuleStatus
from vaultbrix.api.conditions import ConditionType, Reason
from vaultbrix.kube.status import Conditions, changed_by_us_alone, differs

AGENT = {"name": "node-1", "generation": 1, "hba": True, "kernel": True, "at": "2026-12-01T12:00:00Z"}


def status(**fields: Any) -> AccessRuleStatus:
    return AccessRuleStatus.model_validate({"observedGeneration": 1, "phase": "Open", **fields})


def test_the_same_status_is_not_written_again() -> None:
    assert not differs(status(), status())
    assert not differs(status(conditions=true("Ready")), status(conditions=true("Ready")))


@pytest.mark.parametrize(
    "wanted",
    [
        status(phase="Expired"),
        status(observedGeneration=2),
        status(closedAt="2026-12-01T12:00:00Z"),
        status(phase=None),
        status(conditions=true("Accepted")),
        status(conditions=[{**true("Ready")[0], "message": "new"}]),
        status(conditions=[{**true("Ready")[0], "status": "False"}]),
        status(conditions=[{**true("Ready")[0], "observedGeneration": 2}]),
    ],
)
def test_every_difference_is_written(wanted: AccessRuleStatus) -> None:
    assert differs(status(conditions=true("Ready")), wanted)


def test_what_other_owners_wrote_is_no_difference() -> None:
    present = status(conditions=true("Ready", "Enforced"), agents=[AGENT])
    assert not differs(present, status(conditions=true("Ready")))


def test_times_finer_than_the_api_keeps_are_no_difference() -> None:
    assert not differs(status(openedAt="2026-12-01T12:00:00Z"), status(openedAt="2026-12-01T12:00:00.25Z"))


def test_a_field_that_is_set_to_nothing_is_a_difference() -> None:
    assert differs(status(closedReason="Revoked"), status())


def test_conditions_keep_their_transition_time_across_reconciliations() -> None:
    first = Conditions(rule(), [], NOW)
    first.set(ConditionType.READY, False, Reason.WAITING, "waits")
    first.set(ConditionType.ACCEPTED, True, Reason.ACCEPTED, "")
    second = Conditions(rule(metadata={"generation": 2}), first.all(), NOW + HOUR)
    second.set(ConditionType.READY, False, Reason.AGENT_PENDING, "waits for the agent")
    second.set(ConditionType.ACCEPTED, False, Reason.EXPIRED, "")
    assert named(second.all(), "Ready").last_transition_time == NOW
    assert named(second.all(), "Ready").observed_generation == 2
    assert named(second.all(), "Accepted").last_transition_time == NOW + HOUR


def test_a_condition_that_is_kept_stays_as_it_was_and_is_unknown_where_there_was_none() -> None:
    first = Conditions(rule(), [], NOW)
    first.set(ConditionType.ACCEPTED, True, Reason.ACCEPTED, "")
    second = Conditions(rule(metadata={"generation": 2}), first.all(), NOW + HOUR)
    second.keep(ConditionType.ACCEPTED)
    second.keep(ConditionType.READY)
    assert named(second.all(), "Accepted") == first.all()[0]
    assert named(second.all(), "Ready").status == "Unknown"


def test_only_what_was_set_to_true_is_true() -> None:
    built = Conditions(rule(), [], NOW)
    built.set(ConditionType.ACCEPTED, True, Reason.ACCEPTED, "")
    built.set(ConditionType.READY, None, Reason.WAITING, "")
    assert built.is_true(ConditionType.ACCEPTED)
    assert not built.is_true(ConditionType.READY)
    assert not built.is_true(ConditionType.ENFORCED)


def test_each_type_is_there_once_however_often_it_is_set() -> None:
    built = Conditions(rule(), [], NOW)
    built.set(ConditionType.READY, False, Reason.WAITING, "")
    built.set(ConditionType.READY, True, Reason.READY, "")
    assert [(c.type, c.status) for c in built.all()] == [("Ready", "True")]


@pytest.mark.parametrize(
    ("metadata", "fields", "alone"),
    [
        ({}, {}, True),
        ({}, {"phase": "Expired", "conditions": true("Ready")}, True),
        ({"generation": 2}, {}, False),
        ({"deletionTimestamp": "2026-12-01T12:00:00Z"}, {}, False),
        ({}, {"agents": [AGENT]}, False),
        ({}, {"conditions": true("Ready", "Enforced")}, False),
    ],
)
def test_what_came_in_while_we_wrote_is_not_taken_for_known(
    metadata: dict[str, Any], fields: dict[str, Any], alone: bool
) -> None:
    after = rule(metadata={"resourceVersion": "2", **metadata}, status=fields)
    assert changed_by_us_alone(rule(), after, status(conditions=true("Ready"))) is alone
