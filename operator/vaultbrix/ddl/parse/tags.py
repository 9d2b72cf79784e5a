"""A statement's command tag, as PostgreSQL's event triggers and pgAudit say it, and what the gate makes of it."""

from typing import Any

_KINDS = {
    "OBJECT_AMOP": "OPERATOR FAMILY",
    "OBJECT_AMPROC": "OPERATOR FAMILY",
    "OBJECT_ATTRIBUTE": "TYPE",
    "OBJECT_COLUMN": "TABLE",
    "OBJECT_DOMCONSTRAINT": "DOMAIN",
    "OBJECT_FDW": "FOREIGN DATA WRAPPER",
    "OBJECT_FOREIGN_SERVER": "SERVER",
    "OBJECT_LARGEOBJECT": "LARGE OBJECT",
    "OBJECT_MATVIEW": "MATERIALIZED VIEW",
    "OBJECT_OPCLASS": "OPERATOR CLASS",
    "OBJECT_OPFAMILY": "OPERATOR FAMILY",
    "OBJECT_STATISTIC_EXT": "STATISTICS",
    "OBJECT_TABCONSTRAINT": "TABLE",
    "OBJECT_TSCONFIGURATION": "TEXT SEARCH CONFIGURATION",
    "OBJECT_TSDICTIONARY": "TEXT SEARCH DICTIONARY",
    "OBJECT_TSPARSER": "TEXT SEARCH PARSER",
    "OBJECT_TSTEMPLATE": "TEXT SEARCH TEMPLATE",
}

