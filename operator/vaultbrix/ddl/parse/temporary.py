"""Temporary tables of a text: PostgreSQL fires no trigger when one is emptied, so the gate never sees it."""

from collections.abc import Collection, Iterable
from typing import Any

from vaultbrix.ddl.parse.nodes import ast
from vaultbrix.ddl.parse.tags import into


def tables(trees: Iterable[Any]) -> frozenset[str]:
    """Names of the temporary tables that statements make."""
    made = [_made(tree) for tree in trees]
    return frozenset(relation.relname for relation in made if relation is not None and _temporary(relation))


def only_empties(tree: Any, names: Collection[str]) -> bool:
    """Whether a statement is a TRUNCATE of nothing but temporary tables of these names.

    A name without a schema means the temporary table where there is one (PostgreSQL, search_path).
    """
    if not isinstance(tree, ast.TruncateStmt):
        return False
    return all(r.schemaname == "pg_temp" or (not r.schemaname and r.relname in names) for r in tree.relations)


def _made(tree: Any) -> Any:
    if isinstance(tree, ast.CreateStmt):
        return tree.relation
    if isinstance(tree, ast.CreateTableAsStmt):
        return tree.into.rel
    if isinstance(tree, ast.SelectStmt):
        clause = into(tree)
        return clause.rel if clause else None
    return None


def _temporary(relation: Any) -> bool:
    return bool(relation.relpersistence == "t" or relation.schemaname == "pg_temp")
