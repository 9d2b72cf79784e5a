"""What an approver needs to know of a DDLApproval, whether a decision on it can be written, what comes next. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from shlex import quote

from vaultbrix.api.conditions import Condition, ConditionType, Reason, find_condition
from vaultbrix.api.ddlapproval import (
    FINAL_PHASES,
    ApprovalPhase,
    Danger,
    DDLApproval,
    Execution,
    ExecutionError,
    Rehearsal,
    StatementSummary,
    Verdict,
)
from vaultbrix.api.meta import rfc3339
from vaultbrix.ddl.decisions import asked_for_by
from vaultbrix.ddl.plan import RejectedText, digest, plan
from vaultbrix.postgres.shell_lines import ShellCredentials
from vaultbrix.runtime.durations import span
from vaultbrix.runtime.usage import Misused, Refused
from vaultbrix.runtime.visible import foreign, visible

# What a person types, or a script names, so that it decides on no other text than the one it means.
PREFIX = 8
# What the field holds (decision.message).
LONGEST_MESSAGE = 1024

MOST_FOREIGN = 5

_SEVERITY = list(Danger)
_UNDECIDED = (None, ApprovalPhase.PENDING)


def worst(statements: Iterable[StatementSummary]) -> Danger | None:
    """The worst danger among statements; None without any."""
    return max((s.danger for s in statements), key=_SEVERITY.index, default=None)


def waiting(approval: DDLApproval) -> bool:
    """Whether it waits for a person's decision."""
    return approval.spec.decision is None and approval.status.phase in _UNDECIDED and not approval.deleting


def by_urgency(approvals: Iterable[DDLApproval]) -> list[DDLApproval]:
    """Those that wait for a decision first, the oldest before all; then what runs or will; the ended, latest first."""

    def key(approval: DDLApproval) -> tuple[int, float, tuple[str, str]]:
        phase, created = approval.status.phase, approval.metadata.creation_timestamp.timestamp()
        if waiting(approval):
            return 0, created, approval.key
        if phase not in FINAL_PHASES:
            return (1 if phase is ApprovalPhase.RUNNING else 2), created, approval.key
        ended = approval.status.finished_at or approval.status.decided_at or approval.metadata.creation_timestamp
        return 3, -ended.timestamp(), approval.key

    return sorted(approvals, key=key)


class Rehearsed(Enum):
    """How far the rehearsal of an approval is. ``NONE``: there is none, and the operator announces none."""

    NONE = "none"
    WAITING = "waiting"
    IMPOSSIBLE = "impossible"
    FAILED = "failed"
    DONE = "done"


def rehearsed(approval: DDLApproval) -> Rehearsed:
    """How far the rehearsal is, by what the operator has written into the status."""
    rehearsal = approval.status.rehearsal
    if rehearsal is not None:
        if rehearsal.error is not None:
            return Rehearsed.FAILED
        return Rehearsed.DONE if rehearsal.possible else Rehearsed.IMPOSSIBLE
    condition = find_condition(approval.status.conditions, ConditionType.REHEARSED)
    if condition is None or condition.reason == Reason.NOT_SUPPORTED:
        return Rehearsed.NONE
    if condition.reason == Reason.NOT_POSSIBLE:
        return Rehearsed.IMPOSSIBLE
    return Rehearsed.FAILED if condition.reason == Reason.REHEARSAL_FAILED else Rehearsed.WAITING


@dataclass(frozen=True)
class Victim:
    """Something that would be dropped, emptied, altered or rewritten.

    ``rows`` is an estimate, -1 for a table that was never counted; both it and ``bytes`` are None where no size is
    known.
    """

    name: str
    rows: int | None = None
    bytes: int | None = None
    rewritten: bool = False


def victims(rehearsal: Rehearsal) -> tuple[list[Victim], list[Victim]]:
    """What a rehearsed text would drop or empty, and what would stay but is altered or rewritten."""
    unclaimed = {a.object: a for a in rehearsal.affected}
    gone = []
    for name in rehearsal.drops:
        # Drops may begin with their kind, as in "table acme.orders".
        sized = unclaimed.pop(name, None) or unclaimed.pop(name.partition(" ")[2], None)
        gone.append(Victim(name, sized.rows, sized.bytes, sized.rewritten) if sized else Victim(name))
    return gone, [Victim(a.object, a.rows, a.bytes, a.rewritten) for a in unclaimed.values()]


