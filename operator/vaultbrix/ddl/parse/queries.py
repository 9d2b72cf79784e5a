"""Effect of reading and writing rows, and of the functions that a statement calls."""

from typing import Any

from vaultbrix.api.ddlapproval import Danger
from vaultbrix.ddl.parse import builtin, names
from vaultbrix.ddl.parse.effect import Effect, Lock
from vaultbrix.ddl.parse.nodes import ast
from vaultbrix.ddl.parse.tags import into
from vaultbrix.ddl.parse.trees import Call, calls, is_on, relations, walk

QUERIES = (
    ast.SelectStmt,
    ast.InsertStmt,
    ast.UpdateStmt,
    ast.DeleteStmt,
    ast.MergeStmt,
    ast.CreateTableAsStmt,
    ast.ExplainStmt,
    ast.DeclareCursorStmt,
    ast.PrepareStmt,
    ast.ExecuteStmt,
    ast.DoStmt,
    ast.CallStmt,
)

# Statements of which an expression runs at once, though they read no rows by themselves.
_EVALUATING = (
    ast.AlterTableStmt,
    ast.AlterDomainStmt,
    ast.IndexStmt,
    ast.CreateTableAsStmt,
    ast.RefreshMatViewStmt,
)

_HIDDEN = "what a DO block does shows only when it runs; what it drops is refused unless decision.allowNested"


def query(tree: Any) -> Effect:
    """Effect of a statement that reads or writes rows, but for what the functions do that it calls."""
    match tree:
        case ast.DoStmt():
            return Effect(Danger.UNKNOWN, notes=(_HIDDEN,))
        case ast.CallStmt():
            return Effect(Danger.UNKNOWN)
        case ast.ExecuteStmt():
            return Effect(Danger.UNKNOWN, notes=("runs what PREPARE has named before",))
        case ast.ExplainStmt():
            inner = query(tree.query) if isinstance(tree.query, QUERIES) else Effect(Danger.UNKNOWN)
            return inner if analyses(tree) else Effect(lock=inner.lock)
        case ast.CreateTableAsStmt() if isinstance(tree.query, ast.ExecuteStmt):
            return query(tree.query)
    return _rows(tree)


def analyses(tree: Any) -> bool:
    """Whether an EXPLAIN runs what it explains."""
    return any(option.defname == "analyze" and is_on(option) for option in tree.options or ())


def _rows(tree: Any) -> Effect:
    made = isinstance(tree, ast.CreateTableAsStmt) or (isinstance(tree, ast.SelectStmt) and into(tree) is not None)
    effect = Effect(lock=Lock.ACCESS_SHARE if len(relations(tree)) > made else Lock.NONE)
    for seen in walk(tree):
        match seen.node:
            case ast.DeleteStmt() | ast.UpdateStmt():
                effect |= Effect(Danger.DATA, Lock.ROW_EXCLUSIVE)
            case ast.InsertStmt() as insert:
                clause = insert.onConflictClause
                updates = clause is not None and clause.action.name == "ONCONFLICT_UPDATE"
                effect |= Effect(Danger.DATA if updates else Danger.NONE, Lock.ROW_EXCLUSIVE)
            case ast.MergeStmt() as merge:
                changes = any(when.commandType.name in ("CMD_UPDATE", "CMD_DELETE") for when in merge.mergeWhenClauses)
                effect |= Effect(Danger.DATA if changes else Danger.NONE, Lock.ROW_EXCLUSIVE)
            case ast.SelectStmt() as select if select.lockingClause:
                effect |= Effect(lock=Lock.ROW_SHARE)
    return effect


def evaluated(tree: Any) -> list[Any]:
    """The parts of a statement whose functions run when it does."""
    match tree:
        case ast.ExplainStmt():
            return [tree.query] if analyses(tree) else []
        case ast.CreateStmt():
            return [tree.partbound] if tree.partbound is not None else []
        case ast.CreateSchemaStmt():
            return [part for element in tree.schemaElts or () for part in evaluated(element)]
        case _ if isinstance(tree, (*QUERIES, *_EVALUATING)):
            return [tree]
    return []


def functions(tree: Any) -> list[Call]:
    """The functions and procedures that a statement calls by name."""
    return calls(*evaluated(tree))


def called(tree: Any, called_functions: list[Call]) -> Effect:
    """Effect of the functions that a statement calls, as far as it is known."""
    if not called_functions:
        return Effect(additive=True)
    own = [call.name for call in called_functions if builtin.is_destructive(call.name)]
    others = [call.name for call in called_functions if not builtin.is_destructive(call.name)]
    notes = []
    if own:
        notes.append(f"calls {_listed(own)}, which changes what is stored")
    if others:
        notes.append(
            f"calls {_listed(others)}, whose body may change after the approval; "
            "what it drops is refused unless decision.allowNested"
        )
    danger = Danger.NONE
    if isinstance(tree, QUERIES):
        danger = Danger.UNKNOWN if others else Danger.DATA
    return Effect(danger, Lock.ROW_EXCLUSIVE if own else Lock.NONE, additive=True, notes=tuple(notes))


def _listed(function_names: list[list[str]]) -> str:
    shown = list(dict.fromkeys(f"{names.dotted(name)}()" for name in function_names))
    listed = ", ".join(shown)
    return listed if len(listed) <= 120 else f"{listed[:100]}… ({len(shown)} functions)"


def is_nested(tree: Any, called_functions: list[Call]) -> bool:
    """Whether DDL may run inside of the statement, in a function, procedure or block."""
    return isinstance(tree, (ast.DoStmt, ast.CallStmt, ast.ExecuteStmt)) or bool(called_functions)