# From CreateCommandTag in PostgreSQL's utility.c.
_TAGS = {
    "AlterCollationStmt": "ALTER COLLATION",
    "AlterDatabaseRefreshCollStmt": "ALTER DATABASE",
    "AlterDatabaseSetStmt": "ALTER DATABASE",
    "AlterDatabaseStmt": "ALTER DATABASE",
    "AlterDefaultPrivilegesStmt": "ALTER DEFAULT PRIVILEGES",
    "AlterDomainStmt": "ALTER DOMAIN",
    "AlterEnumStmt": "ALTER TYPE",
    "AlterEventTrigStmt": "ALTER EVENT TRIGGER",
    "AlterExtensionContentsStmt": "ALTER EXTENSION",
    "AlterExtensionStmt": "ALTER EXTENSION",
    "AlterFdwStmt": "ALTER FOREIGN DATA WRAPPER",
    "AlterForeignServerStmt": "ALTER SERVER",
    "AlterOpFamilyStmt": "ALTER OPERATOR FAMILY",
    "AlterOperatorStmt": "ALTER OPERATOR",
    "AlterPolicyStmt": "ALTER POLICY",
    "AlterPublicationStmt": "ALTER PUBLICATION",
    "AlterRoleSetStmt": "ALTER ROLE",
    "AlterRoleStmt": "ALTER ROLE",
    "AlterSeqStmt": "ALTER SEQUENCE",
    "AlterStatsStmt": "ALTER STATISTICS",
    "AlterSubscriptionStmt": "ALTER SUBSCRIPTION",
    "AlterSystemStmt": "ALTER SYSTEM",
    "AlterTSConfigurationStmt": "ALTER TEXT SEARCH CONFIGURATION",
    "AlterTSDictionaryStmt": "ALTER TEXT SEARCH DICTIONARY",
    "AlterTableSpaceOptionsStmt": "ALTER TABLESPACE",
    "AlterTypeStmt": "ALTER TYPE",
    "AlterUserMappingStmt": "ALTER USER MAPPING",
    "CallStmt": "CALL",
    "CheckPointStmt": "CHECKPOINT",
    "ClusterStmt": "CLUSTER",
    "CommentStmt": "COMMENT",
    "CompositeTypeStmt": "CREATE TYPE",
    "ConstraintsSetStmt": "SET CONSTRAINTS",
    "CopyStmt": "COPY",
    "CreateAmStmt": "CREATE ACCESS METHOD",
    "CreateCastStmt": "CREATE CAST",
    "CreateConversionStmt": "CREATE CONVERSION",
    "CreateDomainStmt": "CREATE DOMAIN",
    "CreateEnumStmt": "CREATE TYPE",
    "CreateEventTrigStmt": "CREATE EVENT TRIGGER",
    "CreateExtensionStmt": "CREATE EXTENSION",
    "CreateFdwStmt": "CREATE FOREIGN DATA WRAPPER",
    "CreateForeignServerStmt": "CREATE SERVER",
    "CreateForeignTableStmt": "CREATE FOREIGN TABLE",
    "CreateOpClassStmt": "CREATE OPERATOR CLASS",
    "CreateOpFamilyStmt": "CREATE OPERATOR FAMILY",
    "CreatePLangStmt": "CREATE LANGUAGE",
    "CreatePolicyStmt": "CREATE POLICY",
    "CreatePublicationStmt": "CREATE PUBLICATION",
    "CreateRangeStmt": "CREATE TYPE",
    "CreateRoleStmt": "CREATE ROLE",
    "CreateSchemaStmt": "CREATE SCHEMA",
    "CreateSeqStmt": "CREATE SEQUENCE",
    "CreateStatsStmt": "CREATE STATISTICS",
    "CreateStmt": "CREATE TABLE",
    "CreateSubscriptionStmt": "CREATE SUBSCRIPTION",
    "CreateTableSpaceStmt": "CREATE TABLESPACE",
    "CreateTransformStmt": "CREATE TRANSFORM",
    "CreateTrigStmt": "CREATE TRIGGER",
    "CreateUserMappingStmt": "CREATE USER MAPPING",
    "CreatedbStmt": "CREATE DATABASE",
    "DeclareCursorStmt": "DECLARE CURSOR",
    "DeleteStmt": "DELETE",
    "DoStmt": "DO",
    "DropOwnedStmt": "DROP OWNED",
    "DropRoleStmt": "DROP ROLE",
    "DropSubscriptionStmt": "DROP SUBSCRIPTION",
    "DropTableSpaceStmt": "DROP TABLESPACE",
    "DropUserMappingStmt": "DROP USER MAPPING",
    "DropdbStmt": "DROP DATABASE",
    "ExecuteStmt": "EXECUTE",
    "ExplainStmt": "EXPLAIN",
    "ImportForeignSchemaStmt": "IMPORT FOREIGN SCHEMA",
    "IndexStmt": "CREATE INDEX",
    "InsertStmt": "INSERT",
    "ListenStmt": "LISTEN",
    "LoadStmt": "LOAD",
    "LockStmt": "LOCK TABLE",
    "MergeStmt": "MERGE",
    "NotifyStmt": "NOTIFY",
    "PrepareStmt": "PREPARE",
    "ReassignOwnedStmt": "REASSIGN OWNED",
    "RefreshMatViewStmt": "REFRESH MATERIALIZED VIEW",
    "ReindexStmt": "REINDEX",
    "RuleStmt": "CREATE RULE",
    "SecLabelStmt": "SECURITY LABEL",
    "TransactionStmt": "BEGIN",
    "TruncateStmt": "TRUNCATE TABLE",
    "UnlistenStmt": "UNLISTEN",
    "UpdateStmt": "UPDATE",
    "VariableShowStmt": "SHOW",
    "ViewStmt": "CREATE VIEW",
}