def warnings(statement: StatementSummary) -> list[str]:
    """What an approver should know of a statement besides its row in the table."""
    notes = list(statement.notes)
    if not statement.transactional:
        notes.append("runs outside a transaction: what it did stays when a later statement fails")
    if cut(statement):
        notes.append("longer than is shown here")
    strange = foreign(statement.sql)
    if strange and not any(strange[0].split()[0] in note for note in statement.notes):
        more = f" and {len(strange) - MOST_FOREIGN} more" if len(strange) > MOST_FOREIGN else ""
        notes.append(f"characters that are not Latin: {', '.join(strange[:MOST_FOREIGN])}{more}")
    return notes


def cut(statement: StatementSummary) -> bool:
    """Whether the statement is longer than what the status holds of it."""
    return len(statement.sql) >= 1024


def genuine(approval: DDLApproval) -> bool:
    """Whether status.sha256, where there is one, is that of the text."""
    return approval.status.sha256 in (None, digest(approval.spec.sql).hex())


def contradictions(approval: DDLApproval) -> list[str]:
    """What the same parser reads here of a text that waits for a decision, where the status says something else."""
    if not waiting(approval) or approval.status.sha256 is None:
        return []
    try:
        here = {s.position: s.sql for s in plan(approval.spec.sql).statements}
    except RejectedText as error:
        return [f"here, it would be rejected: {error}"]
    there = {s.position: s.sql for s in approval.status.statements}
    differing = sorted(n for n in here.keys() | there.keys() if here.get(n) != there.get(n))
    return [f"read here, statement {n} is: {here.get(n, 'not there')}" for n in differing]


def not_true(approval: DDLApproval) -> list[Condition]:
    """The approval's conditions that are not True, Ready first, each cause once.

    An approval that has run has none; those that say only that nobody has decided yet are left out.
    """
    if approval.status.phase is ApprovalPhase.SUCCEEDED:
        return []
    by_cause: dict[tuple[str, str], Condition] = {}
    for condition in sorted(approval.status.conditions, key=lambda c: c.type != ConditionType.READY):
        expected = condition.reason == Reason.UNDECIDED or condition.type == ConditionType.PASS_ISSUED
        if condition.status != "True" and not (expected and waiting(approval)):
            by_cause.setdefault((condition.reason, condition.message), condition)
    return list(by_cause.values())


def state(approval: DDLApproval, now: datetime) -> str:
    """Where it stands, as a sentence without a subject."""
    status, decision = approval.status, approval.spec.decision
    by = decision.by if decision else "nobody"
    match status.phase:
        case None | ApprovalPhase.PENDING if decision is not None:
            return f"{decision.verdict} by {by}; the operator has yet to take that over"
        case None:
            return "not looked at by the operator yet"
        case ApprovalPhase.PENDING:
            return f"has waited {span(now - approval.metadata.creation_timestamp)} for a decision"
        case ApprovalPhase.APPROVED:
            left = f", for {span(status.expires_at - now)} more" if status.expires_at else ""
            return f"approved by {by}{left}"
        case ApprovalPhase.RUNNING:
            return f"has run for {span(now - status.started_at)}" if status.started_at else "runs"
        case ApprovalPhase.SUCCEEDED | ApprovalPhase.FAILED as phase:
            done = "ran" if phase is ApprovalPhase.SUCCEEDED else "failed"
            return f"{done} {span(now - status.finished_at)} ago" if status.finished_at else done
        case ApprovalPhase.DENIED:
            return f"denied by {by}"
        case ApprovalPhase.EXPIRED:
            return "expired before it ran"
        case ApprovalPhase.INVALID:
            return "cannot be approved"


def why(approval: DDLApproval) -> str:
    """What the operator says last, in one line; empty when it has said nothing."""
    ready = find_condition(approval.status.conditions, ConditionType.READY)
    return f"{ready.reason}: {ready.message}" if ready else ""


def shortfall(approval: DDLApproval, now: datetime) -> str:
    """Why it did not come to what is waited for, or has not yet, in one line."""
    status = approval.status
    if status.phase is None:
        return "nothing has looked at it yet; is the operator running?"
    reported = why(approval)
    if status.phase in FINAL_PHASES:
        return reported or f"{status.phase}: {state(approval, now)}"
    return f"{state(approval, now)}{f' ({reported})' if reported and not waiting(approval) else ''}"


