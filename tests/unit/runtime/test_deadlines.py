import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, NOW, SECOND

from vaultbrix.runtime.deadlines import Deadlines

KEYS = st.sampled_from("abcd")
SECONDS = st.integers(0, 9)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, SECONDS),
        st.tuples(st.just("earlier"), KEYS, SECONDS),
        st.tuples(st.just("discard"), KEYS, SECONDS),
        st.tuples(st.just("pop"), KEYS, SECONDS),
    ),
    max_size=40,
)


def test_keys_are_due_at_their_time_earliest_first() -> None:
    due: Deadlines[str] = Deadlines()
    due.set("late", NOW + 2 * SECOND)
    due.set("early", NOW + SECOND)
    assert due.pop_due(NOW) == []
    assert due.pop_due(NOW + SECOND) == ["early"]
    assert due.pop_due(NOW + HOUR) == ["late"]
    assert due.pop_due(NOW + HOUR) == []


def test_setting_again_replaces_to_either_side() -> None:
    due: Deadlines[str] = Deadlines()
    due.set("a", NOW + SECOND)
    due.set("a", NOW + HOUR)
    assert due.pop_due(NOW + SECOND) == []
    due.set("a", NOW)
    assert due.pop_due(NOW) == ["a"]


def test_set_earlier_never_delays() -> None:
    due: Deadlines[str] = Deadlines()
    due.set_earlier("a", NOW + HOUR)
    due.set_earlier("a", NOW + SECOND)
    due.set_earlier("a", NOW + 2 * HOUR)
    assert due.seconds_to_next(NOW) == 1


def test_what_is_late_is_due_at_once_and_there_is_nothing_to_wait_for_without_deadlines() -> None:
    due: Deadlines[str] = Deadlines()
    assert due.seconds_to_next(NOW) is None
    due.set("a", NOW - HOUR)
    assert due.seconds_to_next(NOW) == 0
    due.discard("a")
    assert due.seconds_to_next(NOW) is None


def test_forgetting_what_is_not_there_is_nothing() -> None:
    due: Deadlines[str] = Deadlines()
    due.discard("a")
    assert due.pop_due(NOW) == []


@given(STEPS)
def test_whatever_is_set_and_forgotten_each_key_is_due_once_at_its_last_time(
    steps: list[tuple[str, str, int]],
) -> None:
    due: Deadlines[str] = Deadlines()
    oracle: dict[str, int] = {}
    for what, key, seconds in steps:
        when = NOW + seconds * SECOND
        if what == "set":
            due.set(key, when)
            oracle[key] = seconds
        elif what == "earlier":
            due.set_earlier(key, when)
            oracle[key] = min(oracle.get(key, seconds), seconds)
        elif what == "discard":
            due.discard(key)
            oracle.pop(key, None)
        else:
            found = due.pop_due(when)
            expected = {k: at for k, at in oracle.items() if at <= seconds}
            assert sorted(found) == sorted(expected)
            assert [expected[k] for k in found] == sorted(expected.values())
            oracle = {k: at for k, at in oracle.items() if at > seconds}
        assert due.seconds_to_next(NOW) == (float(min(oracle.values())) if oracle else None)


def test_a_running_loop_notices_deadlines_that_are_set_later_and_moved_forward() -> None:
    async def scenario() -> list[str]:
        due: Deadlines[str] = Deadlines()
        fired: asyncio.Queue[str] = asyncio.Queue()
        due.set("far", datetime.now(UTC) + HOUR)
        due.set("moved", datetime.now(UTC) + HOUR)
        due.set("gone", datetime.now(UTC) + timedelta(milliseconds=30))
        loop = asyncio.create_task(due.run(fired.put_nowait))
        await asyncio.sleep(0)
        due.discard("gone")
        due.set("late", datetime.now(UTC) - HOUR)
        due.set("moved", datetime.now(UTC) + timedelta(milliseconds=60))
        found = [await fired.get(), await fired.get()]
        loop.cancel()
        return found

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == ["late", "moved"]


@pytest.mark.parametrize("turns", range(6))
def test_a_running_loop_ends_when_told_to_even_in_the_moment_it_is_woken(turns: int) -> None:
    async def scenario() -> bool:
        due: Deadlines[str] = Deadlines()
        due.set("far", datetime.now(UTC) + HOUR)
        loop = asyncio.create_task(due.run(lambda _: None))
        await asyncio.sleep(0.01)
        due.set("near", datetime.now(UTC) + HOUR)
        for _ in range(turns):
            await asyncio.sleep(0)
        loop.cancel()
        await asyncio.wait({loop}, timeout=0.5)
        ended = loop.done()
        loop.cancel()
        return ended

    assert asyncio.run(scenario())


def test_a_key_that_is_worked_on_again_and_again_takes_no_more_memory() -> None:
    due: Deadlines[int] = Deadlines()
    for number in range(10_000):
        due.discard(number % 10)
        due.set(number % 10, NOW + HOUR)
    assert len(due._heap) < 200
    assert sorted(due.pop_due(NOW + HOUR)) == list(range(10))
