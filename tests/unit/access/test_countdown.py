from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import NOW, SECOND, rule

from vaultbrix.access.countdown import countdown, ended_at
from vaultbrix.runtime.durations import span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3599, "59m"),
        (3600, "1h00m"),
        (3780, "1h03m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (273600, "3d04h"),
    ],
)
def test_a_span_is_told_in_its_largest_units(seconds: int, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("spec", "status", "at", "text"),
    [
        ({}, {"phase": "Open"}, 3420, "1h03m left"),
        ({}, {}, 0, "2h00m left"),
        ({"expiresAt": "2026-12-01T12:00:45Z"}, {"phase": "Open"}, 0, "45s left"),
        ({"startsAt": "2026-12-01T12:03:00Z"}, {"phase": "Pending"}, 0, "opens in 3m"),
        ({}, {"phase": "Expired", "closedAt": "2026-12-01T14:00:00Z"}, 7500, "ended 5m ago"),
        ({"revoked": True}, {"phase": "Revoked", "closedAt": "2026-12-01T12:00:10Z"}, 20, "ended 10s ago"),
        ({"revoked": True}, {"phase": "Open"}, 20, "ended 0s ago"),
        ({}, {"phase": "Open"}, 7260, "ended 1m ago"),
        ({}, {"phase": "Rejected"}, 60, "not open"),
        ({}, {"phase": "Rejected"}, 7260, "ended 1m ago"),
    ],
)
def test_a_rule_says_how_long_it_lasts(spec: Any, status: Any, at: int, text: str) -> None:
    assert countdown(rule(status=status, **spec), NOW + at * SECOND) == text


@given(st.integers(min_value=-10_000, max_value=10_000))
def test_a_rule_has_ended_exactly_from_its_deadline_on(at: int) -> None:
    now = NOW + at * SECOND
    found = ended_at(rule(ttl="1h"), now)
    assert (found is not None) == (at >= 3600)
    assert countdown(rule(ttl="1h"), now).startswith("ended") == (at >= 3600)
