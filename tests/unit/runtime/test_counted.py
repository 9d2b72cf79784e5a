import re
from pathlib import Path

import pytest

from vaultbrix.runtime.counted import counted, verb

OPERATOR = Path(__file__).resolve().parents[3] / "operator/vaultbrix"
# A noun of many right after a number that is put in: "{count} rows" says "1 rows" of one.
NOUNS = "statement|row|record|event|partition|day|object|session|rule|line|byte|batche|tenant|field|request"
BY_HAND = re.compile(rf"\{{[^{{}}]*\}} (?:quarantined )?(?:{NOUNS})s\b")


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12_345, "12,345 rows")])
def test_one_is_not_told_as_many(number: int, text: str) -> None:
    assert counted(number, "row") == text


def test_a_noun_may_have_another_plural_and_the_verb_follows_the_number() -> None:
    assert [f"{counted(n, 'batch', 'batches')} {verb(n, 'is', 'are')}" for n in (1, 2)] == [
        "1 batch is",
        "2 batches are",
    ]


def test_the_command_line_counts_nothing_by_hand() -> None:
    found = [
        f"{path.relative_to(OPERATOR)}: {match[0]}"
        for path in sorted((OPERATOR / "cli").rglob("*.py"))
        for match in BY_HAND.finditer(path.read_text())
    ]
    assert not found
