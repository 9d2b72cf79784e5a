from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.harness.builders import NOW, rule, server

from vaultbrix.api.meta import format_duration, parse_duration, rfc3339


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("45m", 2700),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1h1m1s", 3661),
        ("0s", 0),
        ("168h", 604800),
        ("7d", 604800),
        ("1d1h1m1s", 90061),
        ("200d", 17280000),
    ],
)
def test_durations_are_read_as_written(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "2", "h", "1m2h", "1.5h", "-1h", " 2h", "2h ", "2H", "d", "1h2d", "0.5d", "1w", "2h\n", None, 7]
)
def test_anything_else_is_refused_with_the_form_expected(text: object) -> None:
    with pytest.raises(ValueError, match="90s, 45m, 1h30m or 7d: whole numbers of d, h, m, s, in that order"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_survives_writing_and_reading(seconds: int) -> None:
    value = timedelta(seconds=seconds)
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (60, "1m"), (3600, "1h"), (5400, "1h30m"), (3601, "1h1s"), (90061, "25h1m1s")]
)
def test_a_duration_is_written_in_its_shortest_form(seconds: int, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_is_written_in_whole_seconds_of_utc(when: datetime) -> None:
    try:
        expected = when.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        return
    assert rfc3339(when).endswith("Z")
    assert datetime.fromisoformat(rfc3339(when)) == expected


def test_a_time_with_another_offset_is_the_same_moment() -> None:
    assert rule(expiresAt="2026-12-01T14:00:00+02:00").spec.expires_at == NOW


@pytest.mark.parametrize(
    "spec",
    [
        {"expiresAt": "9999-12-31T23:59:59-01:00"},
        {"expiresAt": "0001-01-01T00:00:00+01:00"},
        {"ttl": "9999999999999999h"},
        {"ttl": "99999999999999999999999999999s"},
    ],
    ids=str,
)
def test_a_time_beyond_the_calendar_makes_one_object_unreadable_and_stops_nobody(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rule(**spec)


def test_a_limit_beyond_the_calendar_makes_one_server_unreadable_and_stops_nobody() -> None:
    with pytest.raises(ValidationError):
        server(limits={"maxTTL": "9999999999999999h"})
