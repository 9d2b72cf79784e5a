"""What the text itself must be: readable as the server reads it, bounded, and SQL rather than psql's language."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pglast
from pglast.parser import ParseError, scan

from vaultbrix.api.ddlapproval import MAX_SQL_BYTES, MAX_STATEMENTS

# A tree of any text must be walked on the stack of one thread; longer statements are lists of rows, not DDL.
MAX_TOKENS = 5000

# The text of all statements together; each word costs about 50 µs.
MAX_ALL_TOKENS = 50_000

# PostgreSQL's lexer reads a row of these signs once for each sign in it.
MAX_SIGNS = 1000
_SIGNS = re.compile(r"(?<![~!@#^&|`?+\-*/%<>=])[~!@#^&|`?+\-*/%<>=]{1001,}")

# pglast looks each place up in a list of the characters beyond ASCII: words times such characters.
MAX_EFFORT = 100_000_000
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# The lexer takes every character beyond ASCII for a letter of a name. Tags of quotes are compared, so theirs count.
_FOREIGN_TAG = re.compile(r"\$(?=[\w\x80-\U0010ffff]*[^\x00-\x7f])[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*\$")

TRIMMED = " ;\t\n\r\f"

COMMENTS = ("SQL_COMMENT", "C_COMMENT")

# Beside Unicode's own formatting characters, those that are drawn as nothing, or as a blank that is a letter.
_UNSEEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0\u2028\u2029"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
_SUSPECT = re.compile(r"[^\t\n\x20-\x7e]")

_COPY_DATA = re.compile(r"\bCOPY\b[^;]{0,999}\bFROM\s{1,99}STDIN\b", re.IGNORECASE)


class RejectedText(ValueError):
    """The text cannot be approved; the message says where and why."""

    def __init__(self, message: str, *, syntax: bool = False) -> None:
        super().__init__(message)
        self.syntax = syntax


@dataclass(frozen=True)
class Piece:
    """One statement of a text: from its first token up to its semicolon, without blanks at the end."""

    start: int
    stop: int
    tokens: tuple[Any, ...]
    comments: tuple[int, ...]
    c_comment: int | None
    tree: Any


def place(text: str, offset: int) -> str:
    """Where that is for the eye: 1-based line and column of spec.sql."""
    column = offset - (text.rfind("\n", 0, offset) + 1) + 1
    return f"spec.sql line {line(text, offset)}, column {column}"


def line(text: str, offset: int) -> int:
    """The 1-based line of that place."""
    return text.count("\n", 0, offset) + 1


def as_ascii(text: str) -> str:
    """A text of as many characters that the lexer cuts alike, and for which pglast needs no table of places.

    The letter begins no constant, as b, e, n, u and x do before a quote, and is no digit, as x and b are after a 0.
    """
    return _NOT_ASCII.sub("z", text)


def pieces(text: str) -> list[Piece]:
    """The statements of a text. Raises RejectedText for one that is no bounded list of SQL statements."""
    _check_characters(text)
    _check_signs(text)
    try:
        scanned = scan(as_ascii(text))
        tokens = [t for t in scanned if t.name not in COMMENTS]
        _check_length(text, tokens)
        slices = pglast.split(text, only_slices=True)
        _check_count(slices)
        _check_constants(text, tokens)
        return _cut(text, slices, scanned)
    except ParseError as error:
        raise _explained(text, error) from None


def _check_count(slices: Sequence[slice]) -> None:
    if not slices:
        raise RejectedText("spec.sql holds no statement; write at least one, separated by semicolons")
    if len(slices) > MAX_STATEMENTS:
        raise RejectedText(
            f"spec.sql holds {len(slices)} statements; at most {MAX_STATEMENTS} are allowed; "
            "split it into several DDLApprovals"
        )


def _check_characters(text: str) -> None:
    # A surrogate has no bytes of its own; it is found below.
    if len(text.encode(errors="replace")) > MAX_SQL_BYTES:
        raise RejectedText(f"spec.sql is longer than {MAX_SQL_BYTES} bytes; split it into several DDLApprovals")
    for match in _SUSPECT.finditer(text):
        char, offset = match.group(), match.start()
        if char == "\r" and text[offset + 1 : offset + 2] == "\n":
            continue
        why = _objection(char)
        if why:
            raise RejectedText(f"{place(text, offset)}: character U+{ord(char):04X} {why}; remove it")


def _check_signs(text: str) -> None:
    signs = _SIGNS.search(text)
    if signs:
        raise RejectedText(
            f"{place(text, signs.start())}: more than {MAX_SIGNS} signs such as * or - in a row; make it shorter"
        )
    tag = _FOREIGN_TAG.search(text)
    if tag:
        raise RejectedText(
            f"{place(text, tag.start())}: {_clipped(tag.group())} looks like a quote whose tag is not ASCII; rename it"
        )


def _clipped(words: str) -> str:
    return words if len(words) <= 64 else words[:63] + "…"


def _objection(char: str) -> str:
    category = unicodedata.category(char)
    if char == "\0":
        return "is a NUL byte, which PostgreSQL cannot store"
    if category == "Cs":
        return "is half of a character"
    if category == "Cc":
        return "is a control character, which is invisible"
    if category in ("Cf", "Zl", "Zp") or char in _UNSEEN:
        return "is invisible or changes the direction of text"
    return ""


def _check_length(text: str, tokens: list[Any]) -> None:
    if len(tokens) > MAX_ALL_TOKENS:
        raise RejectedText(
            f"spec.sql holds more than {MAX_ALL_TOKENS} words and signs; split it into several DDLApprovals"
        )
    length = 0
    for token in tokens:
        length = 0 if token.name == "ASCII_59" else length + 1
        if length > MAX_TOKENS:
            raise RejectedText(
                f"{place(text, token.start)}: the statement has more than {MAX_TOKENS} words and signs; make it shorter"
            )


def _check_constants(text: str, tokens: list[Any]) -> None:
    # standard_conforming_strings is the tenant's to set, and it changes how such a constant is read.
    for token in tokens:
        piece = text[token.start : token.end + 1]
        if token.name == "SCONST" and piece[:1] in ("'", "n", "N") and "\\" in piece:
            raise RejectedText(
                f"{place(text, token.start)}: a plain '...' constant holds a backslash; write E'...' and double it"
            )


def _cut(text: str, slices: Sequence[slice], scanned: list[Any]) -> list[Piece]:
    # Not where pglast's slices end: they lose blanks that only Unicode knows, which PostgreSQL takes for letters.
    starts = [token.start for token in scanned]
    limits = [*(_end(scanned, bisect_left(starts, s.start), s.start) for s in slices[1:]), len(text)]
    statements = []
    effort = 0
    at = 0
    for limit in limits:
        inside = scanned[at : bisect_left(starts, limit)]
        at += len(inside)
        words = [t for t in inside if t.name not in (*COMMENTS, "ASCII_59")]
        before = [t for t in inside if t.name in COMMENTS and t.start < words[0].start]
        # A body of BEGIN ATOMIC holds semicolons of its own: the last word counts.
        stop = next((t.start for t in inside if t.name == "ASCII_59" and t.start > words[-1].start), limit)
        start, stop = words[0].start, len(text[:stop].rstrip(TRIMMED))
        effort += len(words) * sum(map(len, _NOT_ASCII.findall(text, start, stop)))
        if effort > MAX_EFFORT:
            raise RejectedText(
                f"{place(text, start)}: the statement holds too many characters beyond ASCII for its length; "
                "split it into several"
            )
        c_comment = next((t.start for t in before if t.name == "C_COMMENT"), None)
        statements.append(
            Piece(start, stop, tuple(words), tuple(t.start for t in before), c_comment, _parsed(text, start, stop))
        )
    return statements


def _end(scanned: Sequence[Any], count: int, following: int) -> int:
    """Where a statement is over: behind its semicolon, as comments are the next one's. ``count`` tokens come before."""
    end = following
    for token in reversed(scanned[:count]):
        if token.name == "ASCII_59":
            end = token.end + 1
        elif token.name not in COMMENTS:
            break
    return end


