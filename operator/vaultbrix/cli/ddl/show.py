"""``vaultbrix ddl show`` and ``ddl list``: what an approver sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vaultbrix.api.ddlapproval import ApprovalPhase, Danger, DDLApproval, Execution, Rehearsal, StatementSummary
from vaultbrix.api.meta import format_duration, rfc3339
from vaultbrix.cli.client import User
from vaultbrix.cli.output import Format, document, manifest, painted, short, show, table, tell
from vaultbrix.ddl import review
from vaultbrix.kube.client import resource_type
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


async def present(user: User, name: str, form: Format, *, sql: bool) -> int:
    """Print one approval."""
    approval = await user.find(DDLApproval, name)
    if form is not Format.TABLE:
        _, raw = await user.again(approval)
        document(manifest(raw), form)
        return 0
    describe(approval, sql=sql)
    for step in review.next_steps(approval):
        tell(step)
    return 0


def describe(approval: DDLApproval, *, sql: bool) -> None:
    """All but what to do next; ends with an empty line."""
    now = datetime.now(UTC)
    _head(approval, now)
    statements(approval.status.statements)
    if not review.genuine(approval):
        tell("! status.sha256 is not that of spec.sql: the statements above are not those of the text", "bold red")
        tell()
    if differences := review.contradictions(approval):
        tell("! The status does not say what this program reads: another version, or somebody wrote it.", "bold red")
        for difference in differences:
            tell(f"! {difference}", "bold red")
        tell()
    _rehearsal(approval)
    _run(approval)
    if conditions := review.not_true(approval):
        for condition in conditions:
            tell(f"{condition.type} is {condition.status}: {condition.reason}: {condition.message}")
        tell()
    if sql:
        text(approval.spec.sql)


def _head(approval: DDLApproval, now: datetime) -> None:
    spec, meta = approval.spec, approval.metadata
    phase = approval.status.phase
    tell(
        f"DDLApproval {meta.name} in namespace {meta.namespace}: {phase or 'New'}, {review.state(approval, now)}",
        "bold",
    )
    tell()
    who = "the operator runs it as the tenant" if spec.execution is Execution.JOB else "the tenant sends it, once"
    limits = f"lock timeout {format_duration(spec.lock_timeout)}, statement timeout "
    _field("tenant", spec.tenant_ref.name)
    _field("requested by", f"{spec.requested_by}, {span(now - meta.creation_timestamp)} ago")
    _field("reason", spec.reason)
    _field("execution", f"{spec.execution}: {who}; {limits}{format_duration(spec.statement_timeout)}")
    ends = approval.status.expires_at
    _field("valid", f"until {rfc3339(ends)}" if ends else f"for {format_duration(spec.valid_for)} once it is approved")
    _field("sha256", approval.status.sha256 or "not yet known")
    if spec.decision is not None:
        nested = ", with what functions and DO blocks of it do" if spec.decision.allow_nested else ""
        at = f" at {rfc3339(approval.status.decided_at)}" if approval.status.decided_at else ""
        message = f": {spec.decision.message}" if spec.decision.message else ""
        _field("decision", f"{spec.decision.verdict} by {spec.decision.by}{at}{nested}{message}")
    tell()


def _field(name: str, value: str) -> None:
    tell(f"  {name:14}{value}")


def danger(found: Danger | None) -> "Text":
    """A cell."""
    return painted(found or "", _COLOURS[found] if found else "")


def statements(found: Sequence[StatementSummary]) -> None:
    """What the parser understood: a table, then each statement in full with what is to be known of it."""
    if not found:
        return
    # A column that says nothing costs those that do, where the terminal is narrow.
    rewriting = any(s.rewrites for s in found)
    headers = ("#", "STATEMENT", "OBJECTS", "LOSES", *(["REWRITES"] if rewriting else []), "LOCK", "GATE")
    rows = [
        (
            s.position,
            painted(s.tag),
            painted(", ".join(s.objects)),
            danger(s.danger),
            *([painted("maybe" if s.rewrites else "", "bold yellow")] if rewriting else []),
            painted(s.lock),
            "free" if not s.gated else "additive" if s.additive else "gated",
        )
        for s in found
    ]
    show(table(headers, rows), indent=2)
    tell()
    for statement in found:
        tell(f"  {statement.position:<4}{statement.sql}")
        for note in review.warnings(statement):
            tell(f"      ! {note}", "yellow")
    tell()


def _rehearsal(approval: DDLApproval) -> None:
    found = approval.status.rehearsal
    match review.rehearsed(approval):
        case review.Rehearsed.NONE:
            tell("Not rehearsed: what CASCADE would take along is not known.")
        case review.Rehearsed.WAITING:
            tell("Not rehearsed yet.")
        case review.Rehearsed.IMPOSSIBLE:
            tell(f"Cannot be rehearsed: {found.message if found else 'see its conditions'}", "yellow")
        case review.Rehearsed.FAILED:
            at = f" at {rfc3339(found.at)}" if found else ""
            tell(f"FAILED when it was rehearsed{at}: {review.told(found.error if found else None)}", "red")
        case review.Rehearsed.DONE if found is not None:
            said = f": {found.message}" if found.message else ""
            tell(f"Rehearsed at {rfc3339(found.at)} in {found.duration_ms} ms, and rolled back{said}")
    if found is not None:
        _effect(found)
    tell()


def _effect(found: Rehearsal) -> None:
    gone, changed = review.victims(found)
    if found.possible and not gone and found.error is None:
        tell("  nothing would be dropped or emptied")
    for victim in gone:
        tell(f"  - {victim.name}{_size(victim)}", "red")
    if len(gone) == 512:
        tell("  - and maybe more: 512 are listed at most", "red")
    for victim in changed:
        tell(f"  ~ {victim.name}{_size(victim)}{', rewritten' if victim.rewritten else ''}", "yellow")
    for lock in found.locks:
        tell(f"    {lock.mode} on {lock.object}")


def _size(victim: review.Victim) -> str:
    if victim.rows is None or victim.bytes is None:
        return ""
    rows = "rows not counted" if victim.rows < 0 else f"about {victim.rows:,} rows"
    size = victim.bytes
    return f"  ({rows}, {f'{size / _MIB:,.1f} MiB' if size >= _MIB else f'{size / 1024:,.0f} KiB'})"


def _run(approval: DDLApproval) -> None:
    status, now = approval.status, datetime.now(UTC)
    if status.started_at is None and status.error is None and not status.executed:
        return
    if status.phase is ApprovalPhase.RUNNING:
        tell(review.progress(approval, now))
    if status.started_at and status.finished_at:
        lasted = span(status.finished_at - status.started_at)
        tell(f"Ran from {rfc3339(status.started_at)} to {rfc3339(status.finished_at)} ({lasted})")
    if status.executed:
        tell(f"{status.executed} of {len(status.statements)} statements have taken effect for good")
    if status.error is not None:
        tell(f"Failed: {review.told(status.error)}", "red")
    tell()


def text(sql: str) -> None:
    """The raw text, line by line."""
    for number, line in enumerate(lines(sql), 1):
        tell(f"{number:5} | {line}")
    tell()


@dataclass(frozen=True)
class Listing:
    """Options of ``ddl list``."""

    everywhere: bool
    tenant: str
    pending: bool
    form: Format

    def shows(self, approval: DDLApproval) -> bool:
        """Whether the approval is asked for."""
        wanted = self.tenant in ("", approval.spec.tenant_ref.name)
        return wanted and (not self.pending or review.waiting(approval))


async def listing(user: User, wanted: Listing) -> int:
    """Print approvals, the most urgent first."""
    namespace = "" if wanted.everywhere else user.namespace
    answer = await user.raw(DDLApproval, namespace)
    found = review.by_urgency(a for a in user.read(DDLApproval, answer["items"]) if wanted.shows(a))
    if wanted.form is not Format.TABLE:
        raws = {item["metadata"]["uid"]: item for item in answer["items"]}
        kind = resource_type(DDLApproval)
        typed = {"apiVersion": kind.api_version, "kind": kind.kind}
        items = [{**typed, **manifest(raws[a.metadata.uid])} for a in found]
        document({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}, wanted.form)
        return 0
    if not found:
        of = f" of Tenant {wanted.tenant}" if wanted.tenant else ""
        where = "any namespace" if wanted.everywhere else f"namespace {namespace}"
        tell(f"no DDLApproval{of} {'waits for a decision ' if wanted.pending else ''}in {where}")
        return 0
    headers = ("NAME", "TENANT", "PHASE", "LOSES", "STATEMENTS", "REQUESTED BY", "AGE", "DECIDED BY", "REASON")
    rows = [_row(a, everywhere=wanted.everywhere) for a in found]
    show(table(("NAMESPACE", *headers) if wanted.everywhere else headers, rows))
    return 0


def _row(approval: DDLApproval, *, everywhere: bool) -> list[object]:
    status, spec = approval.status, approval.spec
    return [
        *([approval.metadata.namespace] if everywhere else []),
        approval.metadata.name,
        spec.tenant_ref.name,
        painted(status.phase or "New", _PHASES.get(status.phase, "") if status.phase else ""),
        danger(review.worst(status.statements)),
        len(status.statements) or "",
        painted(spec.requested_by),
        span(datetime.now(UTC) - approval.metadata.creation_timestamp),
        painted(spec.decision.by if spec.decision else ""),
        painted(short(spec.reason)),
    ]