def progress(approval: DDLApproval, now: datetime) -> str:
    """How far a run is, or what it waits for, in one line."""
    run, status = approval.status.progress, approval.status
    if status.phase is not ApprovalPhase.RUNNING or run is None:
        return f"{status.phase or 'New'}: {state(approval, now)}"
    phase = f", {run.phase}" if run.phase else ""
    percent = f", {run.percent} %" if run.percent is not None else ""
    return f"{status.phase}: statement {run.statement} of {run.of}{phase}{percent}"


def milestone(approval: DDLApproval) -> tuple[object, ...]:
    """What a change of is worth a line in a log: not every second, nor every percent of a run."""
    run, status = approval.status.progress, approval.status
    tens = None if run is None or run.percent is None else run.percent // 10
    return status.phase, approval.spec.decision is None, run and (run.statement, run.phase, tens)


def settled(approval: DDLApproval, *, decided: bool) -> ApprovalPhase | None:
    """How what is waited for came out, None while it has not.

    With ``decided`` only the decision counts, so that an approval is one however its run ends.
    """
    phase, decision = approval.status.phase, approval.spec.decision
    if not decided:
        return phase if phase in FINAL_PHASES else None
    if phase in (ApprovalPhase.DENIED, ApprovalPhase.INVALID) or phase in _UNDECIDED:
        return None if phase in _UNDECIDED else phase
    return ApprovalPhase.APPROVED if decision is not None else phase


def check_decision(approval: DDLApproval, verdict: Verdict, by: str, *, despite_rehearsal: bool = False) -> str:
    """The sha256 to decide on. Raises Refused when the decision would not count, or not mean what was shown."""
    objection = _objection(approval, by)
    if objection is None and verdict is Verdict.APPROVED and not despite_rehearsal:
        objection = _doubt(approval)
    if objection is not None:
        raise Refused(visible(f"{approval.metadata.name} {objection}"))
    assert approval.status.sha256 is not None
    return approval.status.sha256


def _objection(approval: DDLApproval, by: str) -> str | None:
    phase, decision, sha256 = approval.status.phase, approval.spec.decision, approval.status.sha256
    if approval.deleting:
        return "is withdrawn: it was deleted; nothing to decide"
    if decision is not None:
        return (
            f"was decided: {decision.verdict} by {decision.by}; a decision is written once, another one needs another "
            "DDLApproval: vaultbrix ddl submit"
        )
    if phase not in _UNDECIDED:
        return f"is {phase}, so nothing is left to decide ({why(approval) or 'see its conditions'})"
    if asked_for_by(approval, by):
        return f"was asked for by {by}, who cannot decide on it; ask another admin, or withdraw it with kubectl delete"
    if sha256 is None:
        return "has not been read by the operator yet, so there is no sha256 to decide on; is the operator running?"
    if not genuine(approval):
        return (
            "has a status.sha256 that is not that of spec.sql, so what the status says is of another text; somebody "
            "else than the operator wrote it: find out who"
        )
    return None


def _doubt(approval: DDLApproval) -> str | None:
    anyway = "approve it all the same with --despite-rehearsal"
    rehearsal = approval.status.rehearsal
    if rehearsal is not None and rehearsal.others:
        return f"takes along what is somebody else's ({rehearsal.others[0]}): have its owner drop it first, or {anyway}"
    match rehearsed(approval):
        case Rehearsed.FAILED:
            error = describe_error(rehearsal.error if rehearsal else None)
            return f"failed when it was rehearsed ({error}) and would fail again; {anyway}"
        case Rehearsed.WAITING:
            return f"is not rehearsed yet, so its effect is not known; try again soon, or {anyway}"
        case _:
            return None


def cautions(approval: DDLApproval, verdict: Verdict, *, allow_nested: bool) -> list[str]:
    """What whoever is about to decide so should know of what comes of it, each in one line."""
    rehearsal = approval.status.rehearsal
    nested = rehearsal is not None and rehearsal.nested
    if verdict is not Verdict.APPROVED or not nested or allow_nested:
        return []
    return [
        "functions, DO blocks or triggers of it drop or alter, as its rehearsal shows, and without --allow-nested "
        "that is refused when it runs"
    ]


def describe_error(error: ExecutionError | None) -> str:
    """An error of a run or rehearsal in one line: statement and its line, PostgreSQL's SQLSTATE and message."""
    return error.in_one_line if error is not None else "see its conditions"


