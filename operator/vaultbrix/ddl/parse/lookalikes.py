"""Names that an approver may take for others."""

import unicodedata
from collections.abc import Iterable
from typing import Any

_CONSTANTS = ("SCONST", "USCONST", "BCONST", "XCONST")

# Scripts that are written together in one word.
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK", "KATAKANA-HIRAGANA": "CJK"}

# Letters of other scripts that are drawn as Latin ones.
_LIKE_LATIN = frozenset("авекмнорстухіјѕԁԛԝһАВЕКМНОРСТУХІЈЅԌԚԜҺЗҮүοаιϲϳνρυΑΒΕΖΗΙΚΜΝΟΡΤΥΧաոսօց")


def notes(text: str, tokens: Iterable[Any]) -> list[str]:
    """A note for each name that mixes scripts, or that is drawn like a name of other characters."""
    notes: dict[str, None] = {}
    for token in tokens:
        if token.name in _CONSTANTS:
            continue
        name = text[token.start : token.end + 1]
        if not name.isascii():
            char = _odd(name)
            if char:
                shown = name if len(name) <= 63 else name[:62] + "…"
                title = unicodedata.name(char, "unnamed")
                notes[f"name {shown} holds U+{ord(char):04X} {title}: read it letter by letter"] = None
    return list(notes)


def _odd(name: str) -> str:
    """The character that gives it away; empty for a name that looks like what it is."""
    letters = [char for char in name if not char.isascii()]
    for char in letters:
        if unicodedata.category(char) == "Zs" or unicodedata.normalize("NFKC", char) != char:
            return char
    if unicodedata.normalize("NFC", name) != name:
        return next(char for char in letters if unicodedata.category(char).startswith("M") or char)
    scripts = {_script(char): char for char in reversed(name) if char.isalpha()}
    if len(scripts) > 1:
        return next(char for char in letters if char.isalpha() and _script(char) != "LATIN")
    if scripts and all(char in _LIKE_LATIN for char in name if char.isalpha()):
        return letters[0]
    return ""


def _script(char: str) -> str:
    word = unicodedata.name(char, "UNKNOWN").split()[0]
    return _TOGETHER.get(word, word)
