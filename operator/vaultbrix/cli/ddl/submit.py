"""``vaultbrix ddl submit``: reads the statements, and prints what was understood and created."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vaultbrix.api.ddlapproval import MAX_SQL_BYTES, DDLApproval
from vaultbrix.cli.ddl.show import print_statements
from vaultbrix.cli.ddl.wait import print_waiting
from vaultbrix.cli.output import Format, document, say, warn
from vaultbrix.ddl.actions import SubmitOptions, check_options, follow, prepare, submit
from vaultbrix.ddl.plan import Plan
from vaultbrix.ddl.submission import Refusal, Unfit
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.counted import counted
from vaultbrix.runtime.usage import Misused

STDIN = "-"


@dataclass(frozen=True)
class Source:
    """Where the statements are: in a ``file`` (- for standard input), or in ``sql`` itself; one of them is None."""

    file: str | None
    sql: str | None

    @property
    def option(self) -> str:
        """The option that holds them, for messages."""
        return "--sql" if self.file is None else f"-f {self.file}"

    def read(self) -> bytes:
        """The statements, and one byte more of those that are too long. Raises Misused."""
        if (self.file is None) == (self.sql is None):
            raise Misused("give exactly one of -f (a file, or - for standard input) and --sql (the statements)")
        if self.sql is not None:
            # What the shell's bytes were, whatever the locale made of them.
            return os.fsencode(self.sql)
        if self.file == STDIN and sys.stdin.isatty():
            warn("reading statements from the terminal; end with Ctrl-D")
        try:
            if self.file == STDIN:
                return sys.stdin.buffer.read(MAX_SQL_BYTES + 1)
            with Path(self.file or "").open("rb") as file:
                return file.read(MAX_SQL_BYTES + 1)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise Misused(f"{self.option}: cannot be read: {why}") from None


async def submit_and_print(
    client: PersonClient, options: SubmitOptions, source: Source, form: Format, *, wait: bool
) -> int:
    """Check, show what was understood, create; returns the exit code: 0, or with ``wait`` that of ``ddl wait``."""
    durations = check_options(options)
    content = source.read()
    try:
        prepared = await prepare(client, options, source.option, content)
    except Unfit as error:
        return _print_refusal(error.refusal)
    if form is Format.TABLE:
        print_statements(prepared.plan.statements)
    for note in prepared.notes:
        warn(f"note: {note}")
    approval = await submit(client, prepared, dry_run=options.dry_run)
    if form is Format.TABLE:
        _print_created(approval.resource, prepared.plan, dry_run=options.dry_run, wait=wait)
    code = 0
    if wait and not options.dry_run:
        states = follow(client, approval, durations.timeout)
        code, approval = await print_waiting(client, states, options.timeout, quiet=form is not Format.TABLE)
    if form is not Format.TABLE:
        document(approval.manifest, form)
    return code


def _print_refusal(refusal: Refusal) -> int:
    warn(f"error: {refusal.message}")
    if refusal.line:
        warn(f"  {refusal.line}")
    if refusal.caret:
        warn(f"  {refusal.caret}")
    return 2


def _print_created(approval: DDLApproval, plan: Plan, *, dry_run: bool, wait: bool) -> None:
    name, namespace = approval.metadata.name, approval.metadata.namespace
    text = f"{counted(len(plan.statements), 'statement')}, sha256 {plan.sha256[:8]}"
    if dry_run:
        say(f"DDLApproval {name} in namespace {namespace} would be created ({text})")
        return
    say(f"DDLApproval {name} in namespace {namespace} is created, and waits for an admin ({text})")
    say(f"to see what it would do, and to pass on to who decides: vaultbrix ddl show {name} -n {namespace}")
    if not wait:
        say(f"to wait for the end: vaultbrix ddl wait {name} -n {namespace}")
