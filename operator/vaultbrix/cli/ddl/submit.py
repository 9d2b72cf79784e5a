"""``vaultbrix ddl submit``."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vaultbrix.api.ddlapproval import MAX_SQL_BYTES, DDLApproval
from vaultbrix.api.tenant import Tenant
from vaultbrix.cli.client import Failed, User
from vaultbrix.cli.ddl import wait as ddlwait
from vaultbrix.cli.ddl.show import statements
from vaultbrix.cli.output import Format, document, manifest, say, warn
from vaultbrix.ddl import submission
from vaultbrix.ddl.plan import Plan
from vaultbrix.kube.client import Conflict, Object, resource_type
from vaultbrix.runtime.usage import Misused, check_name, parse_span

STDIN = "-"


@dataclass(frozen=True)
class Wanted:
    """The command line, as it was written."""

    tenant: str
    file: str | None
    sql: str | None
    reason: str
    session: bool
    valid_for: str
    lock_timeout: str
    statement_timeout: str
    name: str
    wait: bool
    timeout: str
    form: Format
    dry_run: bool

    @property
    def source(self) -> str:
        """The option that holds the text, for messages."""
        return "--sql" if self.file is None else f"-f {self.file}"


async def submit(user: User, wanted: Wanted) -> int:
    """Check, show what was understood, create. With --wait, the exit code of ``ddl wait``."""
    spans = [
        parse_span(option, text)
        for option, text in (("--valid-for", wanted.valid_for), ("--lock-timeout", wanted.lock_timeout),
                             ("--statement-timeout", wanted.statement_timeout), ("--timeout", wanted.timeout))
    ]  # fmt: skip
    submission.check_reason(wanted.reason)
    if wanted.name:
        check_name(wanted.name)
    sql, notes = _text(wanted)
    try:
        submission.understood(wanted.source, sql)
    except submission.Unfit as error:
        return _refuse(error.refusal)
    tenant = await user.find(Tenant, wanted.tenant)
    planned = submission.understood(wanted.source, sql, tenant.role)
    requested_by = await user.kube.whoami()
    submission.check_person(requested_by)
    body = submission.ddl_approval(
        user.namespace,
        wanted.name,
        wanted.tenant,
        sql=sql,
        reason=wanted.reason,
        requested_by=requested_by,
        session=wanted.session,
        valid_for=spans[0],
        lock_timeout=spans[1],
        statement_timeout=spans[2],
    )
    notes += await _notes(user, tenant, planned)
    if wanted.form is Format.TABLE:
        statements(planned.statements)
    for note in notes:
        warn(f"note: {note}")
    raw = await _create(user, body, dry_run=wanted.dry_run)
    approval = DDLApproval.parse(raw)
    if wanted.form is Format.TABLE:
        _created(approval, planned, wanted)
    code = 0
    if wanted.wait and not wanted.dry_run:
        quiet = wanted.form is not Format.TABLE
        code = await ddlwait.follow(
            user, approval, spans[3].total_seconds(), wanted.timeout, decided=False, quiet=quiet
        )
        if quiet:
            _, raw = await user.again(approval)
    if wanted.form is not Format.TABLE:
        document(manifest(raw), wanted.form)
    return code


def _text(wanted: Wanted) -> tuple[str, list[str]]:
    if (wanted.file is None) == (wanted.sql is None):
        raise Misused("give exactly one of -f (a file, or - for standard input) and --sql (the statements)")
    if wanted.sql is not None:
        # What the shell's bytes were, whatever the locale made of them.
        return submission.decode("--sql", os.fsencode(wanted.sql))
    if wanted.file == STDIN and sys.stdin.isatty():
        warn("reading statements from the terminal; end with Ctrl-D")
    try:
        if wanted.file == STDIN:
            content = sys.stdin.buffer.read(MAX_SQL_BYTES + 1)
        else:
            with Path(wanted.file or "").open("rb") as file:
                content = file.read(MAX_SQL_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Misused(f"{wanted.source}: cannot be read: {why}") from None
    return submission.decode(wanted.source, content)


def _refuse(refusal: submission.Refusal) -> int:
    warn(f"error: {refusal.message}")
    if refusal.line:
        warn(f"  {refusal.line}")
    if refusal.caret:
        warn(f"  {refusal.caret}")
    return 2


async def _notes(user: User, tenant: Tenant, planned: Plan) -> list[str]:
    found = []
    if not planned.gated:
        found.append("nothing of it needs an approval: the tenant may run it by itself")
    if tenant.spec.suspended:
        found.append(f"Tenant {tenant.metadata.name} is suspended, so nothing runs until it is not")
    others = await user.permitted(DDLApproval, user.namespace)
    if same := submission.same_text(others, tenant.metadata.name, planned.sha256):
        found.append(f"{', '.join(same)} has the same text and is under way; this one would run it once more")
    return found


async def _create(user: User, body: Object, *, dry_run: bool) -> Object:
    try:
        return await user.kube.create(resource_type(DDLApproval), user.namespace, body, dry_run=dry_run)
    except Conflict:
        name = body["metadata"].get("name", "")
        raise Failed(
            f"--name {name}: namespace {user.namespace} has a DDLApproval of that name, whose text cannot be changed; "
            "give another name, or none"
        ) from None


def _created(approval: DDLApproval, planned: Plan, wanted: Wanted) -> None:
    name, namespace = approval.metadata.name, approval.metadata.namespace
    count = len(planned.statements)
    what = f"{count} statement{'' if count == 1 else 's'}, sha256 {planned.sha256[:8]}"
    if wanted.dry_run:
        say(f"DDLApproval {name} in namespace {namespace} would be created ({what})")
        return
    say(f"DDLApproval {name} in namespace {namespace} is created, and waits for an admin ({what})")
    say(f"to see what it would do, and to pass on to who decides: vaultbrix ddl show {name} -n {namespace}")
    if not wanted.wait:
        say(f"to wait for the end: vaultbrix ddl wait {name} -n {namespace}")
