"""Shows the text of strangers to those who decide on it: no character is hidden or drawn over another. Pure."""

import unicodedata
from collections.abc import Iterator

# Beyond what str.isprintable knows: letters and signs that are drawn as nothing (Unicode's Default_Ignorable_Code_Point
# and the blank of Braille).
_BLANK = frozenset(
    chr(code)
    for first, last in ((0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800),
                        (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF))
    for code in range(first, last + 1)
)  # fmt: skip

# Drawn over the character before.
_COMBINING = ("Mn", "Me")

TAB = " " * 4


def visible(line: str) -> str:
    """One line with every character that cannot be seen as ``<U+202E>``, tabs as four blanks."""
    return "".join(_drawn(character) for character in line)


def lines(text: str) -> Iterator[str]:
    """Lines as an SQL client counts them, each as ``visible``."""
    return (visible(line) for line in text.replace("\r\n", "\n").split("\n"))


def foreign(text: str) -> list[str]:
    """Characters that are neither ASCII nor Latin, by code and name, each once: some look like others."""
    characters = dict.fromkeys(c for c in text if not c.isascii() and not unicodedata.name(c, "").startswith("LATIN "))
    return [f"U+{ord(c):04X} {unicodedata.name(c, 'without a name')}" for c in characters]


def width(text: str) -> int:
    """Columns that visible text takes on a terminal (UAX 11)."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _drawn(character: str) -> str:
    if character == "\t":
        return TAB
    hidden = character in _BLANK or not character.isprintable() or unicodedata.category(character) in _COMBINING
    return f"<U+{ord(character):04X}>" if hidden else character
