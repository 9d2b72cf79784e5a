"""Walking a parse tree: the tables it names and the functions it calls, wherever they stand."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from vaultbrix.ddl.parse import builtin
from vaultbrix.ddl.parse.nodes import ast

_DML = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)

# Words of the grammar of PostgreSQL 16 to 18 that a server before them takes for functions of the tenant's own.
_YOUNG_CALLS = {
    "JsonScalarExpr": "json_scalar",
    "JsonSerializeExpr": "json_serialize",
    "JsonParseExpr": "json",
    "JsonTable": "json_table",
    "MergeSupportFunc": "merge_action",
}
_JSON_OPERATIONS = ("json_exists", "json_query", "json_value", "json_table")


@dataclass(slots=True)
class Seen:
    """A node, the field that holds it, and the names that WITH gives to something else where it stands."""

    node: Any
    field: str
    hidden: frozenset[str]


@cache
def _fields(kind: Any) -> tuple[str, ...]:
    """The fields of a node that hold nodes; WITH is read before the others."""
    slots = kind.__slots__
    return tuple(n for n in slots if (slots[n].c_type.endswith("*") or n == "base") and n != "withClause")


def walk(*roots: Any) -> Iterator[Seen]:
    """Every node below, in the order of the tree. On a stack of its own: a tree may be deeper than Python's."""
    stack = [Seen(root, "", frozenset()) for root in reversed(roots)]
    while stack:
        seen = stack.pop()
        node = seen.node
        if isinstance(node, tuple):
            stack.extend(Seen(item, seen.field, seen.hidden) for item in reversed(node))
        elif isinstance(node, ast.Node):
            yield seen
            stack.extend(reversed(list(_children(seen))))


def _children(seen: Seen) -> Iterator[Seen]:
    node, hidden = seen.node, seen.hidden
    clause = getattr(node, "withClause", None)
    if clause is not None:
        names = frozenset(cte.ctename for cte in clause.ctes)
        before = hidden | names if clause.recursive else hidden
        for cte in clause.ctes:
            yield Seen(cte.ctequery, "ctequery", before)
            before |= {cte.ctename}
        hidden |= names
    for name in _fields(node.__class__):
        value = getattr(node, name)
        if isinstance(value, (tuple, ast.Node)):
            yield Seen(value, name, hidden)


def relations(*roots: Any) -> list[Any]:
    """The RangeVars in these trees that name a table, view or sequence: all but those that WITH defines."""
    range_vars = []
    for seen in walk(*roots):
        node = seen.node
        if isinstance(node, ast.RangeVar):
            is_target = seen.field == "relation"
            if is_target or node.schemaname or node.relname not in seen.hidden:
                range_vars.append(node)
    return range_vars


def strings(parts: Any) -> list[str]:
    """The values of a list of String nodes."""
    return [part.sval for part in parts or () if isinstance(part, ast.String)]


@dataclass(slots=True)
class Call:
    """The call of a function: its name, in parts, and the trees of its arguments."""

    name: list[str]
    arguments: tuple[Any, ...] = ()


def calls(*roots: Any) -> list[Call]:
    """The functions that run with these trees, but for those of PostgreSQL's own that change nothing."""
    found_calls = []
    for seen in walk(*roots):
        node = seen.node
        if isinstance(node, ast.FuncCall):
            name = strings(node.funcname)
            if not builtin.is_harmless(name):
                found_calls.append(Call(name, node.args or ()))
        elif isinstance(node, ast.A_Expr) and len(strings(node.name)) > 1:
            name = strings(node.name)
            if name[0] != "pg_catalog":
                found_calls.append(Call(name))
        elif isinstance(node, ast.JsonFuncExpr):
            found_calls.append(Call([_JSON_OPERATIONS[node.op.value]]))
        elif type(node).__name__ in _YOUNG_CALLS:
            found_calls.append(Call([_YOUNG_CALLS[type(node).__name__]]))
    return found_calls


def is_volatile(expression: Any) -> bool:
    """Whether it may give another value for each row: it calls a function that is not known to be stable."""
    for seen in walk(expression):
        node = seen.node
        if isinstance(node, ast.FuncCall) and not builtin.is_stable(strings(node.funcname)):
            return True
        if isinstance(node, (ast.JsonFuncExpr, ast.SubLink)) or type(node).__name__ in _YOUNG_CALLS:
            return True
        if isinstance(node, ast.A_Expr) and len(strings(node.name)) > 1 and strings(node.name)[0] != "pg_catalog":
            return True
        if isinstance(node, ast.TypeCast) and not builtin.is_type(node.typeName):
            return True
    return False


def is_on(option: Any) -> bool:
    """Whether an option in parentheses is on: it is named without a value, or with one that says so."""
    value = option.arg
    if value is None:
        return True
    if isinstance(value, ast.Boolean):
        return bool(value.boolval)
    if isinstance(value, ast.Integer):
        return bool(value.ival)
    return str(getattr(value, "sval", "")).lower() not in ("false", "off")
