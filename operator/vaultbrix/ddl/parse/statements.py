"""Every statement's effect, by the kind of its tree. A kind that is not known here is Unknown: the most dangerous."""

from typing import Any

from vaultbrix.api.ddlapproval import Danger
from vaultbrix.ddl.parse import altertable, names, queries
from vaultbrix.ddl.parse.altertable import CASCADE, FULL, IF_EXISTS, OWNER
from vaultbrix.ddl.parse.effect import Effect, Lock, worst
from vaultbrix.ddl.parse.leftovers import NO_INDEX
from vaultbrix.ddl.parse.nodes import ast
from vaultbrix.ddl.parse.trees import is_on, relations, strings

_RENAMED = "whatever uses the old name fails until it says the new one"

# What is lost with an object of that kind; all others are definitions.
_DROPPED = {
    "OBJECT_TABLE": Danger.TABLE,
    "OBJECT_FOREIGN_TABLE": Danger.TABLE,
    "OBJECT_EXTENSION": Danger.TABLE,
    "OBJECT_MATVIEW": Danger.DATA,
    "OBJECT_SEQUENCE": Danger.DATA,
    "OBJECT_INDEX": Danger.INDEX,
    "OBJECT_STATISTIC_EXT": Danger.INDEX,
}

# Nothing depends on an object of that kind, so CASCADE takes nothing along.
_LEAVES = ("OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE", "OBJECT_STATISTIC_EXT")

_RELATIONS = (
    "OBJECT_TABLE",
    "OBJECT_VIEW",
    "OBJECT_MATVIEW",
    "OBJECT_FOREIGN_TABLE",
    "OBJECT_SEQUENCE",
    "OBJECT_INDEX",
    "OBJECT_TRIGGER",
    "OBJECT_POLICY",
    "OBJECT_RULE",
)

_NOTHING = Effect()

# Statements that neither lose nor lock what is there.
_HARMLESS = (
    ast.CompositeTypeStmt,
    ast.CreateEnumStmt,
    ast.CreateRangeStmt,
    ast.CreateDomainStmt,
    ast.CreateCastStmt,
    ast.CreateConversionStmt,
    ast.CreateOpClassStmt,
    ast.CreateOpFamilyStmt,
    ast.CreateTransformStmt,
    ast.CreateForeignServerStmt,
    ast.CreateForeignTableStmt,
    ast.CreateFdwStmt,
    ast.CreateUserMappingStmt,
    ast.CreateExtensionStmt,
    ast.CreateAmStmt,
    ast.CreateRoleStmt,
    ast.ImportForeignSchemaStmt,
    ast.VariableShowStmt,
    ast.ConstraintsSetStmt,
    ast.DeallocateStmt,
    ast.NotifyStmt,
    ast.ListenStmt,
    ast.UnlistenStmt,
    ast.FetchStmt,
    ast.ClosePortalStmt,
    ast.DiscardStmt,
    ast.CheckPointStmt,
)

# Statements that change a definition in place: what it was is lost.
_REDEFINED = (
    ast.AlterFunctionStmt,
    ast.AlterTypeStmt,
    ast.AlterOperatorStmt,
    ast.AlterTSDictionaryStmt,
    ast.AlterTSConfigurationStmt,
    ast.AlterForeignServerStmt,
    ast.AlterFdwStmt,
    ast.AlterUserMappingStmt,
    ast.AlterOpFamilyStmt,
    ast.AlterCollationStmt,
    ast.AlterObjectDependsStmt,
)


def effect(tree: Any) -> Effect:
    """Effect of a statement, without what the functions do that it calls (``queries.called``)."""
    if isinstance(tree, _HARMLESS):
        return _NOTHING
    if isinstance(tree, _REDEFINED):
        return Effect(Danger.CODE, notes=security(tree))
    known = _KNOWN.get(type(tree))
    if known is not None:
        own_effect: Effect = known(tree)
        return own_effect | Effect(additive=True, notes=security(tree))
    if isinstance(tree, queries.QUERIES):
        return queries.query(tree)
    return Effect(Danger.UNKNOWN, FULL)


