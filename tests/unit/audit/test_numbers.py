"""Each missing line is told once and exactly, and none that is only read later than others."""

import itertools
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.audit.shipping.numbers import Hole, Numbers, Seen

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
NEW = f"{int(NOW.timestamp()):x}.2a"
OLD = f"{int((NOW - timedelta(hours=1)).timestamp()):x}.2b"


class Store:
    """What is stored, and a shipper's memory that may be lost."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = defaultdict(set)
        self.missing: dict[str, list[Hole]] = {}
        self.told: list[tuple[str, int, int]] = []
        self.looks = 0
        self.restart(since=NOW)

    def restart(self, since: datetime = NOW + timedelta(minutes=1)) -> None:
        self.numbers = Numbers(
            NOW - timedelta(minutes=1), [hole for found in self.missing.values() for hole in found], since=since
        )

    def batch(self, *seen: Seen) -> None:
        self.looks += 1
        unknown = self.numbers.take("f", seen, self.looks)
        before = {
            session: max((line for line in self.lines[session] if line < number), default=0)
            for session, number, _ in unknown.values()
        }
        self.numbers.settle("f", unknown, before, self.looks, NOW)
        again = {session for session, number, _ in seen if number in self.lines[session]} & self.numbers.suspects
        self.numbers.reached({session: max(self.lines[session]) for session in again}, self.looks)
        self.commit()
        for session, number, _ in seen:
            self.lines[session].add(number)

    def commit(self) -> None:
        self.missing.update(self.numbers.changes())
        self.numbers.stored()

    def tell(self) -> None:
        """Everything that the directory shows is read."""
        self.looks += 1
        due = self.numbers.due(self.looks)
        self.numbers.told(due)
        self.commit()
        self.told += [(hole.session, hole.first, hole.last) for hole in due]


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_hole_is_told_once_with_its_range(store: Store) -> None:
    store.batch((NEW, 1, 0), (NEW, 2, 10), (NEW, 6, 20))
    assert store.numbers.due(store.looks) == [], "other files may hold them"
    store.tell()
    store.tell()
    store.restart()
    store.tell()
    assert store.told == [(NEW, 3, 5)]
    assert Hole(NEW, 3, 5, "f", 20).gap().reason == f"lines 3 to 5 of session {NEW} never came"
    assert Hole(NEW, 3, 3, "f", 20).gap().reason == f"line 3 of session {NEW} never came"


def test_a_hole_survives_the_shipper_that_found_it(store: Store) -> None:
    store.batch((NEW, 1, 0), (NEW, 3, 10))
    store.restart()
    store.batch((NEW, 4, 20))
    store.tell()
    assert store.told == [(NEW, 2, 2)]


def test_lines_that_come_late_leave_only_what_is_missing(store: Store) -> None:
    store.batch((NEW, 1, 0), (NEW, 9, 10))
    store.batch((NEW, 4, 0), (NEW, 5, 10))
    store.tell()
    assert sorted(store.told) == [(NEW, 2, 3), (NEW, 6, 8)]


def test_a_session_from_before_the_first_batch_has_no_beginning(store: Store) -> None:
    store.batch((OLD, 17, 0), ("no id", 3, 0))
    store.tell()
    assert store.told == []
    store.batch((OLD, 19, 0))
    store.tell()
    assert store.told == [(OLD, 18, 18)]


def test_a_session_that_began_since_has_one(store: Store) -> None:
    store.batch((NEW, 3, 0))
    store.tell()
    assert store.told == [(NEW, 1, 2)]


def test_after_a_restart_the_store_says_how_far_a_session_was(store: Store) -> None:
    store.batch((NEW, 1, 0), (NEW, 2, 0))
    store.restart()
    store.batch((NEW, 3, 0))
    store.restart()
    store.batch((NEW, 5, 0))
    store.tell()
    assert store.told == [(NEW, 4, 4)]


@given(data=st.data(), lost=st.sets(st.integers(1, 12)), parts=st.lists(st.integers(1, 12), max_size=4))
def test_whatever_the_order_of_files_and_restarts_exactly_the_lost_lines_are_told(
    data: st.DataObject, lost: set[int], parts: list[int]
) -> None:
    store = Store()
    cuts = [0, *sorted(set(parts)), 12]
    files = [
        [number for number in range(start + 1, stop + 1) if number not in lost]
        for start, stop in itertools.pairwise(cuts)
    ]
    order = data.draw(st.permutations(files))
    for place, file in enumerate(order):
        store.batch(*((NEW, number, number) for number in file))
        if data.draw(st.booleans()):
            store.restart()
        # Files may be read again.
        for known in data.draw(st.lists(st.sampled_from(order[: place + 1]), max_size=2)):
            store.batch(*((NEW, number, number) for number in known))
    store.tell()
    for known in data.draw(st.lists(st.sampled_from(order), max_size=2)):
        if data.draw(st.booleans()):
            store.restart()
        store.batch(*((NEW, number, number) for number in known))
        store.tell()
    told = [number for _, first, last in store.told for number in range(first, last + 1)]
    come = [number for number in range(1, 13) if number not in lost]
    # Of lines that are the last ones of a session, nothing tells.
    assert sorted(told) == [number for number in sorted(lost) if come and number < max(come)]
