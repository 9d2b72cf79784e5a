"""Sets of an archive that follow each other: one that is missing between them is not missing unseen."""

from datetime import date

import pytest
from tests.harness.builders import NOW

from vaultbrix.audit.archive.check import Link, Report, check_days
from vaultbrix.audit.archive.manifest import FORMAT, Manifest

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))


def of_day(day: int, begin: Link, end: Link) -> Report:
    """A set without findings that holds batches ``begin`` to ``end`` of server main."""
    found = Manifest(FORMAT, date(2026, 12, day), 1, NOW, "", (), {}, ())
    return Report(found, begins={"main": begin}, ends={"main": end})


FIRST, SECOND, THIRD = (
    of_day(1, Link(1, bytes(32)), Link(4, A)),
    of_day(2, Link(5, A), Link(9, B)),
    of_day(3, Link(10, B), Link(12, C)),
)


def test_sets_that_follow_each_other_hold_in_any_order() -> None:
    assert check_days([THIRD, FIRST, SECOND]) == []


@pytest.mark.parametrize(
    ("sets", "place", "what"),
    [
        ([FIRST, THIRD], (3, 10), "batches 5 to 9 are in no set given"),
        (
            [FIRST, of_day(2, Link(5, C), Link(9, B)), THIRD],
            (2, 5),
            "does not follow day=2026-12-01/set=1/manifest.json",
        ),
    ],
)
def test_a_set_that_is_missing_or_exchanged_is_named(sets: list[Report], place: tuple[int, int], what: str) -> None:
    (finding,) = check_days(sets)
    assert (finding.file, finding.batch, finding.what) == (
        f"day=2026-12-0{place[0]}/set=1/manifest.json",
        place[1],
        what,
    )
