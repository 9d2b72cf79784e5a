"""ALTER TABLE and what shares its tree: the effect is the worst of its sub-commands.

Lock levels are those of AlterTableGetLockLevel in PostgreSQL's tablecmds.c.
"""

from typing import Any

from vaultbrix.api.ddlapproval import Danger
from vaultbrix.ddl.parse import builtin
from vaultbrix.ddl.parse.effect import Effect, Lock, worst
from vaultbrix.ddl.parse.leftovers import is_slow_detach
from vaultbrix.ddl.parse.trees import is_volatile

FULL = Lock.ACCESS_EXCLUSIVE

CASCADE = "CASCADE drops what depends on it; the rehearsal names it"
IF_EXISTS = "IF EXISTS: where it is missing nothing happens, and no error says so"
DELETES_LATER = "ON DELETE {}: from then on a DELETE on the referenced table changes or removes rows of this one"
DETACH = "DETACH: its rows leave the parent, and stay in the partition"
PENDING = "a failed DETACH CONCURRENTLY leaves the partition pending detach, to be ended with FINALIZE"
OWNER = "OWNER TO: the new owner may change and drop it, and the tenant may not unless it is a member"

_ADDITIVE = Effect(additive=True, lock=FULL)
_PLAIN = Effect(lock=FULL)
_QUIET = Effect(lock=Lock.SHARE_UPDATE_EXCLUSIVE)
_REWRITE = Effect(lock=FULL, rewrites=True)

_TRIGGERS = (
    "AT_EnableTrig",
    "AT_EnableAlwaysTrig",
    "AT_EnableReplicaTrig",
    "AT_EnableTrigAll",
    "AT_EnableTrigUser",
)

# Sub-commands whose effect does not depend on their arguments. What is not here or below is Unknown.
_SIMPLE = {
    **dict.fromkeys(_TRIGGERS, Effect(lock=Lock.SHARE_ROW_EXCLUSIVE)),
    **dict.fromkeys(
        ("AT_DisableTrig", "AT_DisableTrigAll", "AT_DisableTrigUser"),
        Effect(Danger.CODE, Lock.SHARE_ROW_EXCLUSIVE, notes=("DISABLE TRIGGER: checks and audit by triggers stop",)),
    ),
    "AT_DisableRule": Effect(Danger.CODE, FULL, notes=("DISABLE RULE: what the rule did stops",)),
    "AT_DisableRowSecurity": Effect(
        Danger.CODE, FULL, notes=("DISABLE ROW LEVEL SECURITY: policies no longer hide rows from anybody",)
    ),
    "AT_NoForceRowSecurity": Effect(
        Danger.CODE, FULL, notes=("NO FORCE ROW LEVEL SECURITY: policies no longer hold for the table's owner",)
    ),
    "AT_EnableRowSecurity": Effect(lock=FULL, notes=("ENABLE ROW LEVEL SECURITY hides rows that no policy shows",)),
    "AT_ChangeOwner": Effect(lock=FULL, notes=(OWNER,)),
    "AT_SetNotNull": _ADDITIVE,
    "AT_DropNotNull": Effect(Danger.CONSTRAINT, FULL),
    "AT_ValidateConstraint": Effect(additive=True, lock=Lock.SHARE_UPDATE_EXCLUSIVE),
    "AT_DropExpression": Effect(Danger.CODE, FULL),
    "AT_SetExpression": Effect(Danger.DATA, FULL, rewrites=True),
    "AT_DropIdentity": Effect(Danger.DATA, FULL, notes=("DROP IDENTITY drops the column's sequence",)),
    "AT_SetLogged": _REWRITE,
    "AT_SetUnLogged": Effect(
        Danger.DATA, FULL, rewrites=True, notes=("UNLOGGED: PostgreSQL empties the table after a crash",)
    ),
    "AT_DetachPartitionFinalize": Effect(Danger.DATA, FULL, notes=(DETACH,)),
    "AT_DropInherit": Effect(Danger.DATA, FULL, notes=("NO INHERIT: its rows leave the parent, and stay in it",)),
    "AT_SetAccessMethod": _REWRITE,
    "AT_SetTableSpace": _REWRITE,
    **dict.fromkeys(("AT_SetStatistics", "AT_SetOptions", "AT_ResetOptions", "AT_ClusterOn", "AT_DropCluster"), _QUIET),
    **dict.fromkeys(
        (
            "AT_SetStorage",
            "AT_SetCompression",
            "AT_AlterConstraint",
            "AT_AlterColumnGenericOptions",
            "AT_GenericOptions",
            "AT_DropOids",
            "AT_EnableRule",
            "AT_EnableAlwaysRule",
            "AT_EnableReplicaRule",
            "AT_AddInherit",
            "AT_AddOf",
            "AT_DropOf",
            "AT_ReplicaIdentity",
            "AT_ForceRowSecurity",
            "AT_AttachPartition",
            "AT_AddIndex",
        ),
        _PLAIN,
    ),
}

_QUIET_OPTIONS = ("fillfactor", "toast_tuple_target", "parallel_workers", "deduplicate_items", "n_distinct")
_QUIET_PREFIXES = ("autovacuum_", "vacuum_", "log_autovacuum_")

