"""The text of a key, against a second opinion that shares no code with the product."""

import binascii
import hashlib
import re
from base64 import urlsafe_b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.api.apikey import KeyEntry, KeyKind
from vaultbrix.dataapi.key import RANDOM_BYTES, key_text, kind_of, secret_values, sha256_of, shown_prefix

KINDS = st.sampled_from(KeyKind)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)

# What is given to scanners for secrets (docs/api-keys.md).
FORM = re.compile(r"vbx_(publishable|secret)_[A-Za-z0-9_-]{43}[A-Za-z0-9_-]{6}")


@given(KINDS, RANDOM)
def test_a_key_has_the_form_that_scanners_look_for_and_holds_all_its_random_bytes(kind: KeyKind, random: bytes) -> None:
    text = key_text(kind, random)
    match = FORM.fullmatch(text)
    assert match
    assert match[1] == kind.lower()
    body, checksum = text[:-6], text[-6:]
    assert urlsafe_b64decode(body[-43:] + "=") == random
    assert int.from_bytes(urlsafe_b64decode(checksum + "==")) == binascii.crc32(body.encode())
    assert kind_of(text) is kind


@given(KINDS, RANDOM, st.data())
def test_no_other_character_anywhere_makes_a_key(kind: KeyKind, random: bytes, data: st.DataObject) -> None:
    text = key_text(kind, random)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda c: c != text[place]))
    assert kind_of(text[:place] + other + text[place + 1 :]) is None


@given(KINDS, RANDOM, st.text(min_size=1, max_size=5))
def test_a_key_with_something_around_it_is_none(kind: KeyKind, random: bytes, more: str) -> None:
    text = key_text(kind, random)
    assert kind_of(text + more) is None
    assert kind_of(more + text) is None
    assert kind_of(text[: -len(more)]) is None


@given(st.text())
def test_no_text_is_taken_for_a_key_by_chance_and_none_raises(text: str) -> None:
    assert kind_of(text) is None
    assert kind_of(f"vbx_secret_{text}") is None
    assert kind_of("vbx_secret_" + text.ljust(49, "A")[:49]) is None


@given(KINDS, RANDOM)
def test_what_is_known_of_a_key_fits_into_a_status_and_does_not_tell_it(kind: KeyKind, random: bytes) -> None:
    text = key_text(kind, random)
    assert sha256_of(text) == hashlib.sha256(text.encode("ascii")).hexdigest()
    entry = KeyEntry(sha256=sha256_of(text), prefix=shown_prefix(text), created_at="2026-12-01T12:00:00Z")  # type: ignore[arg-type]
    assert text.startswith(entry.prefix)
    assert len(entry.prefix) == 20
    # What is left to guess, in characters of six bits.
    assert len(text) - 6 - len(entry.prefix) >= 33


@given(RANDOM, RANDOM)
def test_other_bytes_make_another_key(one: bytes, other: bytes) -> None:
    assert (key_text(KeyKind.SECRET, one) == key_text(KeyKind.SECRET, other)) is (one == other)


@pytest.mark.parametrize("count", [0, 16, 31, 33])
def test_fewer_or_more_bytes_make_no_key(count: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        key_text(KeyKind.SECRET, bytes(count))


def test_the_secret_says_where_the_api_is_only_where_that_is_known() -> None:
    assert secret_values("k", KeyKind.PUBLISHABLE, "") == {"key": "k", "kind": "Publishable"}
    assert secret_values("k", KeyKind.SECRET, "https://api.example.com")["url"] == "https://api.example.com"
