"""What of PostgreSQL's error is told to who asked for a change: what would be lost, by name, and no row."""

from typing import Any

import pytest

from vaultbrix.ddl.job.message import LONGEST_MESSAGE, describe

HASH = "sha256(normalised text) = " + "a" * 64


@pytest.mark.parametrize(
    ("state", "detail", "told"),
    [
        ("VBX01", f"{HASH}; it would lose table s.a, type s.a", "no; it would lose table s.a, type s.a"),
        ("VBX01", f"{HASH}; issued inside a function; it would empty table s.a",
         "no; issued inside a function; it would empty table s.a"),
        ("VBX01", HASH, "no"),
        ("VBX01", "sha256(normalised text) = none", "no"),
        ("VBX01", None, "no"),
        ("2BP01", "view v depends on table a\nview w depends on view v",
         "no; view v depends on table a, view w depends on view v"),
        ("23505", "Key (email)=(jane@example.com) already exists.", "no"),
        ("", None, "no"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_told_and_values_of_rows_are_not(state: str, detail: Any, told: str) -> None:
    assert describe(state, "no", detail) == told


def test_a_message_fits_where_it_is_kept() -> None:
    assert len(describe("2BP01", "no", "view v depends on table a\n" * 100)) == LONGEST_MESSAGE
