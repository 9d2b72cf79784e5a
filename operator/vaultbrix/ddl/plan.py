"""Approved text → what the approver is shown and what the gate in the database accepts.

PostgreSQL's own parser (pglast) reads the text; the rows for the gate are cut from the original bytes,
because clients choose how many statements go into one message: every contiguous run is one possible message.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pglast.parser import DeparseError, ParseError, deparse_protobuf, parse_sql_protobuf

from vaultbrix.api.ddlapproval import ExecutionError, StatementSummary
from vaultbrix.ddl.parse import leftovers, lookalikes, names, queries, runs, statements, tags, temporary, text
from vaultbrix.ddl.parse.effect import Effect
from vaultbrix.ddl.parse.nodes import ast
from vaultbrix.ddl.parse.refused import control, refusal
from vaultbrix.ddl.parse.runs import Run, digest, normalise
from vaultbrix.ddl.parse.text import Piece, RejectedText
from vaultbrix.ddl.parse.trees import Call

__all__ = ["Plan", "RejectedText", "Run", "digest", "normalise", "plan"]

MAX_OBJECTS = 32
MAX_NAME = 255
MAX_NOTES = 16
MAX_ALIKE = 4

# Schemas that a tenant's names may lead to and that are nobody's.
_COMMON_SCHEMAS = frozenset({"pg_catalog", "pg_temp", "information_schema"})


@dataclass(frozen=True)
class Plan:
    """Everything that is derived from a text that may be approved.

    ``nested``: positions of statements in which DDL may run that the text does not show (DO, CALL, functions). They
    are not gated by themselves; with ``allow_nested`` they use the pass when DDL runs in them. ``left``: of each
    statement, what it may have left when it was cut short outside a transaction, in words; empty for nothing.
    """

    sha256: str
    statements: tuple[StatementSummary, ...]
    texts: tuple[str, ...]
    nested: tuple[int, ...]
    left: tuple[str, ...]
    _text: str = field(repr=False)
    _pieces: tuple[Piece, ...] = field(repr=False)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every message that the gate lets through; made anew each time, as there may be tens of thousands."""
        return tuple(runs.runs(self._text, self._pieces))

    @property
    def gated(self) -> list[int]:
        """Positions of the statements that the gate will see."""
        return [s.position for s in self.statements if s.gated]

    @property
    def transactional(self) -> bool:
        """Whether all of it can run in one transaction."""
        return all(s.transactional for s in self.statements)

    @property
    def additive(self) -> bool:
        """Whether a Tenant whose ddlPolicy approves additive changes needs no approval for it."""
        return all(s.additive for s in self.statements)

    def placed(self, error: ExecutionError) -> ExecutionError:
        """An error of a statement of the text, with the line in which the statement begins."""
        if not 0 < error.statement <= len(self.statements):
            return error
        return error.model_copy(update={"line": self.statements[error.statement - 1].line})


def plan(sql: str, *, schema: str | None = None) -> Plan:
    """Parse a text; ``schema`` is the tenant's own, and names of another are noted.

    Raises RejectedText, and nothing else, with the place and the remedy when the text cannot be approved.
    """
    pieces = tuple(text.pieces(sql))
    called = [queries.functions(piece.tree) for piece in pieces]
    for position, (piece, calls) in enumerate(zip(pieces, called, strict=True), 1):
        why = refusal(piece.tree, calls)
        if why:
            raise RejectedText(f"{text.place(sql, piece.start)}: statement {position} {why}{_alike(pieces, position)}")
    summaries = tuple(_summary(sql, n, pieces, calls, schema) for n, calls in enumerate(called, 1))
    return Plan(
        sha256=digest(sql).hex(),
        statements=summaries,
        texts=tuple(sql[piece.start : piece.stop] for piece in pieces),
        nested=tuple(
            n
            for n, (piece, calls) in enumerate(zip(pieces, called, strict=True), 1)
            if queries.is_nested(piece.tree, calls)
        ),
        left=tuple(
            "" if summary.transactional else leftovers.left_by(piece.tree)
            for summary, piece in zip(summaries, pieces, strict=True)
        ),
        _text=sql,
        # Plans are kept by the hundred, trees are large.
        _pieces=tuple(replace(piece, tokens=(), tree=None) for piece in pieces),
    )


def _alike(pieces: Sequence[Piece], position: int) -> str:
    """Which others are to be left out too, where the statement of that place controls the transaction."""
    if not control(pieces[position - 1].tree):
        return ""
    alike = [
        f"{words} in statement {n}" for n, p in enumerate(pieces, 1) if n > position and (words := control(p.tree))
    ]
    return f"; leave out {', '.join(_limited(alike, MAX_ALIKE))} as well" if alike else ""


def _summary(
    sql: str, position: int, pieces: Sequence[Piece], called: list[Call], schema: str | None
) -> StatementSummary:
    piece = pieces[position - 1]
    tree = piece.tree
    tag = tags.tag(tree)
    before = temporary.tables(p.tree for p in pieces[: position - 1])
    gated = tags.is_gated(tag) and not temporary.only_empties(tree, before)
    effect = statements.effect(tree) | queries.called(tree, called) | _enum_value(sql, position, pieces)
    notes = [*lookalikes.notes(sql, piece.tokens), *effect.notes]
    if schema is not None:
        notes += [
            f"names schema {names.quoted(other)}, which is not the tenant's"
            for other in sorted(names.schemas(tree) - _COMMON_SCHEMAS - {schema})
        ]
    return StatementSummary(
        position=position,
        line=text.line(sql, piece.start),
        tag=tag[:64],
        gated=gated,
        sql=_shown(sql, piece)[:1024],
        objects=_limited([_short(name) for name in names.objects(tree)], MAX_OBJECTS),
        danger=effect.danger,
        rewrites=effect.rewrites,
        lock=effect.lock.label,
        transactional=effect.transactional,
        additive=effect.additive or not gated,
        notes=_limited([_short(note) for note in notes], MAX_NOTES),
    )


def _enum_value(sql: str, position: int, pieces: Sequence[Piece]) -> Effect:
    """A value of an enumeration is of no use to the transaction that adds it, unless that made the type too."""
    tree = pieces[position - 1].tree
    if not isinstance(tree, ast.AlterEnumStmt) or tree.oldVal:
        return Effect(additive=True)
    made = any(
        isinstance(p.tree, ast.CreateEnumStmt) and p.tree.typeName == tree.typeName for p in pieces[: position - 1]
    )
    used = any(tree.newVal in sql[p.start : p.stop] for p in pieces[position:])
    if made or not used:
        return Effect(additive=True)
    note = "a later statement uses the new value, which PostgreSQL allows only after a commit: runs by itself"
    return Effect(additive=True, transactional=False, notes=(note,))


def _shown(sql: str, piece: Piece) -> str:
    try:
        return str(deparse_protobuf(parse_sql_protobuf(sql[piece.start : piece.stop])))
    except (ParseError, DeparseError):
        # What the printer cannot print the server may run all the same; without comments, as the lexer reads it.
        return " ".join(sql[t.start : t.end + 1] for t in piece.tokens[:512])


def _short(words: str) -> str:
    return words if len(words) <= MAX_NAME else words[: MAX_NAME - 1] + "…"


def _limited(items: list[str], most: int) -> list[str]:
    if len(items) <= most:
        return items
    return [*items[: most - 1], f"… and {len(items) - most + 1} more"]
