"""How far a run is: from ledger, steps, the pass's use and what its session is at to what decisions rest on."""

from collections.abc import Mapping, Sequence

from vaultbrix.api.ddlapproval import Progress, Rehearsal
from vaultbrix.ddl.plan import Plan

# Shorter than any track_activity_query_size (PostgreSQL 20.9), which cuts what a session is shown to be at.
_COMPARED = 100


def executed(plan: Plan, *, whole: bool, steps: Mapping[int, bool]) -> int:
    """How many statements of a Job's text took effect for good."""
    return len(plan.statements) if whole else sum(steps.values())


def finished(plan: Plan, *, whole: bool, steps: Mapping[int, bool]) -> bool:
    """Whether all of a Job's text did."""
    if plan.transactional:
        return whole
    return all(steps.get(s.position, False) for s in plan.statements)


def unfinished(steps: Mapping[int, bool]) -> int | None:
    """The statement that was begun and has no end."""
    return next((position for position, done in sorted(steps.items()) if not done), None)


def used(plan: Plan, next_stmt: int) -> int:
    """How many gated statements a session has run."""
    return sum(position < next_stmt for position in plan.gated)


def used_up(plan: Plan, next_stmt: int, rehearsed: Rehearsal | None, *, allow_nested: bool) -> bool:
    """Whether a pass for a session has no more to let through.

    Where nothing is gated but what functions do, the rehearsal says which is the last statement that needs it.
    """
    if plan.gated:
        return all(position < next_stmt for position in plan.gated)
    return allow_nested and next_stmt > (_last_use(rehearsed) or len(plan.statements))


def needs_none(plan: Plan, rehearsed: Rehearsal | None) -> bool:
    """Whether nothing of a text asks for a pass, also within its functions and blocks."""
    return not plan.gated and (not plan.nested or _last_use(rehearsed) == 0)


def _last_use(rehearsed: Rehearsal | None) -> int | None:
    """Of a text that was rehearsed to its end, the place of the last statement that used the pass; 0 for none."""
    whole = rehearsed is not None and rehearsed.possible and rehearsed.error is None
    return rehearsed.used_up_to if rehearsed is not None and whole else None


def progress_of(
    plan: Plan, steps: Mapping[int, bool], query: str, phase: str, done: int, total: int, last: Progress | None
) -> Progress | None:
    """What runs now; None when the session is at none of the statements."""
    position = unfinished(steps) or _position(plan.texts, query, last.statement if last else 1)
    if position is None:
        return None
    percent = min(100, max(0, 100 * done // total)) if total > 0 else None
    return Progress(statement=position, of=len(plan.texts), phase=phase[:128], percent=percent)


def _position(texts: Sequence[str], query: str, since: int) -> int | None:
    """The statement that is sent as ``query``; of several alike, the first that is not behind what was seen last."""
    alike = [n for n, text in enumerate(texts, 1) if text[:_COMPARED] == query[:_COMPARED]]
    return next((n for n in alike if n >= since), alike[0] if alike else None)