def security(tree: Any) -> tuple[str, ...]:
    """Notes on who may do more than before, once the statement has run."""
    notes = []
    if isinstance(tree, ast.AlterDefaultPrivilegesStmt):
        return security(tree.action)
    if isinstance(tree, (ast.GrantStmt, ast.GrantRoleStmt)) and tree.is_grant:
        grantees = tree.grantees if isinstance(tree, ast.GrantStmt) else tree.grantee_roles
        if any(role.roletype.name == "ROLESPEC_PUBLIC" for role in grantees):
            notes.append("GRANT to PUBLIC: every role of the database gets the right")
    options = getattr(tree, "options", None) or getattr(tree, "actions", None) or ()
    if isinstance(tree, (ast.CreateFunctionStmt, ast.AlterFunctionStmt)) and any(
        option.defname == "security" and option.arg.boolval for option in options
    ):
        notes.append("SECURITY DEFINER: whoever may execute it does so with the rights of its owner")
    return tuple(notes)


def _drop(tree: Any) -> Effect:
    kind = tree.removeType.name
    cascade = tree.behavior.name == "DROP_CASCADE" and kind not in _LEAVES
    danger = worst(_DROPPED.get(kind, Danger.CODE), Danger.TABLE if cascade else Danger.NONE)
    lock = FULL if cascade or kind in _RELATIONS or kind == "OBJECT_EXTENSION" else Lock.NONE
    if kind == "OBJECT_STATISTIC_EXT" or tree.concurrent:
        lock = Lock.SHARE_UPDATE_EXCLUSIVE
    notes = [IF_EXISTS] if tree.missing_ok else []
    if cascade:
        notes.append(CASCADE)
    if kind == "OBJECT_POLICY":
        notes.append("DROP POLICY: rows that it showed or hid change sides")
    return Effect(danger, lock, transactional=not tree.concurrent, notes=tuple(notes))


def _create_table(tree: Any) -> Effect:
    lock = Lock.NONE
    if tree.inhRelations:
        lock = FULL if tree.partbound is not None else Lock.SHARE_UPDATE_EXCLUSIVE
    constraints = [*(tree.constraints or ())]
    for element in tree.tableElts or ():
        if isinstance(element, ast.TableLikeClause):
            lock = max(lock, Lock.ACCESS_SHARE)
        elif isinstance(element, ast.ColumnDef):
            constraints += element.constraints or ()
        elif isinstance(element, ast.Constraint):
            constraints.append(element)
    combined = Effect(lock=lock)
    for item in constraints:
        if item.contype.name == "CONSTR_FOREIGN":
            refers = names.relation(item.pktable) != names.relation(tree.relation)
            notes = altertable.constraint(item).notes
            combined |= Effect(lock=Lock.SHARE_ROW_EXCLUSIVE if refers else Lock.NONE, notes=notes)
    return combined


def _create_schema(tree: Any) -> Effect:
    combined = _NOTHING
    for element in tree.schemaElts or ():
        combined |= effect(element)
    return combined


def _create_index(tree: Any) -> Effect:
    if tree.concurrent:
        return Effect(lock=Lock.SHARE_UPDATE_EXCLUSIVE, transactional=False, notes=(NO_INDEX,))
    return Effect(lock=Lock.SHARE)


def _replaced(tree: Any, lock: Lock, over: Lock) -> Effect:
    if tree.replace:
        return Effect(Danger.CODE, over, notes=("OR REPLACE: the definition that was there is lost",))
    return Effect(lock=lock)


def _create_view(tree: Any) -> Effect:
    return _replaced(tree, queries.query(tree.query).lock, FULL)


def _create_trigger(tree: Any) -> Effect:
    note = f"from then on {names.dotted(strings(tree.funcname))}() runs with each such write"
    return _replaced(tree, Lock.SHARE_ROW_EXCLUSIVE, Lock.SHARE_ROW_EXCLUSIVE) | Effect(notes=(note,))


