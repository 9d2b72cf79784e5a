"""The audit store is asked about an end soon and then less and less often, and not for ever."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, NOW

from vaultbrix.audit.receipts.decisions import FIRST_PAUSE, next_attempt

CLOSED = NOW + HOUR


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(hours=3)))
def test_the_store_is_asked_again_later_and_later_and_not_for_ever(since: timedelta) -> None:
    again = next_attempt(CLOSED, CLOSED + since)
    if since >= HOUR:
        assert again is None
    else:
        assert again is not None
        assert CLOSED + since < again <= CLOSED + HOUR
        assert again == CLOSED + HOUR or again - (CLOSED + since) >= FIRST_PAUSE


def test_an_end_is_asked_about_a_bounded_number_of_times() -> None:
    asked, now = 0, CLOSED
    while (again := next_attempt(CLOSED, now)) is not None:
        asked, now = asked + 1, again
    assert asked < 20
