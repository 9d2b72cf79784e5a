"""Rehearsals: from what a text did before it was rolled back to what the approver is shown and a run is held to."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.ddlapproval import (
    FINAL_PHASES,
    Affected,
    DDLApproval,
    ExecutionError,
    LockTaken,
    Rehearsal,
)
from vaultbrix.ddl.plan import Plan
from vaultbrix.runtime.counted import counted, verb
from vaultbrix.runtime.visible import visible

# A rehearsal holds the locks of the real thing, so it gives way early and is over soon, all statements together.
LONGEST_LOCK_WAIT = timedelta(seconds=2)
LONGEST = timedelta(seconds=30)

_MOST_DROPS = 512
_MOST_SHOWN = 64
_LONGEST_NAME = 255

# Refused locks, deadlocks and lost connections (PostgreSQL, Appendix A) say nothing about the text: tried again.
# One that takes too long would hold its locks for as long each time.
_PASSING = frozenset({"55P03", "40P01", "40001", "57P01", "57P02", "08006"})
_FIRST_PAUSE = timedelta(seconds=30)
_LONGEST_PAUSE = timedelta(minutes=10)

# Table-level locks from the weakest to the strongest (PostgreSQL 13.3.1); reading alone is not worth a line.
_STRENGTH = {
    mode: strength
    for strength, mode in enumerate(
        (
            "RowShareLock",
            "RowExclusiveLock",
            "ShareUpdateExclusiveLock",
            "ShareLock",
            "ShareRowExclusiveLock",
            "ExclusiveLock",
            "AccessExclusiveLock",
        )
    )
}
_ALTERING = _STRENGTH["ShareUpdateExclusiveLock"]


@dataclass(frozen=True)
class Table:
    """A table that stood there before. ``rows`` as the planner estimates, -1 for unknown."""

    name: str
    rows: int
    bytes: int
    gone: bool = False
    moved: bool = False
    locks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effects:
    """What was seen before the rollback.

    ``drops`` as the gate names them, ``others`` those of them that are not the tenant's; ``tables`` only those that
    were locked; ``used_up_to`` the place of the last statement that used the pass, 0 for none.
    """

    duration_ms: int
    drops: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    error: ExecutionError | None = None
    nested: bool = field(default=False)
    others: tuple[str, ...] = ()
    used_up_to: int | None = None


def rehearsable(plan: Plan) -> int:
    """How many statements from the first on can be rolled back."""
    return next((s.position - 1 for s in plan.statements if not s.transactional), len(plan.statements))


def due(approval: DDLApproval, now: datetime) -> datetime | None:
    """When the approval is to be rehearsed (again), None when not at all.

    Once for each text, before the decision: what was shown to who decides is what the run is held to, however much
    later the decision comes. Only what failed for want of a lock or of time is repeated.
    """
    status = approval.status
    if approval.deleting or approval.spec.decision is not None or status.phase in FINAL_PHASES or not status.sha256:
        return None
    last = status.rehearsal
    if last is None:
        return now
    if last.error is None or last.error.sqlstate not in _PASSING:
        return None
    age = last.at - approval.metadata.creation_timestamp
    return max(now, last.at + min(_LONGEST_PAUSE, max(_FIRST_PAUSE, age)))


def shown(plan: Plan, effects: Effects, now: datetime) -> Rehearsal:
    """What the status says."""
    count, total = rehearsable(plan), len(plan.statements)
    notes = []
    if count < total:
        notes.append(
            f"statement {count + 1} runs outside a transaction and cannot be rolled back: "
            + (
                f"only the {count} before it {verb(count, 'was', 'were')} rehearsed"
                if count
                else "nothing was rehearsed"
            )
        )
        notes.append("the text does not run as a whole: what ran stays when a later statement fails")
    if effects.nested:
        notes.append("a function, DO block or trigger drops or alters: refused unless decision.allowNested is true")
    names = sorted({name[:_LONGEST_NAME] for name in effects.drops})
    if not _complete(effects.drops):
        notes.append(f"{len(set(effects.drops))} objects go, too many to name, and a run is not held to them")
    return Rehearsal(
        possible=count == total,
        at=now.replace(microsecond=0),
        duration_ms=effects.duration_ms,
        drops=names[:_MOST_DROPS],
        others=[name[:_LONGEST_NAME] for name in effects.others][:_MOST_SHOWN],
        locks=_locks(effects.tables),
        affected=_affected(effects),
        effect_sha256=effect_hash(effects.drops) if effects.error is None and count else "",
        used_up_to=effects.used_up_to,
        nested=effects.nested,
        error=plan.placed(effects.error) if effects.error else None,
        message="; ".join(notes)[:1024],
    )


def effect_hash(drops: Collection[str]) -> str:
    """sha256 of what is dropped or emptied, whatever the order."""
    return hashlib.sha256("\n".join(sorted(set(drops))).encode()).hexdigest()


def expected_drops(rehearsal: Rehearsal | None) -> Sequence[str] | None:
    """What the run may drop or empty at most; None where nothing that was shown binds it.

    A list that was cut short binds to nothing, since its hash is not that of what it names.
    """
    if rehearsal is None or not rehearsal.possible or rehearsal.error is not None:
        return None
    return rehearsal.drops if effect_hash(rehearsal.drops) == rehearsal.effect_sha256 else None


def grown(expected: Sequence[str], drops: Collection[str]) -> list[str]:
    """What goes now and was not shown."""
    return sorted(set(drops) - set(expected))


def verdict(approval: DDLApproval, rehearsal: Rehearsal | None, waits: str) -> State:
    """Condition Rehearsed; ``waits`` says why there is no rehearsal yet, empty where nothing is in its way."""
    if rehearsal is None:
        decided = approval.spec.decision is not None or approval.status.phase in FINAL_PHASES
        if decided:
            return State(
                False, Reason.NOT_POSSIBLE, "it was decided before it was rehearsed; nothing binds what it drops"
            )
        return State(None, Reason.WAITING, waits or "waits for its rehearsal")
    if rehearsal.error is not None:
        text = rehearsal.error.in_one_line
        return State(False, Reason.REHEARSAL_FAILED, "; ".join(filter(None, (text, rehearsal.message))))
    if not rehearsal.possible:
        return State(False, Reason.NOT_POSSIBLE, rehearsal.message)
    text = f"{counted(len(rehearsal.drops), 'object')} would go, in {rehearsal.duration_ms} ms"
    if rehearsal.others:
        others = len(rehearsal.others)
        return State(
            False,
            Reason.DEPENDENTS_REMAIN,
            f"{text}; {others} of them {verb(others, 'is', 'are')} somebody else's, such as "
            f"{visible(rehearsal.others[0])}: have their owners drop or change these first",
        )
    return State(True, Reason.REHEARSED, "; ".join(filter(None, (text, rehearsal.message))))


def _complete(drops: Sequence[str]) -> bool:
    return len(set(drops)) <= _MOST_DROPS and all(len(name) <= _LONGEST_NAME for name in drops)


def _strongest(table: Table) -> str:
    return max((mode for mode in table.locks if mode in _STRENGTH), key=_STRENGTH.__getitem__, default="")


def _locks(tables: Sequence[Table]) -> list[LockTaken]:
    taken = [(mode, table.name) for table in tables if (mode := _strongest(table))]
    taken.sort(key=lambda pair: (-_STRENGTH[pair[0]], pair[1]))
    return [LockTaken(object=name[:_LONGEST_NAME], mode=mode) for mode, name in taken[:_MOST_SHOWN]]


def _affected(effects: Effects) -> list[Affected]:
    emptied = {name.removeprefix("truncate ") for name in effects.drops if name.startswith("truncate ")}
    affected = [
        Affected(
            object=table.name[:_LONGEST_NAME],
            rows=table.rows,
            bytes=table.bytes,
            rewritten=table.moved and not table.gone and table.name not in emptied,
        )
        for table in effects.tables
        if table.gone or table.moved or _STRENGTH.get(_strongest(table), -1) >= _ALTERING
    ]
    return sorted(affected, key=lambda table: (-table.bytes, table.object))[:_MOST_SHOWN]
