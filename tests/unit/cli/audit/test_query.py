"""Times, tenants' names, slices of time, CSV and JSON lines of ``vaultbrix audit query``."""

import csv
import io
import json
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import NOW

from vaultbrix.audit.query import Filter, named, slices
from vaultbrix.cli.audit.query import Options, moment, network
from vaultbrix.cli.audit.statements import csv_line, json_line

DAY = timedelta(days=1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026-11-24T22:55:00", datetime(2026, 11, 24, 22, 55, tzinfo=UTC)),
        ("2026-11-24T22:55:00Z", datetime(2026, 11, 24, 22, 55, tzinfo=UTC)),
        ("2026-11-24T23:55:00+01:00", datetime(2026, 11, 24, 22, 55, tzinfo=UTC)),
        ("2026-11-24", datetime(2026, 11, 24, tzinfo=UTC)),
        ("90m", NOW - timedelta(minutes=90)),
        ("168h", NOW - timedelta(days=7)),
        ("7d", NOW - timedelta(days=7)),
        ("1d12h", NOW - timedelta(hours=36)),
    ],
)
def test_a_time_is_in_utc_unless_it_says_otherwise_or_so_long_ago(text: str, found: datetime) -> None:
    assert moment("--since", text, NOW) == found


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-02-30", "1", "-1h", "0s", "0001-01-01", "9999-12-31T23:59:59", "9e9h"]
)
def test_what_is_no_time_ends_with_2(text: str) -> None:
    with pytest.raises(typer.Exit) as ended:
        moment("--since", text, NOW)
    assert ended.value.exit_code == 2


@given(texts)
def test_no_text_is_a_time_by_accident_or_breaks_the_command(text: str) -> None:
    try:
        assert moment("--since", text, NOW).tzinfo is not None
    except typer.Exit as ended:
        assert ended.exit_code == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [("203.0.113.7", "203.0.113.7/32"), ("203.0.113.7/24", "203.0.113.0/24"), ("2001:db8::7", "2001:db8::7/128")],
)
def test_an_address_is_a_cidr_of_one(text: str, found: str) -> None:
    assert network(text) == found


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4/33", "::1/129", "host", "1.2.3.4'"])
def test_what_is_no_address_ends_with_2(text: str) -> None:
    with pytest.raises(typer.Exit) as ended:
        network(text)
    assert ended.value.exit_code == 2


def test_a_key_is_found_with_its_namespace_or_without() -> None:
    found = Options(key="team/web").filter(NOW)
    assert (found.authorization, found.key) == ("key:team/web", None)
    found = Options(key="web").filter(NOW)
    assert (found.authorization, found.key) == (None, "web")


def test_no_record_has_a_key_and_a_rule() -> None:
    with pytest.raises(typer.Exit) as ended:
        Options(key="web", rule="team/jane").filter(NOW)
    assert ended.value.exit_code == 2


def test_without_a_time_it_is_the_last_day_and_what_a_fast_clock_wrote() -> None:
    found = Options().filter(NOW)
    assert (found.since, found.until) == (NOW - DAY, NOW + DAY)
    found = Options(until="2026-11-02").filter(NOW)
    assert (found.since, found.until) == (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC))


@given(st.sets(st.integers(0, 40)), st.integers(0, 40 * 24), st.integers(1, 40 * 24), st.booleans())
def test_slices_are_the_time_without_overlap_where_there_are_days(
    numbers: set[int], start: int, length: int, by_text: bool
) -> None:
    first = datetime(2026, 1, 1, tzinfo=UTC)
    days = [(first + number * DAY).date() for number in sorted(numbers)]
    since = first + timedelta(hours=start)
    wanted = Filter(since, since + timedelta(hours=length), text="x" if by_text else None)
    found = slices(days, wanted)
    hours = [begin + timedelta(hours=n) for begin, end in found for n in range(int((end - begin) / timedelta(hours=1)))]
    assert hours == [at for n in range(length) if (at := since + timedelta(hours=n)).date() in days]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("team/acme", ["team/acme", "team/acme, team/b"]),
        ("acme", ["team/acme", "team/acme, team/b", "x/acme"]),
        ("b", ["team/acme, team/b"]),
        ("team", []),
        ("", []),
        ("acm", []),
    ],
)
def test_a_tenant_is_named_whole_or_without_its_namespace(wanted: str, found: list[str]) -> None:
    assert named(["team/acme", "team/acme, team/b", "x/acme", "team/acme2"], wanted) == found


@given(st.lists(texts, min_size=1, max_size=5))
def test_csv_comes_back_and_no_cell_begins_as_a_formula_does(cells: list[str]) -> None:
    (found,) = csv.reader(io.StringIO(csv_line(cells), newline=""))
    formulas = tuple("=+-@\t\r")
    assert found == [f"'{cell}" if cell.startswith(formulas) else cell for cell in cells]


@given(texts)
def test_json_is_one_line_that_comes_back_and_no_terminal_obeys(text: str) -> None:
    line = json_line({"statement": text, "at": NOW})
    assert json.loads(line) == {"statement": text, "at": NOW.isoformat()}
    assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]