def _create_rule(tree: Any) -> Effect:
    return Effect(Danger.CODE, FULL, notes=("a rule changes what statements on the table do",))


def _create_function(tree: Any) -> Effect:
    reads = Lock.ACCESS_SHARE if tree.sql_body is not None and relations(tree.sql_body) else Lock.NONE
    return _replaced(tree, reads, reads)


def _create_policy(_tree: Any) -> Effect:
    return Effect(lock=FULL)


def _alter_policy(_tree: Any) -> Effect:
    note = "ALTER POLICY: rows that it showed or hid change sides"
    return Effect(Danger.CODE, FULL, notes=(note,))


def _create_sequence(tree: Any) -> Effect:
    owned = any(option.defname == "owned_by" for option in tree.options or ())
    return Effect(lock=Lock.ACCESS_SHARE if owned else Lock.NONE)


def _alter_sequence(tree: Any) -> Effect:
    options = {option.defname for option in tree.options or ()}
    notes = (IF_EXISTS,) if tree.missing_ok else ()
    restarts = Danger.DATA if options & {"restart", "cycle"} else Danger.NONE
    return Effect(restarts, Lock.SHARE_ROW_EXCLUSIVE, notes=notes)


def _rename(tree: Any) -> Effect:
    kind = tree.renameType.name
    notes = (_RENAMED, *((IF_EXISTS,) if tree.missing_ok else ()))
    if kind == "OBJECT_INDEX":
        return Effect(lock=Lock.SHARE_UPDATE_EXCLUSIVE, notes=notes)
    on_relation = kind in _RELATIONS or kind in ("OBJECT_COLUMN", "OBJECT_TABCONSTRAINT")
    # Tables of the type follow.
    on_relation |= kind == "OBJECT_ATTRIBUTE" and tree.behavior.name == "DROP_CASCADE"
    return Effect(lock=FULL if on_relation else Lock.NONE, notes=notes)


def _move(tree: Any) -> Effect:
    note = f"SET SCHEMA: it moves to {names.quoted(tree.newschema)}; names without a schema no longer find it"
    notes = (note, *((IF_EXISTS,) if tree.missing_ok else ()))
    return Effect(lock=FULL if tree.objectType.name in _RELATIONS else Lock.NONE, notes=notes)


def _owner(tree: Any) -> Effect:
    return Effect(lock=FULL if tree.objectType.name in _RELATIONS else Lock.NONE, notes=(OWNER,))


def _alter_enum(tree: Any) -> Effect:
    return Effect(notes=(_RENAMED,)) if tree.oldVal else Effect(additive=True)


def _truncate(tree: Any) -> Effect:
    cascade = tree.behavior.name == "DROP_CASCADE"
    note = "CASCADE empties every table that refers to it; the rehearsal names it"
    return Effect(Danger.DATA, FULL, notes=(note,) if cascade else ())


def _vacuum(tree: Any) -> Effect:
    full = any(option.defname == "full" and is_on(option) for option in tree.options or ())
    return Effect(
        lock=FULL if full else Lock.SHARE_UPDATE_EXCLUSIVE, rewrites=full, transactional=not tree.is_vacuumcmd
    )


def _reindex(tree: Any) -> Effect:
    concurrent = any(option.defname == "concurrently" and is_on(option) for option in tree.params or ())
    whole = tree.relation is None
    notes = (NO_INDEX,) if concurrent else ()
    if not whole and not concurrent:
        notes = ("where it is partitioned, PostgreSQL refuses this inside a transaction; use CONCURRENTLY",)
    return Effect(
        lock=Lock.SHARE_UPDATE_EXCLUSIVE if concurrent else FULL,
        transactional=not whole and not concurrent,
        notes=notes,
    )


def _cluster(tree: Any) -> Effect:
    return Effect(lock=FULL, rewrites=True, transactional=tree.relation is not None)


def _refresh(tree: Any) -> Effect:
    danger = Danger.DATA if tree.skipData else Danger.NONE
    return Effect(
        danger, Lock.EXCLUSIVE if tree.concurrent else FULL, rewrites=not tree.concurrent and not tree.skipData
    )


