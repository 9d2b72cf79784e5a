"""Statements that no approval may hold, and why."""

from typing import Any

from vaultbrix.ddl.parse.nodes import ast
from vaultbrix.ddl.parse.trees import Call

_NO_TENANT = {
    ast.CreatedbStmt: "CREATE DATABASE",
    ast.DropdbStmt: "DROP DATABASE",
    ast.AlterDatabaseStmt: "ALTER DATABASE",
    ast.AlterDatabaseSetStmt: "ALTER DATABASE",
    ast.AlterDatabaseRefreshCollStmt: "ALTER DATABASE",
    ast.CreateTableSpaceStmt: "CREATE TABLESPACE",
    ast.DropTableSpaceStmt: "DROP TABLESPACE",
    ast.AlterTableSpaceOptionsStmt: "ALTER TABLESPACE",
    ast.AlterSystemStmt: "ALTER SYSTEM",
    ast.CreateEventTrigStmt: "CREATE EVENT TRIGGER",
    ast.AlterEventTrigStmt: "ALTER EVENT TRIGGER",
    ast.CreateSubscriptionStmt: "CREATE SUBSCRIPTION",
    ast.AlterSubscriptionStmt: "ALTER SUBSCRIPTION",
    ast.DropSubscriptionStmt: "DROP SUBSCRIPTION",
    ast.LoadStmt: "LOAD",
}
_CONTROLS = {
    "TRANS_STMT_BEGIN": "BEGIN",
    "TRANS_STMT_START": "START TRANSACTION",
    "TRANS_STMT_COMMIT": "COMMIT",
    "TRANS_STMT_ROLLBACK": "ROLLBACK",
    "TRANS_STMT_SAVEPOINT": "SAVEPOINT",
    "TRANS_STMT_RELEASE": "RELEASE",
    "TRANS_STMT_ROLLBACK_TO": "ROLLBACK TO",
    "TRANS_STMT_PREPARE": "PREPARE TRANSACTION",
    "TRANS_STMT_COMMIT_PREPARED": "COMMIT PREPARED",
    "TRANS_STMT_ROLLBACK_PREPARED": "ROLLBACK PREPARED",
}
_ROLES = ("role", "session_authorization")
_LEXER = "standard_conforming_strings"
_ENCODING = "client_encoding"


def refusal(tree: Any, called: list[Call]) -> str:
    """Why a statement cannot be part of an approval, with the remedy; empty if it can."""
    what = _NO_TENANT.get(type(tree))
    if what is not None:
        return f"{what} is the administrator's, no tenant can run it; leave it out"
    match tree:
        case ast.DropStmt() if tree.removeType.name == "OBJECT_EVENT_TRIGGER":
            return "DROP EVENT TRIGGER is the administrator's, no tenant can run it; leave it out"
        case _ if words := control(tree):
            return f"controls the transaction; leave {words} out: a text runs in one transaction where it can"
        case ast.VariableSetStmt() if tree.name in _ROLES:
            return "changes the role; leave it out: the text runs as the tenant"
        case ast.VariableSetStmt() if tree.name == _ENCODING:
            return "changes client_encoding, in which the text would be read otherwise than shown; leave it out"
        case ast.DiscardStmt() if tree.target.name == "DISCARD_ALL":
            return "changes the role, which DISCARD ALL resets; leave it out: the text runs as the tenant"
        case ast.VariableSetStmt() if tree.name == _LEXER and not _is_on(tree):
            return f"switches {_LEXER} off, and the gate accepts no text then; leave it out"
        case ast.CopyStmt():
            return "is COPY, which cannot be part of an approval; load rows through a connection of the tenant's own"
        case ast.ReindexStmt() if tree.kind.name in ("REINDEX_OBJECT_SYSTEM", "REINDEX_OBJECT_DATABASE"):
            return "is the administrator's, no tenant can run it; REINDEX the tables or the tenant's schema instead"
        case ast.VacuumStmt() | ast.ClusterStmt() if not (getattr(tree, "rels", None) or getattr(tree, "relation", 0)):
            return "names no table and so means every tenant's; name the tables"
    for setting in _settings(called):
        if setting in _ROLES:
            return "changes the role through set_config; leave it out: the text runs as the tenant"
        if setting == _ENCODING:
            return "sets client_encoding through set_config, in which the text would be read otherwise; leave it out"
        if setting == _LEXER:
            return f"sets {_LEXER} through set_config; leave it out"
    return ""


def control(tree: Any) -> str:
    """The words that a statement controls the transaction with; empty for one that does not."""
    match tree:
        case ast.TransactionStmt():
            return _CONTROLS.get(tree.kind.name, "it")
        case ast.VariableSetStmt() if tree.kind.name == "VAR_SET_MULTI" and tree.name == "TRANSACTION":
            return "SET TRANSACTION"
        case _:
            return ""


def _is_on(tree: Any) -> bool:
    if tree.kind.name in ("VAR_SET_DEFAULT", "VAR_RESET"):
        return False
    value = getattr(tree.args[0], "val", None) if tree.args else None
    return str(getattr(value, "sval", getattr(value, "ival", ""))).lower() in ("on", "true", "yes", "1")


def _settings(called: list[Call]) -> list[str]:
    """Names that ``set_config`` is called with as constants."""
    return [
        call.arguments[0].val.sval.lower()
        for call in called
        if call.name[-1:] == ["set_config"]
        and call.arguments
        and isinstance(call.arguments[0], ast.A_Const)
        and isinstance(call.arguments[0].val, ast.String)
    ]
