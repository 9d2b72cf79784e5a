"""What a statement outside a transaction may have left behind when it was cut short, and what ends that."""

from typing import Any

from vaultbrix.ddl.parse import names
from vaultbrix.ddl.parse.nodes import ast

NO_INDEX = "a failed CONCURRENTLY leaves an INVALID index behind, to be dropped"


def left_by(tree: Any) -> str:
    """What to look at, in words, for a statement that cannot run in a transaction; empty for one that leaves nothing.

    Each commits its first part before it waits for others (PostgreSQL, Notes of CREATE INDEX, DROP INDEX, REINDEX and
    ALTER TABLE): so it may have taken half of its effect.
    """
    match tree:
        case ast.AlterTableStmt():
            return next((_detached(tree, command) for command in tree.cmds if is_slow_detach(command)), "")
        case ast.IndexStmt() if tree.idxname:
            return f"index {names.quoted(tree.idxname)}: where it is INVALID, drop it"
        case ast.IndexStmt():
            return f"the new index of {names.relation(tree.relation)}: where it is INVALID, drop it"
        case ast.DropStmt():
            return f"index {', '.join(names.objects(tree))}: where it is INVALID, it is still to be dropped"
        case ast.ReindexStmt() if tree.relation is not None:
            what = "index" if tree.kind.name == "REINDEX_OBJECT_INDEX" else "the indexes of"
            return f"{what} {names.relation(tree.relation)}: drop those that are INVALID and end in _ccnew or _ccold"
        case ast.ReindexStmt():
            return "the indexes of the schema: drop those that are INVALID and end in _ccnew or _ccold"
        case _:
            return ""


def is_slow_detach(command: Any) -> bool:
    """Whether a sub-command of ALTER TABLE is DETACH PARTITION ... CONCURRENTLY."""
    return command.subtype.name == "AT_DetachPartition" and bool(command.def_.concurrent)


def _detached(tree: Any, command: Any) -> str:
    table, partition = names.relation(tree.relation), names.relation(command.def_.name)
    return (
        f"partition {partition}: where it is pending detach, its rows are all there, and "
        f"ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE ends it"
    )
