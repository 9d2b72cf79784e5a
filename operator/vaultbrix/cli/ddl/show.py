"""``vaultbrix ddl show`` and ``ddl list``: print what an approver needs to see."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vaultbrix.api.ddlapproval import ApprovalPhase, Danger, DDLApproval, Execution, Rehearsal, StatementSummary
from vaultbrix.api.meta import format_duration, rfc3339
from vaultbrix.cli.output import Format, document, painted, short, show, table, tell
from vaultbrix.ddl import review
from vaultbrix.ddl.actions import ApprovalsOptions, list_approvals, next_steps
from vaultbrix.kube.person import PersonClient, manifest_list
from vaultbrix.runtime.counted import counted, verb
from vaultbrix.runtime.durations import span
from vaultbrix.runtime.visible import lines

if TYPE_CHECKING:
    from rich.text import Text

_MIB = 1024 * 1024
_COLOURS = {
    Danger.NONE: "green",
    Danger.INDEX: "yellow",
    Danger.CONSTRAINT: "yellow",
    Danger.CODE: "yellow",
    Danger.DATA: "bold red",
    Danger.COLUMN: "bold red",
    Danger.TABLE: "bold red",
    Danger.UNKNOWN: "magenta",
}
_PHASES = {
    ApprovalPhase.PENDING: "bold",
    ApprovalPhase.SUCCEEDED: "green",
    ApprovalPhase.FAILED: "red",
    ApprovalPhase.INVALID: "red",
    ApprovalPhase.DENIED: "red",
}


async def print_approval(client: PersonClient, name: str, form: Format, *, sql: bool) -> int:
    """Print one approval and what comes next, with ``sql`` its text too; returns exit code 0."""
    approval = await client.fetch(DDLApproval, name)
    if form is not Format.TABLE:
        document(approval.manifest, form)
        return 0
    describe(approval.resource, sql=sql)
    for step in await next_steps(client, approval.resource):
        tell(step)
    return 0


def describe(approval: DDLApproval, *, sql: bool) -> None:
    """Print all of an approval but what to do next, with ``sql`` its text too; ends with an empty line."""
    now = datetime.now(UTC)
    _print_head(approval, now)
    print_statements(approval.status.statements)
    if not review.genuine(approval):
        tell("! status.sha256 is not that of spec.sql: the statements above are not those of the text", "bold red")
        tell()
    if differences := review.contradictions(approval):
        tell("! The status does not say what this program reads: another version, or somebody wrote it.", "bold red")
        for difference in differences:
            tell(f"! {difference}", "bold red")
        tell()
    _print_rehearsal(approval)
    _print_run(approval)
    if conditions := review.not_true(approval):
        for condition in conditions:
            tell(f"{condition.type} is {condition.status}: {condition.reason}: {condition.message}")
        tell()
    if sql:
        _print_text(approval.spec.sql)


def _print_head(approval: DDLApproval, now: datetime) -> None:
    spec, meta = approval.spec, approval.metadata
    phase = approval.status.phase
    tell(
        f"DDLApproval {meta.name} in namespace {meta.namespace}: {phase or 'New'}, {review.state(approval, now)}",
        "bold",
    )
    tell()
    who = "the operator runs it as the tenant" if spec.execution is Execution.JOB else "the tenant sends it, once"
    limits = f"lock timeout {format_duration(spec.lock_timeout)}, statement timeout "
    _print_field("tenant", spec.tenant_ref.name)
    _print_field("requested by", f"{spec.requested_by}, {span(now - meta.creation_timestamp)} ago")
    _print_field("reason", spec.reason)
    _print_field("execution", f"{spec.execution}: {who}; {limits}{format_duration(spec.statement_timeout)}")
    ends, lasts = approval.status.expires_at, format_duration(spec.valid_for)
    _print_field("valid", f"until {rfc3339(ends)}" if ends else f"for {lasts} once it is approved")
    _print_field("sha256", approval.status.sha256 or "not yet known")
    if spec.decision is not None:
        nested = ", with what functions and DO blocks of it do" if spec.decision.allow_nested else ""
        at = f" at {rfc3339(approval.status.decided_at)}" if approval.status.decided_at else ""
        message = f": {spec.decision.message}" if spec.decision.message else ""
        _print_field("decision", f"{spec.decision.verdict} by {spec.decision.by}{at}{nested}{message}")
    tell()


def _print_field(name: str, value: str) -> None:
    tell(f"  {name:14}{value}")


def _danger_cell(danger: Danger | None) -> "Text":
    return painted(danger or "", _COLOURS[danger] if danger else "")


def print_statements(statements: Sequence[StatementSummary]) -> None:
    """Print what the parser understood: a table, then each statement in full with what is to be known of it."""
    if not statements:
        return
    # A column that says nothing costs those that do, where the terminal is narrow.
    rewriting = any(s.rewrites for s in statements)
    headers = ("#", "STATEMENT", "OBJECTS", "LOSES", *(["REWRITES"] if rewriting else []), "LOCK", "GATE")
    rows = [
        (
            s.position,
            painted(s.tag),
            painted(", ".join(s.objects)),
            _danger_cell(s.danger),
            *([painted("maybe" if s.rewrites else "", "bold yellow")] if rewriting else []),
            painted(s.lock),
            "free" if not s.gated else "additive" if s.additive else "gated",
        )
        for s in statements
    ]
    show(table(headers, rows), indent=2)
    tell()
    for statement in statements:
        tell(f"  {statement.position:<4}{statement.sql}")
        for note in review.warnings(statement):
            tell(f"      ! {note}", "yellow")
    tell()


def _print_rehearsal(approval: DDLApproval) -> None:
    rehearsal = approval.status.rehearsal
    match review.rehearsed(approval):
        case review.Rehearsed.NONE:
            tell("Not rehearsed: what CASCADE would take along is not known.")
        case review.Rehearsed.WAITING:
            tell("Not rehearsed yet.")
        case review.Rehearsed.IMPOSSIBLE:
            tell(f"Cannot be rehearsed: {rehearsal.message if rehearsal else 'see its conditions'}", "yellow")
        case review.Rehearsed.FAILED:
            at = f" at {rfc3339(rehearsal.at)}" if rehearsal else ""
            error = review.describe_error(rehearsal.error if rehearsal else None)
            tell(f"FAILED when it was rehearsed{at}: {error}", "red")
        case review.Rehearsed.DONE if rehearsal is not None:
            note = f": {rehearsal.message}" if rehearsal.message else ""
            tell(f"Rehearsed at {rfc3339(rehearsal.at)} in {rehearsal.duration_ms} ms, and rolled back{note}")
    if rehearsal is not None:
        _print_effect(rehearsal)
    tell()


def _print_effect(rehearsal: Rehearsal) -> None:
    gone, changed = review.victims(rehearsal)
    if rehearsal.possible and not gone and rehearsal.error is None:
        tell("  nothing would be dropped or emptied")
    for victim in gone:
        whose = "  SOMEBODY ELSE'S" if victim.name in rehearsal.others else ""
        tell(f"  - {victim.name}{_size(victim)}{whose}", "red")
    if len(gone) == 512:
        tell("  - and maybe more: 512 are listed at most", "red")
    for victim in changed:
        tell(f"  ~ {victim.name}{_size(victim)}{', rewritten' if victim.rewritten else ''}", "yellow")
    for lock in rehearsal.locks:
        tell(f"    {lock.mode} on {lock.object}")


def _size(victim: review.Victim) -> str:
    if victim.rows is None or victim.bytes is None:
        return ""
    rows = "rows not counted" if victim.rows < 0 else f"about {counted(victim.rows, 'row')}"
    size = victim.bytes
    return f"  ({rows}, {f'{size / _MIB:,.1f} MiB' if size >= _MIB else f'{size / 1024:,.0f} KiB'})"


def _print_run(approval: DDLApproval) -> None:
    status, now = approval.status, datetime.now(UTC)
    if status.started_at is None and status.error is None and not status.executed:
        return
    if status.phase is ApprovalPhase.RUNNING:
        tell(review.progress(approval, now))
    if status.started_at and status.finished_at:
        lasted = span(status.finished_at - status.started_at)
        tell(f"Ran from {rfc3339(status.started_at)} to {rfc3339(status.finished_at)} ({lasted})")
    if status.executed:
        tell(f"{_of_all(status.executed, len(status.statements))} taken effect for good")
    if status.error is not None:
        tell(f"Failed: {review.describe_error(status.error)}", "red")
    tell()


def _of_all(executed: int, total: int) -> str:
    return f"{executed} of {counted(total, 'statement')} {verb(executed, 'has', 'have')}"


def _print_text(sql: str) -> None:
    """Print a text as it was written, line by line, what is invisible made visible."""
    for number, line in enumerate(lines(sql), 1):
        tell(f"{number:5} | {line}")
    tell()


async def print_approvals(client: PersonClient, options: ApprovalsOptions, form: Format) -> int:
    """Print approvals, the most urgent first; returns exit code 0."""
    approvals = await list_approvals(client, options)
    if form is not Format.TABLE:
        document(manifest_list(approvals), form)
        return 0
    if not approvals:
        of = f" of Tenant {options.tenant}" if options.tenant else ""
        where = "any namespace" if options.everywhere else f"namespace {client.namespace}"
        tell(f"no DDLApproval{of} {'waits for a decision ' if options.pending else ''}in {where}")
        return 0
    headers = ("NAME", "TENANT", "PHASE", "LOSES", "STATEMENTS", "REQUESTED BY", "AGE", "DECIDED BY", "REASON")
    rows = [_row(approval.resource, everywhere=options.everywhere) for approval in approvals]
    show(table(("NAMESPACE", *headers) if options.everywhere else headers, rows))
    return 0


def _row(approval: DDLApproval, *, everywhere: bool) -> list[object]:
    status, spec = approval.status, approval.spec
    return [
        *([approval.metadata.namespace] if everywhere else []),
        approval.metadata.name,
        spec.tenant_ref.name,
        painted(status.phase or "New", _PHASES.get(status.phase, "") if status.phase else ""),
        _danger_cell(review.worst(status.statements)),
        len(status.statements) or "",
        painted(spec.requested_by),
        span(datetime.now(UTC) - approval.metadata.creation_timestamp),
        painted(spec.decision.by if spec.decision else ""),
        painted(short(spec.reason)),
    ]
