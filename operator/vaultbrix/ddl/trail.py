"""What there is to tell of a DDLApproval, for the record. Pure."""

from datetime import datetime

from vaultbrix.api.conditions import ConditionType, find_condition
from vaultbrix.api.ddlapproval import FINAL_PHASES, ApprovalPhase, DDLApproval, DDLApprovalStatus, Execution
from vaultbrix.api.meta import format_duration
from vaultbrix.api.trail import Happened
from vaultbrix.audit.trail.decisions import Fact, fact

# Denied is told by the decision.
_ENDS = FINAL_PHASES - {ApprovalPhase.DENIED}


def facts_of(
    approval: DDLApproval, status: DDLApprovalStatus, now: datetime, *, executed: int | None = None
) -> list[Fact]:
    """All that holds of the approval with the status that is about to be written.

    ``executed``: statements that took effect until a deleted approval's run was ended, where that is known better.
    """
    if status.phase is None and not approval.deleting:
        # The operator has not read it yet, and so nobody can have decided on it.
        return []
    found = [_requested(approval, status)]
    if approval.spec.decision is not None and status.phase not in (None, ApprovalPhase.PENDING):
        found.append(_decided(approval, status, now))
    if status.started_at is not None:
        by_job = approval.spec.execution is Execution.JOB
        text = "the Job runs the text" if by_job else "the tenant sends it from its own session"
        found.append(fact("Started", Happened.STARTED, status.started_at, why=text))
    if status.phase in _ENDS:
        found.append(_ended(status, now))
    elif approval.deleting and status.phase is not ApprovalPhase.DENIED:
        found.append(_withdrawn(approval, status, executed))
    return found


def _requested(approval: DDLApproval, status: DDLApprovalStatus) -> Fact:
    spec = approval.spec
    return fact(
        "Requested",
        Happened.REQUESTED,
        approval.metadata.creation_timestamp,
        by=spec.requested_by,
        sha256=status.sha256 or "",
        message=spec.reason,
        terms=f"execution {spec.execution}, valid for {format_duration(spec.valid_for)}",
    )


def _decided(approval: DDLApproval, status: DDLApprovalStatus, now: datetime) -> Fact:
    decision = approval.spec.decision
    assert decision is not None
    taken = find_condition(status.conditions, ConditionType.DECIDED)
    counts = taken is not None and taken.status == "True"
    known = taken is not None and not counts
    return fact(
        "Decided",
        Happened.DECIDED,
        status.decided_at or now,
        by=decision.by,
        sha256=decision.sha256,
        verdict=str(decision.verdict),
        counts=counts,
        reason=taken.reason if known and taken is not None else "",
        why=taken.message if known and taken is not None else "",
        message=decision.message,
        terms="lets functions and blocks of the text drop and alter" if decision.allow_nested else "",
        until=status.expires_at if counts else None,
    )


def _ended(status: DDLApprovalStatus, now: datetime) -> Fact:
    ready = find_condition(status.conditions, ConditionType.READY)
    at = status.finished_at or (status.expires_at if status.phase is ApprovalPhase.EXPIRED else None) or now
    why = ready.message if ready is not None else ""
    if ready is not None and ready.reason != str(status.phase):
        why = f"{ready.reason}: {why}"
    return fact(
        "Ended",
        Happened.ENDED,
        at,
        reason=str(status.phase),
        why=why,
        executed=status.executed,
    )


def _withdrawn(approval: DDLApproval, status: DDLApprovalStatus, executed: int | None) -> Fact:
    return fact(
        "Withdrawn",
        Happened.WITHDRAWN,
        approval.metadata.deletion_timestamp or approval.metadata.creation_timestamp,
        reason="Deleted",
        why="the DDLApproval was deleted",
        executed=status.executed if executed is None else max(executed, status.executed),
    )
