import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from vaultbrix.api.conditions import Reason
from vaultbrix.runtime import queue as module
from vaultbrix.runtime.errors import Blocked, Transient
from vaultbrix.runtime.queue import FIRST_PAUSE, LONGEST_PAUSE, WorkQueue, pause_after

Process = Callable[[str], Awaitable[datetime | None]]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "BLOCKED_PAUSE", 0.001)


def work(
    queue: WorkQueue[str], done: Callable[[], bool], *, steps: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Run the queue until ``done``; a test that never gets there fails."""

    async def scenario() -> None:
        running = asyncio.create_task(queue.run())
        if steps is not None:
            await steps()
        while not done():  # noqa: ASYNC110 - it is for the queue to tell, and it has no event for that
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), 20))


class Recorder:
    """Counts who works on what, and pauses in the middle so that others can get in between."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.active: list[str] = []
        self.together: list[list[str]] = []

    async def process(self, key: str) -> None:
        self.started.append(key)
        self.active.append(key)
        self.together.append(sorted(self.active))
        await asyncio.sleep(0.001)
        self.active.remove(key)
        self.ended.append(key)


def test_a_key_is_worked_on_by_one_worker_at_a_time_and_others_meanwhile() -> None:
    seen = Recorder()
    queue = WorkQueue(seen.process, workers=4)

    async def steps() -> None:
        for _ in range(10):
            for key in "abc":
                queue.add(key)
            await asyncio.sleep(0.0005)

    work(queue, lambda: not seen.active and len(seen.ended) >= 6, steps=steps)
    assert all(len(set(active)) == len(active) for active in seen.together)
    assert ["a", "b", "c"] in seen.together


def test_a_key_added_while_it_waits_is_worked_on_once() -> None:
    seen = Recorder()
    queue = WorkQueue(seen.process, workers=1)
    for key in ("a", "b", "a", "a", "b"):
        queue.add(key)
    queue.add("last")
    work(queue, lambda: "last" in seen.ended)
    assert seen.ended == ["a", "b", "last"]


def test_a_key_added_while_it_is_worked_on_is_worked_on_once_more_afterwards() -> None:
    ended: list[str] = []

    async def process(key: str) -> None:
        if not ended:
            queue.add(key)
            queue.add(key)
        await asyncio.sleep(0.001)
        ended.append(key)

    queue = WorkQueue(process, workers=3)
    queue.add("a")
    work(queue, lambda: len(ended) >= 2)
    assert ended == ["a", "a"]


def test_a_key_comes_back_when_it_asked_to() -> None:
    seen: list[str] = []

    async def process(key: str) -> datetime | None:
        seen.append(key)
        return datetime.now(UTC) + timedelta(milliseconds=1) if len(seen) < 3 else None

    queue = WorkQueue(process, workers=1)
    queue.add("a")
    work(queue, lambda: len(seen) >= 3)


def test_of_several_times_to_come_back_the_earliest_counts() -> None:
    seen = Recorder()
    queue = WorkQueue(seen.process, workers=1)
    queue.add_at("a", datetime.now(UTC) + timedelta(milliseconds=1))
    queue.add_at("a", datetime.now(UTC) + timedelta(hours=1))
    work(queue, lambda: seen.ended == ["a"])


@pytest.mark.parametrize(
    "error",
    [Transient(Reason.UNREACHABLE, "no route"), Blocked(Reason.SLUG_TAKEN, "taken"), ZeroDivisionError("a bug")],
    ids=lambda e: type(e).__name__,
)
def test_whatever_fails_is_tried_again_until_it_works_and_disturbs_nobody(error: Exception) -> None:
    seen = Recorder()
    failures = iter(range(3))

    async def process(key: str) -> None:
        if key == "bad" and next(failures, None) is not None:
            raise error
        await seen.process(key)

    queue = WorkQueue(process, workers=1)
    queue.add("bad")
    queue.add("good")
    with capture_logs() as logs:
        work(queue, lambda: sorted(seen.ended) == ["bad", "good"])
    assert seen.ended[0] == "good"
    failed = [line for line in logs if line["key"] == "bad"]
    assert len(failed) == 3


def test_a_bug_is_logged_with_its_traceback_and_what_is_expected_without() -> None:
    errors = [ZeroDivisionError("a bug"), Transient(Reason.UNREACHABLE, "no route"), Blocked(Reason.SLUG_TAKEN, "x")]
    done: list[str] = []

    async def process(key: str) -> None:
        if errors:
            raise errors.pop(0)
        done.append(key)

    queue = WorkQueue(process, workers=1)
    queue.add("a")
    with capture_logs() as logs:
        work(queue, lambda: bool(done))
    assert [(line["event"], line["log_level"], bool(line.get("exc_info"))) for line in logs] == [
        ("unexpected error", "error", True),
        ("will try again", "warning", False),
        ("blocked", "info", False),
    ]


def test_pauses_double_up_to_a_limit_and_jitter_only_lengthens_them() -> None:
    pauses = [pause_after(n, 0.0) for n in range(1, 30)]
    assert pauses == sorted(pauses)
    assert pauses[1] == 2 * pauses[0]
    assert pauses[-1] == LONGEST_PAUSE
    assert pause_after(10**6, 0.999) <= LONGEST_PAUSE * 1.5
    assert FIRST_PAUSE < LONGEST_PAUSE


def test_pauses_grow_with_each_failure_and_start_anew_after_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def recorded(failures: int, jitter: float) -> float:
        assert 0 <= jitter < 1
        asked.append(failures)
        return 0.001

    monkeypatch.setattr(module, "pause_after", recorded)
    outcomes: list[Exception | None] = [
        Transient(Reason.UNREACHABLE, ""),
        RuntimeError("a bug"),
        Transient(Reason.UNREACHABLE, ""),
        None,
        Transient(Reason.UNREACHABLE, ""),
        Blocked(Reason.SLUG_TAKEN, ""),
        Transient(Reason.UNREACHABLE, ""),
        None,
    ]

    async def process(key: str) -> datetime | None:
        error = outcomes.pop(0)
        if error is not None:
            raise error
        return datetime.now(UTC) if outcomes else None

    queue = WorkQueue(process, workers=1)
    queue.add("a")
    with capture_logs():
        work(queue, lambda: not outcomes)
    assert asked == [1, 2, 3, 1, 1]


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), min_size=1, max_size=30), st.integers(1, 4))
def test_every_addition_is_followed_by_work_that_began_after_it(added: list[tuple[str, int]], workers: int) -> None:
    clock = iter(range(10**6))
    began: dict[str, int] = {}
    asked: dict[str, int] = {}

    async def process(key: str) -> None:
        began[key] = next(clock)
        await asyncio.sleep(0)
        if began[key] % 3 == 0:
            raise Transient(Reason.UNREACHABLE, "")

    queue = WorkQueue(process, workers=workers)

    async def steps() -> None:
        for key, turns in added:
            queue.add(key)
            asked[key] = next(clock)
            for _ in range(turns):
                await asyncio.sleep(0)

    with capture_logs():
        work(queue, lambda: all(began.get(k, -1) > at for k, at in asked.items()), steps=steps)
