"""The names of what a statement is about, as they are written: with a schema where one is given."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pglast import keywords

from vaultbrix.ddl.parse.nodes import ast
from vaultbrix.ddl.parse.trees import relations, strings, walk

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")
_KEYWORDS = keywords.RESERVED_KEYWORDS | keywords.COL_NAME_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS

# What the grammar makes of the standard's names of types.
_SQL_TYPES = {
    "bool": "boolean",
    "bpchar": "character",
    "float4": "real",
    "float8": "double precision",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "timestamptz": "timestamp with time zone",
    "timetz": "time with time zone",
    "varbit": "bit varying",
    "varchar": "character varying",
}

# Kinds whose name is a table's with one more part.
ON_TABLE = ("OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY", "OBJECT_TABCONSTRAINT")

# Fields that hold a name as one word or as a list of them, by statement.
_NAMED = {
    "IndexStmt": ("idxname",),
    "CreateTrigStmt": ("trigname",),
    "CreatePolicyStmt": ("policy_name",),
    "AlterPolicyStmt": ("policy_name",),
    "RuleStmt": ("rulename",),
    "CreateFunctionStmt": ("funcname",),
    "DefineStmt": ("defnames",),
    "CreateEnumStmt": ("typeName",),
    "CreateRangeStmt": ("typeName",),
    "AlterEnumStmt": ("typeName",),
    "AlterTypeStmt": ("typeName",),
    "CreateDomainStmt": ("domainname",),
    "AlterDomainStmt": ("typeName",),
    "CreateSchemaStmt": ("schemaname",),
    "CreateExtensionStmt": ("extname",),
    "AlterExtensionStmt": ("extname",),
    "AlterExtensionContentsStmt": ("extname",),
    "CreateStatsStmt": ("defnames",),
    "AlterStatsStmt": ("defnames",),
    "CreateConversionStmt": ("conversion_name",),
    "CreateOpClassStmt": ("opclassname",),
    "CreateOpFamilyStmt": ("opfamilyname",),
    "AlterOpFamilyStmt": ("opfamilyname",),
    "AlterTSDictionaryStmt": ("dictname",),
    "AlterTSConfigurationStmt": ("cfgname",),
    "AlterCollationStmt": ("collname",),
    "CreatePublicationStmt": ("pubname",),
    "AlterPublicationStmt": ("pubname",),
    "ReindexStmt": ("name",),
    "PrepareStmt": ("name",),
    "ExecuteStmt": ("name",),
    "CreateForeignServerStmt": ("servername",),
    "AlterForeignServerStmt": ("servername",),
    "CreateFdwStmt": ("fdwname",),
    "CreatePLangStmt": ("plname",),
}


def quoted(name: str) -> str:
    """An identifier as SQL has it, in quotes where it needs them (as PostgreSQL's quote_ident)."""
    if _PLAIN.match(name) and name not in _KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def dotted(parts: Iterable[str]) -> str:
    """A name of several parts, such as schema and table, as SQL has it."""
    return ".".join(quoted(part) for part in parts)


def relation(node: Any) -> str:
    """The name of a table, view or sequence in a RangeVar, as SQL has it."""
    return dotted(part for part in (node.catalogname, node.schemaname, node.relname) if part)


def schemas(tree: Any) -> set[str]:
    """The schemas that a statement names, as part of another name or by themselves."""
    schema_names = {node.schemaname for node in relations(tree) if node.schemaname}
    for kind, item in _items(tree):
        schema_names |= set(_schema_of(kind, item))
    for seen in walk(tree):
        node = seen.node
        match node:
            case ast.ObjectWithArgs():
                names = node.objname
            case ast.FuncCall():
                names = node.funcname
            case ast.TypeName():
                names = node.names
            case ast.AlterObjectSchemaStmt():
                schema_names.add(node.newschema)
                continue
            case ast.DefElem() if node.defname == "schemas":
                schema_names |= set(strings(node.arg))
                continue
            case ast.ReindexStmt() if node.name:
                schema_names.add(node.name)
                continue
            case _:
                names = getattr(node, _NAMED.get(type(node).__name__, ("",))[0], None)
        if isinstance(names, tuple):
            schema_names |= set(strings(names)[-2:-1])
    return schema_names


def _items(tree: Any) -> Iterator[tuple[str, Any]]:
    """The objects of a statement that may be about any kind of object, with their kind."""
    match tree:
        case ast.DropStmt():
            kind, items = tree.removeType, tree.objects
        case ast.GrantStmt():
            in_schemas = tree.targtype.name == "ACL_TARGET_ALL_IN_SCHEMA"
            yield from (("OBJECT_SCHEMA" if in_schemas else tree.objtype.name, item) for item in tree.objects or ())
            return
        case ast.CommentStmt() | ast.SecLabelStmt():
            kind, items = tree.objtype, [tree.object]
        case ast.AlterOwnerStmt() | ast.AlterObjectSchemaStmt() | ast.AlterObjectDependsStmt():
            kind, items = tree.objectType, [tree.object]
        case ast.RenameStmt():
            schema = tree.renameType.name == "OBJECT_SCHEMA"
            kind, items = tree.renameType, [ast.String(tree.subname) if schema else tree.object]
        case _:
            return
    yield from ((kind.name, item) for item in items)


def _schema_of(kind: str, item: Any) -> list[str]:
    if kind == "OBJECT_SCHEMA":
        return [item.sval]
    if not isinstance(item, tuple):
        return []
    parts = strings(item)
    if kind in ON_TABLE or kind == "OBJECT_COLUMN":
        parts = parts[:-1]
    elif kind in ("OBJECT_OPCLASS", "OBJECT_OPFAMILY"):
        parts = parts[1:]
    return parts[-2:-1]


def objects(tree: Any) -> list[str]:
    """The names of all that a statement is about: tables first, then the rest, each once."""
    object_names = [relation(node) for node in relations(tree)]
    object_names += _own(tree)
    return list(dict.fromkeys(name for name in object_names if name))


def _own(tree: Any) -> Iterator[str]:
    for field in _NAMED.get(type(tree).__name__, ()):
        value = getattr(tree, field)
        if value:
            yield quoted(value) if isinstance(value, str) else _own_name(strings(value))
    for kind, item in _items(tree):
        if not isinstance(item, ast.RangeVar):
            yield from _object(kind, item)
    match tree:
        case ast.AlterFunctionStmt():
            yield _function(tree.func)
        case ast.AlterOperatorStmt():
            yield _function(tree.opername)
        case ast.CallStmt():
            yield dotted(strings(tree.funccall.funcname))
        case ast.RenameStmt() if tree.renameType.name in ON_TABLE:
            yield f"{quoted(tree.subname)} ON {relation(tree.relation)}"


def _object(kind: str, item: Any) -> Iterator[str]:
    match item:
        case tuple() if kind in ON_TABLE:
            *table, last = strings(item)
            yield dotted(table)
            yield f"{quoted(last)} ON {dotted(table)}"
        case tuple() if kind in ("OBJECT_OPCLASS", "OBJECT_OPFAMILY"):
            method, *name = strings(item)
            yield f"{dotted(name)} USING {quoted(method)}"
        case (ast.TypeName() as source, ast.TypeName() as target):
            yield f"({_type(source)} AS {_type(target)})"
        case (ast.TypeName() as source, ast.String() as name):
            yield _type(source)
            yield f"{quoted(name.sval)} ON {_type(source)}"
        case tuple():
            yield dotted(strings(item))
        case ast.ObjectWithArgs():
            yield _function(item)
        case ast.TypeName():
            yield _type(item)
        case ast.String():
            yield quoted(item.sval)
        case _:
            return


def _type(node: Any) -> str:
    parts = strings(node.names)
    plain = _SQL_TYPES.get(parts[-1], parts[-1]) if parts[0] == "pg_catalog" else dotted(parts)
    return f"{plain}{'%TYPE' if node.pct_type else ''}{'[]' * len(node.arrayBounds or ())}"


def _own_name(parts: list[str]) -> str:
    """A function's or operator's name; the signs of an operator stand without quotes."""
    *schema, name = parts or [""]
    plain = name if name.isascii() and name and not any(c.isalnum() or c in '_"$ ' for c in name) else quoted(name)
    return ".".join([*(quoted(part) for part in schema), plain])


def _function(node: Any) -> str:
    shown = _own_name(strings(node.objname))
    if node.args_unspecified:
        return shown
    return f"{shown}({', '.join(_type(t) if t is not None else 'none' for t in node.objargs or ())})"
