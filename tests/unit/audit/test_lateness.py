"""How late the record is, against an oracle that knows when each byte was written."""

from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.audit.flow.lateness import Lateness

STEPS = st.lists(
    st.tuples(st.floats(0.1, 10), st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 6), st.booleans()),
    max_size=40,
)


@given(STEPS)
def test_all_that_was_written_before_it_is_stored(steps: list[tuple[float, str, int, int, bool]]) -> None:
    lateness, now = Lateness(0), 0.0
    written: dict[str, int] = {"a": 0, "b": 0}
    stored: dict[str, int] = {"a": 0, "b": 0}
    dated: list[tuple[float, str, int]] = []
    for pause, name, more, read, look in steps:
        now += pause
        for _ in range(more):
            written[name] += 1
            dated.append((now, name, written[name]))
        stored[name] = min(written[name], stored[name] + read)
        if look:
            lateness.look(now, dict(written), dict(stored))
        complete = now - lateness.seconds(now)
        for at, file, end in dated:
            assert stored[file] >= end or at > complete - 1e-6, "it was written before, and is not stored"
        if look and stored == written:
            assert lateness.seconds(now) == 0


def test_a_record_that_is_behind_all_the_time_is_as_late_as_it_is_behind() -> None:
    lateness = Lateness(0)
    for now in range(1, 100):
        # A byte a second, stored three seconds later.
        lateness.look(now, {"a": now}, {"a": max(0, now - 3)})
    assert 3 <= lateness.seconds(99) <= 7


def test_what_was_late_when_the_shipper_started_is_late_until_it_is_stored() -> None:
    lateness = Lateness(100, late=3600)
    assert lateness.seconds(110) == 3610
    lateness.look(110, {"a": 9}, {"a": 3})
    assert lateness.seconds(120) == 3620
    lateness.look(120, {"a": 20}, {"a": 9})
    assert lateness.seconds(120) == 10


def test_files_that_are_gone_or_were_overwritten_keep_nothing_waiting() -> None:
    lateness = Lateness(0)
    lateness.look(1, {"a": 50, "b": 70}, {})
    lateness.look(9, {"a": 10}, {"a": 10})
    assert lateness.seconds(9) == 0