def check_options(verdict: Verdict, message: str, sha256: str) -> None:
    """Raises Misused for what a decision by command line must not be, whatever it is on."""
    if sha256:
        check_prefix(sha256)
    if len(message) > LONGEST_MESSAGE:
        raise Misused(f"--message: has {len(message)} characters, at most {LONGEST_MESSAGE} are kept; shorten it")
    if verdict is Verdict.DENIED and not message.strip():
        raise Misused("--message: say why, so that whoever asked can do better")


def check_prefix(prefix: str) -> str:
    """``--sha256`` or what was typed, in lower case. Raises Misused."""
    text = prefix.strip().lower()
    if not PREFIX <= len(text) <= 64 or set(text) - set("0123456789abcdef"):
        raise Misused(f"--sha256 {prefix}: give its first {PREFIX} or more characters, as it was shown")
    return text


def seen(approval: DDLApproval) -> tuple[object, ...]:
    """All of it that a decision rests on: the same before and after means that what was shown is what is decided."""
    status = approval.status
    return (
        approval.metadata.uid, approval.deleting, approval.spec, status.phase, status.sha256, status.statements,
        status.rehearsal,
    )  # fmt: skip


_HINTS = {
    "55P03": "it waited too long for a lock: submit it again when less is going on, or with a longer --lock-timeout",
    "57014": "it took longer than allowed: submit it again with a longer --statement-timeout",
}
_REASON_HINTS = {
    str(Reason.EFFECT_GREW): "more would go than was approved: submit it again, so that it is shown and decided anew",
    str(Reason.INTERRUPTED): "look what it did before it broke off, and submit only what is left to do",
}


def sent_by_tenant(approval: DDLApproval) -> bool:
    """Whether it waits for the tenant to send its statements."""
    return approval.status.phase is ApprovalPhase.APPROVED and approval.spec.execution is Execution.SESSION


def next_steps(approval: DDLApproval, credentials: ShellCredentials) -> list[str]:
    """What a person can do now, most useful first: commands or sentences. ``credentials`` are the tenant's."""
    name, namespace, tenant = approval.metadata.name, approval.metadata.namespace, approval.spec.tenant_ref.name
    where = f"{name} -n {namespace}"
    again = f"vaultbrix ddl submit {tenant} -n {namespace} -f FILE --reason ..."
    match approval.status.phase:
        case None | ApprovalPhase.PENDING if approval.spec.decision is None:
            return [
                f"to decide, as somebody else than {approval.spec.requested_by}: vaultbrix ddl approve {where}",
                f"                or: vaultbrix ddl deny {where} --message ...",
                f"to withdraw it: kubectl delete ddl {where}",
            ]
        case ApprovalPhase.APPROVED if sent_by_tenant(approval):
            end = approval.status.expires_at
            text = f"kubectl -n {quote(namespace)} get ddl {quote(name)} -o jsonpath='{{.spec.sql}}'"
            return [
                f"send it now as the tenant, once{f', before {rfc3339(end)}' if end else ''}: with the migration tool, "
                "or, with an AccessRule open:",
                *(f"  {line}" for line in credentials.preparation),
                f"  {text} | psql -v ON_ERROR_STOP=1 {credentials.conninfo}",
            ]
        case None | ApprovalPhase.PENDING | ApprovalPhase.APPROVED | ApprovalPhase.RUNNING:
            return [f"to see how it ends: vaultbrix ddl wait {where}"]
        case ApprovalPhase.FAILED:
            error, ready = approval.status.error, find_condition(approval.status.conditions, ConditionType.READY)
            hint = _HINTS.get(error.sqlstate if error else "") or _REASON_HINTS.get(ready.reason if ready else "")
            if _half_done(approval):
                hint = _REASON_HINTS[str(Reason.INTERRUPTED)]
            return [hint or f"correct it, and submit it again: {again}"]
        case ApprovalPhase.EXPIRED:
            return [f"submit it again: {again}"]
        case ApprovalPhase.DENIED | ApprovalPhase.INVALID:
            return [f"correct it, and submit it again: {again}"]
        case ApprovalPhase.SUCCEEDED:
            return []


def _half_done(approval: DDLApproval) -> bool:
    """Whether a run that failed has left something: statements that took effect, or a half of one."""
    status = approval.status
    failed_at = status.error.statement if status.error else 0
    outside = any(s.position == failed_at and not s.transactional for s in status.statements)
    return outside or status.executed > 0
