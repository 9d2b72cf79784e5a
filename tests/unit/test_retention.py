"""What is due, and which policies follow from manifests."""

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.domain.retention import Clocks, Partition, Policy, changes, disagreement, due

DAY = date(2026, 1, 1)

days = st.dates(date(2020, 1, 1), date(2040, 1, 1))
times = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
partitions = st.builds(Partition, st.text(max_size=3), days, st.integers(1, 5000), st.booleans(), st.just(0))


def partition(keep: int) -> Partition:
    return Partition(f"record_20260101_{keep}", DAY, keep, True, 0)


def clocks(day: date, *, here: int = 0, store: int = 0, newest: int = 0) -> Clocks:
    """All at noon of that day, some that many days ahead."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return Clocks(noon + timedelta(days=here), noon + timedelta(days=store), day + timedelta(days=newest))


def test_a_partition_is_due_once_its_last_record_is_as_old_as_it_is_kept() -> None:
    assert due([partition(30)], clocks(date(2026, 1, 31))) == []
    assert due([partition(30)], clocks(date(2026, 2, 1))) == [partition(30)]


def test_no_clock_alone_makes_anything_due() -> None:
    for ahead in ({"here": 999}, {"store": 999}, {"newest": 999}, {"here": 999, "store": 999}):
        assert due([partition(30)], clocks(date(2026, 1, 15), **ahead)) == []
    assert disagreement([partition(30)], clocks(date(2026, 1, 15), here=999)) == [partition(30)]
    assert disagreement([partition(30)], clocks(date(2026, 1, 15))) == []


def test_of_an_empty_store_nothing_is_due() -> None:
    assert due([partition(1)], Clocks(datetime.now(UTC), datetime.now(UTC), None)) == []


@given(st.lists(partitions), times, times, days)
def test_no_record_goes_before_its_days_have_passed_by_every_clock(
    found: list[Partition], here: datetime, store: datetime, newest: date
) -> None:
    for one in due(found, Clocks(here, store, newest)):
        youngest = datetime(one.day.year, one.day.month, one.day.day, tzinfo=UTC) + timedelta(days=1)
        for clock in (here, store, datetime(newest.year, newest.month, newest.day, tzinfo=UTC)):
            assert clock >= youngest + timedelta(days=one.keep)


def test_manifests_say_what_holds_and_leave_the_rest() -> None:
    stored = {
        ("", ""): Policy(400),
        ("team/a", ""): Policy(30, managed=True),
        ("team/b", ""): Policy(30),
        ("team/gone", "READ"): Policy(5, managed=True),
        ("team/hand", ""): Policy(7),
    }
    wanted = {("team/a", ""): 30, ("team/b", ""): 30, ("team/c", "DDL"): 1000}
    found = changes(wanted, stored)
    assert found.put == {("team/b", ""): 30, ("team/c", "DDL"): 1000}
    assert found.remove == {("team/gone", "READ")}
