"""Approved text → what the approver is shown and what the gate in the database accepts.

PostgreSQL's own parser (pglast) reads the text; the rows for the gate are cut from the original bytes,
because clients choose how many statements go into one message: every contiguous run is one possible message.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pglast
from pglast.parser import ParseError, scan
from pglast.stream import RawStream

from vaultbrix.api.ddlapproval import MAX_SQL_BYTES, MAX_STATEMENTS, StatementSummary

# Statements that never ask for a pass: either their command tag is free, or no event trigger fires for them
# (PostgreSQL 40.2). The gate itself decides by command tag and denies by default; a statement missing here
# is only expected to use its part of the pass.
_FREE = frozenset(
    [
        "SelectStmt",
        "InsertStmt",
        "UpdateStmt",
        "DeleteStmt",
        "MergeStmt",
        "CreateStmt",
        "IndexStmt",
        "ViewStmt",
        "CommentStmt",
        "GrantStmt",
        "CreateFunctionStmt",
        "CreateTrigStmt",
        "CreateSeqStmt",
        "CreateEnumStmt",
        "CreateRangeStmt",
        "CompositeTypeStmt",
        "CreateTableAsStmt",
        "CreateStatsStmt",
        "CreateSchemaStmt",
        "CreateDomainStmt",
        "CreateCastStmt",
        "CreatePolicyStmt",
        "DefineStmt",
        "RefreshMatViewStmt",
        "VariableSetStmt",
        "VariableShowStmt",
        "ConstraintsSetStmt",
        "PrepareStmt",
        "ExecuteStmt",
        "DeallocateStmt",
        "ExplainStmt",
        "LockStmt",
        "NotifyStmt",
        "ListenStmt",
        "UnlistenStmt",
        "DeclareCursorStmt",
        "FetchStmt",
        "ClosePortalStmt",
        "DiscardStmt",
        "DoStmt",
        "CallStmt",
        "GrantRoleStmt",
        "CreateRoleStmt",
        "AlterRoleStmt",
        "AlterRoleSetStmt",
        "DropRoleStmt",
    ]
)

_NO_TRANSACTION_BLOCK = frozenset({"CreatedbStmt", "DropdbStmt", "CreateTableSpaceStmt", "DropTableSpaceStmt"})

# A tree of any text must be walked on the stack of one thread; longer statements are lists of rows, not DDL.
MAX_TOKENS = 5000

# Bidirectional controls and zero-width characters: what a person sees is not what the server reads (CVE-2021-42574).
_INVISIBLE = frozenset(
    "\u061c\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)

_COMMENTS = ("SQL_COMMENT", "C_COMMENT")

_TRIMMED = " ;\t\n\r\f"


@dataclass(frozen=True)
class Run:
    """A contiguous run of statements, 1-based and inclusive, and the hash the gate compares."""

    first: int
    last: int
    sha256: bytes


@dataclass(frozen=True)
class Plan:
    """Everything that is derived from a text that may be approved."""

    sha256: str
    statements: tuple[StatementSummary, ...]
    texts: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def gated(self) -> list[int]:
        """Positions of the statements that the gate will see."""
        return [s.position for s in self.statements if s.gated]


class RejectedText(ValueError):
    """The text cannot be approved; the message says where and why."""

    def __init__(self, message: str, *, syntax: bool = False) -> None:
        super().__init__(message)
        self.syntax = syntax


def normalise(text: str) -> str:
    """CRLF to LF, then white space and semicolons trimmed at both ends, as ``vaultbrix.norm`` does in SQL."""
    return text.replace("\r\n", "\n").strip(_TRIMMED)


def digest(text: str) -> bytes:
    """sha256 of the normalised text in UTF-8."""
    return hashlib.sha256(normalise(text).encode()).digest()


def plan(text: str) -> Plan:
    """Parse a text. Raises RejectedText with the place and the remedy when it cannot be approved."""
    _check_characters(text)
    try:
        scanned = scan(text)
        tokens = [t for t in scanned if t.name not in _COMMENTS]
        _check_length(tokens)
        slices = pglast.split(text, only_slices=True)
        trees = pglast.parse_sql(text)
    except ParseError as error:
        raise RejectedText(_located(text, error), syntax=True) from None
    if not slices:
        raise RejectedText("spec.sql holds no statement")
    if len(slices) > MAX_STATEMENTS:
        raise RejectedText(f"spec.sql holds {len(slices)} statements; at most {MAX_STATEMENTS} are allowed")
    _check_constants(text, tokens)
    bounds = _bounds(text, slices, tokens)
    texts = tuple(text[start:stop] for start, stop in bounds)
    try:
        statements = tuple(_summary(i, tree.stmt) for i, tree in enumerate(trees, 1))
    except RecursionError:
        raise RejectedText("spec.sql holds an expression that is nested too deeply; make it shorter") from None
    runs = [
        Run(a + 1, z + 1, digest(text[start : bounds[z][1]]))
        for a, starts in enumerate(_message_starts(bounds, scanned))
        for start in starts
        for z in range(a, len(slices))
    ]
    # The whole text as one message, with whatever comments stand before the first statement.
    runs.append(Run(1, len(slices), digest(text)))
    return Plan(digest(text).hex(), statements, texts, tuple(dict.fromkeys(runs)))


def _message_starts(bounds: list[tuple[int, int]], scanned: list[Any]) -> list[set[int]]:
    """Where a message may begin whose first statement is this one: at the statement, or at any comment before it.

    psql sends a C comment that stands before a statement but drops a ``--`` comment; others send both.
    """
    ends = [0, *(stop for _, stop in bounds)]
    return [
        {start, *(t.start for t in scanned if t.name in _COMMENTS and end <= t.start < start)}
        for end, (start, _) in zip(ends, bounds, strict=False)
    ]


def _check_characters(text: str) -> None:
    if len(text.encode()) > MAX_SQL_BYTES:
        raise RejectedText(f"spec.sql is longer than {MAX_SQL_BYTES} bytes")
    for line, content in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        for column, char in enumerate(content, 1):
            if char in _INVISIBLE or (char != "\t" and (ord(char) < 32 or 127 <= ord(char) < 160)):
                raise RejectedText(
                    f"spec.sql line {line}, column {column}: character U+{ord(char):04X} is invisible or "
                    "changes the direction of text; remove it"
                )


def _check_length(tokens: list[Any]) -> None:
    length = 0
    for token in tokens:
        length = 0 if token.name == "ASCII_59" else length + 1
        if length > MAX_TOKENS:
            raise RejectedText(f"spec.sql holds a statement of more than {MAX_TOKENS} words and signs; make it shorter")


def _bounds(text: str, slices: Sequence[slice], tokens: list[Any]) -> list[tuple[int, int]]:
    """Where each statement begins and ends: from its first token up to its semicolon, without blanks at the end.

    Not where pglast's slices end: they lose blanks that only Unicode knows, which PostgreSQL takes for letters.
    """
    limits = [*(s.start for s in slices[1:]), len(text)]
    found = []
    for s, limit in zip(slices, limits, strict=True):
        inside = [t for t in tokens if s.start <= t.start < limit]
        words = [t for t in inside if t.name != "ASCII_59"]
        stop = next((t.start for t in inside if t.start > words[-1].start), limit)
        found.append((words[0].start, len(text[:stop].rstrip(_TRIMMED))))
    return found


def _check_constants(text: str, tokens: list[Any]) -> None:
    # standard_conforming_strings is the tenant's to set, and it changes how such a constant is read.
    for token in tokens:
        piece = text[token.start : token.end + 1]
        if token.name == "SCONST" and piece[:1] in ("'", "n", "N") and "\\" in piece:
            line = text.count("\n", 0, token.start) + 1
            raise RejectedText(
                f"spec.sql line {line}: a plain '...' constant holds a backslash; write E'...' and double it"
            )


def _summary(position: int, tree: Any) -> StatementSummary:
    node = type(tree).__name__
    if node == "TransactionStmt":
        raise RejectedText(
            f"statement {position} controls the transaction; leave it out: the text runs in one transaction"
        )
    if node == "VariableSetStmt" and tree.name in ("role", "session_authorization"):
        raise RejectedText(f"statement {position} changes the role; the text runs as the tenant")
    if node == "CopyStmt":
        raise RejectedText(f"statement {position}: COPY cannot be part of an approval")
    if _outside_transaction(tree):
        raise RejectedText(
            f"statement {position} cannot run inside a transaction block, where an approved text runs; "
            "leave out CONCURRENTLY"
        )
    shown: str = RawStream()(tree)
    tag = " ".join(shown.split()[:2]).upper()
    return StatementSummary(position=position, tag=tag[:64], gated=node not in _FREE, sql=shown[:1024])


def _outside_transaction(tree: Any) -> bool:
    """Whether PostgreSQL refuses the statement inside a transaction block."""
    match type(tree).__name__:
        case "VacuumStmt":
            return bool(tree.is_vacuumcmd)
        case "ReindexStmt":
            whole = tree.kind.name in ("REINDEX_OBJECT_SCHEMA", "REINDEX_OBJECT_SYSTEM", "REINDEX_OBJECT_DATABASE")
            return whole or any(option.defname == "concurrently" for option in tree.params or ())
        case "AlterTableStmt":
            return any(getattr(command.def_, "concurrent", False) for command in tree.cmds)
        case "IndexStmt" | "DropStmt":
            return bool(tree.concurrent)
        case node:
            return node in _NO_TRANSACTION_BLOCK


def _located(text: str, error: ParseError) -> str:
    message = str(error.args[0]) if error.args else "syntax error"
    offset = _offset(text, error)
    if offset is None:
        return f"spec.sql: {message}"
    line = text.count("\n", 0, offset) + 1
    column = offset - (text.rfind("\n", 0, offset) + 1) + 1
    return f"spec.sql line {line}, column {column}: {message}"


def _offset(text: str, error: ParseError) -> int | None:
    # pglast takes the parser's position, which counts characters, for one in bytes. A letter for each character
    # beyond ASCII, which the lexer reads alike, makes both the same.
    try:
        pglast.parse_sql("".join(c if c.isascii() else "x" for c in text))
    except ParseError as same:
        error = same
    return error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else None