def _lock_table(tree: Any) -> Effect:
    return Effect(lock=Lock(tree.mode))


def _comment(tree: Any) -> Effect:
    kind = tree.objtype.name
    if kind in names.ON_TABLE:
        return Effect(lock=Lock.ACCESS_SHARE)
    return Effect(lock=Lock.SHARE_UPDATE_EXCLUSIVE if kind in (*_RELATIONS, "OBJECT_COLUMN") else Lock.NONE)


def _set(tree: Any) -> Effect:
    if tree.name == "search_path":
        return Effect(notes=("search_path: names without a schema mean others from here on",))
    if tree.name in ("lock_timeout", "statement_timeout"):
        return Effect(notes=(f"sets {tree.name} anew: the approval's own no longer holds",))
    if tree.name in ("row_security", "session_replication_role"):
        return Effect(notes=(f"{tree.name}: checks on rows change from here on",))
    return _NOTHING


def _move_all(_tree: Any) -> Effect:
    return Effect(lock=FULL, rewrites=True)


def _drop_owned(tree: Any) -> Effect:
    cascade = tree.behavior.name == "DROP_CASCADE"
    note = "DROP OWNED drops all that the role owns in this database, and its rights"
    return Effect(Danger.TABLE, FULL, notes=(note, *((CASCADE,) if cascade else ())))


def _reassign(_tree: Any) -> Effect:
    return Effect(lock=FULL, notes=(OWNER,))


def _statistics(tree: Any) -> Effect:
    return Effect(lock=Lock.SHARE_UPDATE_EXCLUSIVE)


def _alter_role(_tree: Any) -> Effect:
    return Effect(notes=("changes a role: its password, rights or settings",))


def _grant(_tree: Any) -> Effect:
    return _NOTHING


_KNOWN: dict[type, Any] = {
    ast.AlterTableStmt: altertable.alter_table,
    ast.AlterDefaultPrivilegesStmt: _grant,
    ast.AlterDomainStmt: altertable.alter_domain,
    ast.AlterEnumStmt: _alter_enum,
    ast.AlterObjectSchemaStmt: _move,
    ast.AlterOwnerStmt: _owner,
    ast.AlterPolicyStmt: _alter_policy,
    ast.AlterPublicationStmt: _statistics,
    ast.AlterRoleSetStmt: _alter_role,
    ast.AlterRoleStmt: _alter_role,
    ast.AlterSeqStmt: _alter_sequence,
    ast.AlterStatsStmt: _grant,
    ast.AlterTableMoveAllStmt: _move_all,
    ast.ClusterStmt: _cluster,
    ast.CommentStmt: _comment,
    ast.CreateFunctionStmt: _create_function,
    ast.CreatePolicyStmt: _create_policy,
    ast.CreatePublicationStmt: _statistics,
    ast.CreateSchemaStmt: _create_schema,
    ast.CreateSeqStmt: _create_sequence,
    ast.CreateStatsStmt: _statistics,
    ast.CreateStmt: _create_table,
    ast.CreateTrigStmt: _create_trigger,
    ast.DefineStmt: lambda tree: _replaced(tree, Lock.NONE, Lock.NONE),
    ast.DropOwnedStmt: _drop_owned,
    ast.DropStmt: _drop,
    ast.GrantRoleStmt: _grant,
    ast.GrantStmt: _grant,
    ast.IndexStmt: _create_index,
    ast.LockStmt: _lock_table,
    ast.ReassignOwnedStmt: _reassign,
    ast.RefreshMatViewStmt: _refresh,
    ast.ReindexStmt: _reindex,
    ast.RenameStmt: _rename,
    ast.RuleStmt: _create_rule,
    ast.SecLabelStmt: _comment,
    ast.TruncateStmt: _truncate,
    ast.VacuumStmt: _vacuum,
    ast.VariableSetStmt: _set,
    ast.ViewStmt: _create_view,
}
