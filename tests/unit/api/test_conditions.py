from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, NOW, SECOND

from vaultbrix.api.conditions import (
    Condition,
    ConditionType,
    Reason,
    State,
    condition,
    conditions,
    find_condition,
    is_true,
)

STATUSES = st.sampled_from([True, False, None])


def made(status: bool | None, seconds: int, *previous: Condition, reason: Reason = Reason.READY) -> Condition:
    now = NOW + seconds * SECOND
    return condition(ConditionType.READY, State(status, reason, ""), generation=seconds, now=now, previous=previous)


@pytest.mark.parametrize(("status", "text"), [(True, "True"), (False, "False"), (None, "Unknown")])
def test_a_status_is_one_of_three_words(status: bool | None, text: str) -> None:
    assert made(status, 0).status == text


def test_another_reason_or_message_does_not_move_the_transition_time() -> None:
    first = made(False, 0, reason=Reason.WAITING)
    second = made(False, 9, first, reason=Reason.UNREACHABLE)
    assert (second.last_transition_time, second.reason, second.observed_generation) == (NOW, Reason.UNREACHABLE, 9)


def test_a_flip_moves_the_transition_time() -> None:
    assert made(True, 9, made(False, 0)).last_transition_time == NOW + 9 * SECOND


def test_the_history_of_another_type_does_not_count() -> None:
    other = condition(ConditionType.ENFORCED, State(True, Reason.ENFORCED, ""), generation=1, now=NOW)
    assert made(True, 9, other).last_transition_time == NOW + 9 * SECOND


@given(st.lists(STATUSES, min_size=1, max_size=20))
def test_the_transition_time_is_that_of_the_last_flip(statuses: list[bool | None]) -> None:
    last: list[Condition] = []
    for second, status in enumerate(statuses):
        last = [made(status, second, *last)]
    unchanged = 0
    while unchanged + 1 < len(statuses) and statuses[-2 - unchanged] == statuses[-1]:
        unchanged += 1
    assert last[0].last_transition_time == NOW + timedelta(seconds=len(statuses) - 1 - unchanged)


def test_a_message_fits_the_api_however_long_the_cause_was() -> None:
    found = condition(ConditionType.READY, State(False, Reason.DATABASE_ERROR, "x" * 100_000), generation=1, now=NOW)
    assert len(found.message) <= 32768


def test_only_a_condition_that_is_present_and_true_is_true() -> None:
    assert is_true([made(True, 0)], ConditionType.READY)
    assert not is_true([made(False, 0)], ConditionType.READY)
    assert not is_true([made(None, 0)], ConditionType.READY)
    assert not is_true([made(True, 0)], ConditionType.ENFORCED)
    assert not is_true([], ConditionType.READY)


ACCEPTED = State(True, Reason.ACCEPTED, "")
WAITS = State(False, Reason.WAITING, "waits")


def test_conditions_keep_their_transition_time_across_reconciliations() -> None:
    states = {ConditionType.READY: WAITS, ConditionType.ACCEPTED: ACCEPTED}
    first = conditions(states, [], generation=1, now=NOW)
    states = {
        ConditionType.READY: State(False, Reason.AGENT_PENDING, "waits for the agent"),
        ConditionType.ACCEPTED: State(False, Reason.EXPIRED, ""),
    }
    ready, accepted = conditions(states, first, generation=2, now=NOW + HOUR)
    assert (ready.last_transition_time, ready.observed_generation) == (NOW, 2)
    assert accepted.last_transition_time == NOW + HOUR


def test_a_condition_of_which_nothing_is_known_stays_as_it_was_and_is_unknown_where_there_was_none() -> None:
    first = conditions({ConditionType.ACCEPTED: ACCEPTED}, [], generation=1, now=NOW)
    unknown = {ConditionType.ACCEPTED: None, ConditionType.READY: None}
    accepted, ready = conditions(unknown, first, generation=2, now=NOW + HOUR)
    assert accepted == first[0]
    assert ready.status == "Unknown"


def test_conditions_are_in_the_order_in_which_they_are_given() -> None:
    states = {ConditionType.READY: WAITS, ConditionType.ACCEPTED: ACCEPTED}
    assert [c.type for c in conditions(states, [], generation=1, now=NOW)] == ["Ready", "Accepted"]


def test_a_condition_is_found_by_its_type() -> None:
    ready = made(True, 0)
    assert find_condition([ready], ConditionType.READY) is ready
    assert find_condition([ready], ConditionType.ENFORCED) is None
