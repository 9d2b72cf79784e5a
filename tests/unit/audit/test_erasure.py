"""Which rows events of erasure cover: exactly those that they name."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.audit.erasure import Place, covered, dropped, dropped_early, places

PART = "record 2026-11-28 400"

rows = st.sets(st.tuples(st.sampled_from(["main", "other"]), st.integers(1, 4), st.integers(0, 30)))


def redacted(*rows: tuple[str, int, str, list[list[int]]]) -> dict[str, Any]:
    return {"version": 1, "request": "r", "by": "person", "reason": "x", "rows": [*map(list, rows)], "unsealed": 0}


@given(rows, st.lists(st.integers(0, 3), min_size=1))
def test_exactly_the_rows_that_are_named_are_covered(wanted: set[tuple[str, int, int]], lots: list[int]) -> None:
    details: dict[int, list[tuple[str, int, str, list[list[int]]]]] = {}
    for number, (server, batch, index) in enumerate(sorted(wanted, key=str)):
        details.setdefault(lots[number % len(lots)], []).append((server, batch, PART, [[index, index]]))
    found = covered(redacted(*lot) for lot in details.values())
    assert len(found) == len(wanted)
    for server in ("main", "other"):
        for batch in range(1, 6):
            for index in range(32):
                assert ((server, batch, PART, index) in found) == ((server, batch, index) in wanted)
    assert ("main", 1, "quarantine", 0) not in found


def test_runs_hold_both_ends_and_may_overlap() -> None:
    found = covered([redacted(("main", 1, PART, [[2, 4], [9, 9]])), redacted(("main", 1, PART, [[3, 6]]))])
    assert [index for index in range(12) if ("main", 1, PART, index) in found] == [2, 3, 4, 5, 6, 9]


def test_a_dropped_part_is_gone_up_to_the_batch_that_is_named_and_no_further() -> None:
    details = [
        {"version": 1, "part": PART, "rows": 5, "through": {"main": 7, "other": 2}},
        {"version": 1, "part": PART, "rows": 1, "through": {"main": 9}},
    ]
    found = dropped(details)
    assert [batch for batch in range(1, 12) if ("main", batch, PART) in found] == list(range(1, 10))
    assert [batch for batch in range(1, 12) if ("other", batch, PART) in found] == [1, 2]
    assert ("main", 1, "record 2026-11-28 90") not in found
    assert ("third", 1, PART) not in found


@pytest.mark.parametrize(
    "detail",
    [{}, {"version": 2, "rows": []}, {"version": 1, "rows": [["main", "1", PART, []]]}, {"version": 1, "rows": [7]},
     {"version": 1, "rows": [["main", 1, PART, [[0]]]]}],
)  # fmt: skip
def test_what_is_not_of_the_shape_covers_nothing_and_is_told(detail: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="redacted"):
        covered([detail])
    with pytest.raises(ValueError, match="expired"):
        dropped([{**detail, "through": {"main": "7"}}])
    for part in (
        {},
        {"part": 7},
        {"part": "record"},
        {"part": "record x 1"},
        {"part": f"record 2026-01-01 {'9' * 20}"},
    ):
        with pytest.raises(ValueError, match="expired"):
            dropped_early({**detail, **part}, datetime.now(UTC))


@pytest.mark.parametrize(
    ("part", "at", "early"),
    [
        ("record 2026-01-01 1", datetime(2026, 1, 2, 23, 59, tzinfo=UTC), True),
        ("record 2026-01-01 1", datetime(2026, 1, 3, tzinfo=UTC), False),
        ("record 2026-01-01", datetime(2026, 12, 1, tzinfo=UTC), True),
    ],
)
def test_a_partition_is_early_until_its_last_record_is_old_enough(part: str, at: datetime, early: bool) -> None:
    assert dropped_early({"part": part}, at) is early


def test_places_come_from_what_query_prints() -> None:
    text = (
        '{"session_id": "6b0.1", "line_num": 3, "statement": ""}\n\n{"server": "b", "session_id": "x", "line_num": 1}'
    )
    assert places(text, "a") == [Place("a", "6b0.1", 3), Place("b", "x", 1)]
    for wrong in ("[]", "no", '{"session_id": "a"}', '{"session_id": "a", "line_num": "1"}'):
        with pytest.raises(ValueError, match="line 2"):
            places(f"\n{wrong}", "a")