# Tags for which no event trigger fires (event_trigger_ok in PostgreSQL's cmdtaglist.h): the gate never sees them.
# REINDEX fires one from PostgreSQL 17 on; it loses nothing and takes no part in a pass.
_NO_EVENT = frozenset(
    """
    ALTER DATABASE|ALTER EVENT TRIGGER|ALTER ROLE|ALTER SYSTEM|ALTER TABLESPACE|ANALYZE|BEGIN|CALL|CHECKPOINT|
    CLOSE CURSOR|CLOSE CURSOR ALL|CLUSTER|COPY|CREATE DATABASE|CREATE EVENT TRIGGER|CREATE ROLE|CREATE TABLESPACE|
    DEALLOCATE|DEALLOCATE ALL|DECLARE CURSOR|DELETE|DISCARD ALL|DISCARD PLANS|DISCARD SEQUENCES|DISCARD TEMP|DO|
    DROP DATABASE|DROP EVENT TRIGGER|DROP ROLE|DROP TABLESPACE|EXECUTE|EXPLAIN|FETCH|GRANT ROLE|INSERT|LISTEN|LOAD|
    LOCK TABLE|MERGE|MOVE|NOTIFY|PREPARE|REASSIGN OWNED|REINDEX|RESET|REVOKE ROLE|SELECT|SET|SET CONSTRAINTS|SHOW|
    UNLISTEN|UPDATE|VACUUM
    """.replace("\n", "")
    .replace("    ", "")
    .split("|")
)


def is_gated(tag: str) -> bool:
    """Whether the gate asks for a pass: its own rule on tags, for those that it sees at all."""
    if tag in _NO_EVENT or tag in ("COMMENT", "SELECT INTO"):
        return False
    free = tag.startswith(("CREATE ", "GRANT", "REVOKE", "REFRESH "))
    return not free or tag == "CREATE RULE"


def tag(tree: Any) -> str:
    """PostgreSQL's command tag of a statement's raw parse tree."""
    node = type(tree).__name__
    match node:
        case "SelectStmt":
            return "SELECT INTO" if into(tree) else "SELECT"
        case "DropStmt":
            return "DROP " + _kind(tree.removeType)
        case "AlterTableStmt" | "AlterTableMoveAllStmt":
            return "ALTER " + _kind(tree.objtype)
        case "RenameStmt":
            of_column = tree.renameType.name == "OBJECT_COLUMN"
            return "ALTER " + _kind(tree.relationType if of_column else tree.renameType)
        case "AlterObjectDependsStmt" | "AlterObjectSchemaStmt" | "AlterOwnerStmt":
            return "ALTER " + _kind(tree.objectType)
        case "AlterFunctionStmt":
            return "ALTER " + _kind(tree.objtype)
        case "DefineStmt":
            return "CREATE " + _kind(tree.kind)
        case "CreateFunctionStmt":
            return "CREATE PROCEDURE" if tree.is_procedure else "CREATE FUNCTION"
        case "CreateTableAsStmt":
            return "CREATE MATERIALIZED VIEW" if tree.objtype.name == "OBJECT_MATVIEW" else "CREATE TABLE AS"
        case "GrantStmt":
            return "GRANT" if tree.is_grant else "REVOKE"
        case "GrantRoleStmt":
            return "GRANT ROLE" if tree.is_grant else "REVOKE ROLE"
        case "VacuumStmt":
            return "VACUUM" if tree.is_vacuumcmd else "ANALYZE"
        case "VariableSetStmt":
            return "RESET" if tree.kind.name in ("VAR_RESET", "VAR_RESET_ALL") else "SET"
        case "DiscardStmt":
            return f"DISCARD {tree.target.name.removeprefix('DISCARD_')}"
        case "DeallocateStmt":
            return "DEALLOCATE" if tree.name else "DEALLOCATE ALL"
        case "ClosePortalStmt":
            return "CLOSE CURSOR" if tree.portalname else "CLOSE CURSOR ALL"
        case "FetchStmt":
            return "MOVE" if tree.ismove else "FETCH"
        case _:
            return _TAGS.get(node, node.removesuffix("Stmt").upper())


def into(tree: Any) -> Any:
    """The INTO of a SELECT, which stands at the first of those that UNION puts together."""
    while tree.larg is not None:
        tree = tree.larg
    return tree.intoClause


def _kind(kind: Any) -> str:
    name: str = kind.name
    return _KINDS.get(name, name.removeprefix("OBJECT_").replace("_", " "))
