import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.runtime.visible import foreign, lines, visible, width


@given(st.text())
def test_nothing_is_left_that_a_terminal_obeys_or_overlays(text: str) -> None:
    shown = visible(text)
    assert all(c.isprintable() and unicodedata.category(c) not in ("Mn", "Me") for c in shown)


@given(st.text(st.characters(exclude_characters="<>\t")), st.text(st.characters(exclude_characters="<>\t")))
def test_texts_that_differ_look_different(one: str, other: str) -> None:
    assert (visible(one) == visible(other)) is (one == other)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text
    assert width(visible(text)) == len(text)
    assert foreign(text) == []


@pytest.mark.parametrize(
    "hidden",
    ["\u202e", "\u200b", "\ufeff", "\u00a0", "\u3164", "\u2800", "\ufe0f", "\U000e0101", "\x1b", "\r", "\u0336"],
)
def test_what_cannot_be_seen_is_named(hidden: str) -> None:
    assert visible(f"a{hidden}b") == f"a<U+{ord(hidden):04X}>b"


def test_lines_are_those_of_the_server_and_no_other_sign_ends_one() -> None:
    assert list(lines("a\r\nb\nc\rd\x0be\u2028f")) == ["a", "b", "c<U+000D>d<U+000B>e<U+2028>f"]


def test_a_letter_that_looks_like_another_is_named() -> None:
    assert foreign("DROP TABLE \u043erders, \u043e, caf\u00e9") == ["U+043E CYRILLIC SMALL LETTER O"]


def test_a_wide_character_takes_two_columns() -> None:
    assert width("a\u6771") == 3