def _parsed(text: str, start: int, stop: int) -> Any:
    trees = pglast.parse_sql(text[start:stop])
    if len(trees) != 1:
        raise RejectedText(f"{place(text, start)}: where the statement ends is not clear; write it in another way")
    return trees[0].stmt


def _explained(text: str, error: ParseError) -> RejectedText:
    message = _message(error)
    offset = _offset(text, error)
    if offset is None:
        return RejectedText(f"spec.sql: {message}", syntax=True)
    where = place(text, offset)
    copy = _COPY_DATA.search(text, 0, offset)
    if copy:
        return RejectedText(
            f"{place(text, copy.start())}: COPY FROM STDIN is followed by data, which is no SQL; "
            "load rows through a connection of the tenant's own",
            syntax=True,
        )
    if text[offset : offset + 1] == "\\":
        command = text[offset:].split(maxsplit=1)[0][:32]
        return RejectedText(
            f"{where}: {command} is a command of psql, not SQL; leave it out, or write what it stands for", syntax=True
        )
    if text[offset : offset + 1] == ":" and re.match(r":['\"]?\w", text[offset:]):
        return RejectedText(f"{where}: variables are psql's, not SQL; write the value instead", syntax=True)
    return RejectedText(f"{where}: {message}", syntax=True)


def _message(error: ParseError) -> str:
    message = str(error.args[0]) if error.args else "syntax error"
    return message if len(message) <= 200 else message[:199] + "…"


def _offset(text: str, error: ParseError) -> int | None:
    # pglast takes the parser's position, which counts characters, for one in bytes. A letter for each character
    # beyond ASCII, which the lexer reads alike, makes both the same.
    try:
        pglast.parse_sql(as_ascii(text))
    except ParseError as same:
        error = same
    return error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else None