_ROWLESS = ("OBJECT_INDEX", "OBJECT_VIEW", "OBJECT_SEQUENCE", "OBJECT_FOREIGN_TABLE", "OBJECT_TYPE")


def alter_table(tree: Any) -> Effect:
    """Effect of an AlterTableStmt on a table, index, view, sequence or composite type."""
    kind = tree.objtype.name
    effect = Effect(additive=kind == "OBJECT_TABLE")
    if tree.missing_ok:
        effect |= Effect(additive=True, notes=(IF_EXISTS,))
    for command in tree.cmds:
        effect |= _command(command)
    if kind in _ROWLESS:
        effect = Effect(effect.danger, effect.lock, False, effect.transactional, False, effect.notes)
    return effect


def _command(command: Any) -> Effect:
    name = command.subtype.name
    simple = _SIMPLE.get(name)
    if simple is not None:
        return simple
    cascade = command.behavior.name == "DROP_CASCADE"
    notes = (*((CASCADE,) if cascade else ()), *((IF_EXISTS,) if command.missing_ok else ()))
    match name:
        case "AT_AddColumn":
            # For a composite type, and IF NOT EXISTS.
            return column(command.def_)
        case "AT_DropColumn":
            return Effect(Danger.TABLE if cascade else Danger.COLUMN, FULL, notes=notes)
        case "AT_DropConstraint":
            return Effect(Danger.TABLE if cascade else Danger.CONSTRAINT, FULL, notes=notes)
        case "AT_AddConstraint":
            return constraint(command.def_)
        case "AT_ColumnDefault":
            return Effect(Danger.CODE, FULL, additive=True, notes=("the default that was there is lost",))
        case "AT_AlterColumnType":
            return Effect(
                Danger.DATA, FULL, rewrites=True, notes=("values are converted to the new type, which may lose some",)
            )
        case "AT_AddIdentity":
            return _PLAIN
        case "AT_SetIdentity":
            restarts = any(option.defname == "restart" for option in command.def_ or ())
            return Effect(Danger.DATA if restarts else Danger.NONE, FULL)
        case "AT_SetRelOptions" | "AT_ResetRelOptions":
            quiet = all(_is_quiet(option.defname) for option in command.def_ or ())
            return _QUIET if quiet else _PLAIN
        case "AT_DetachPartition":
            concurrent = is_slow_detach(command)
            return Effect(
                Danger.DATA,
                Lock.SHARE_UPDATE_EXCLUSIVE if concurrent else FULL,
                transactional=not concurrent,
                notes=(DETACH, PENDING) if concurrent else (DETACH,),
            )
        case _:
            return Effect(Danger.UNKNOWN, FULL)


def _is_quiet(option: str) -> bool:
    return option in _QUIET_OPTIONS or option.startswith(_QUIET_PREFIXES)


def column(definition: Any) -> Effect:
    """Effect of ADD COLUMN (Notes of ALTER TABLE): a constant default is kept aside, any other is written out."""
    effect = Effect(additive=True, lock=FULL)
    if builtin.is_serial(definition.typeName):
        effect |= _REWRITE
    elif not builtin.is_type(definition.typeName):
        effect |= Effect(
            lock=FULL, rewrites=True, notes=("the table is rewritten if the column's type is a domain with a check",)
        )
    for item in definition.constraints or ():
        match item.contype.name:
            case "CONSTR_DEFAULT":
                effect |= Effect(lock=FULL, additive=True, rewrites=is_volatile(item.raw_expr))
            case "CONSTR_IDENTITY":
                effect |= _REWRITE
            case "CONSTR_GENERATED":
                effect |= Effect(lock=FULL, rewrites=item.generated_kind != "v")
            case _:
                effect |= constraint(item)
    if effect.rewrites:
        effect |= Effect(lock=FULL)
    return effect


def constraint(definition: Any) -> Effect:
    """Effect of a constraint that is added to a table with rows."""
    kind = definition.contype.name
    if kind == "CONSTR_FOREIGN":
        return _foreign_key(definition)
    return Effect(lock=FULL, additive=not definition.indexname)


def _foreign_key(definition: Any) -> Effect:
    action = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}.get(definition.fk_del_action)
    notes = (DELETES_LATER.format(action),) if action else ()
    return Effect(lock=Lock.SHARE_ROW_EXCLUSIVE, additive=not action, notes=notes)


def alter_domain(tree: Any) -> Effect:
    """Effect of an AlterDomainStmt; a new check reads the tables that use the domain."""
    cascade = tree.behavior.name == "DROP_CASCADE"
    notes = (*((CASCADE,) if cascade else ()), *((IF_EXISTS,) if tree.missing_ok else ()))
    match tree.subtype:
        case "T":
            return Effect(Danger.CODE, notes=("the default that was there is lost",))
        case "N":
            return Effect(Danger.CONSTRAINT)
        case "X":
            return Effect(worst(Danger.CONSTRAINT, Danger.TABLE if cascade else Danger.NONE), notes=notes)
        case "O" | "C" | "V":
            return Effect(lock=Lock.SHARE)
        case _:
            return Effect(Danger.UNKNOWN, FULL)
