"""``vaultbrix ddl approve`` and ``ddl deny``: what was shown is what is decided."""

import sys

import typer

from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.cli.ddl.show import describe
from vaultbrix.cli.output import tell
from vaultbrix.ddl.actions import DecisionOptions, ShownApproval, decide, show_for_decision
from vaultbrix.ddl.review import PREFIX
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.usage import Misused, Refused


async def show_and_decide(client: PersonClient, options: DecisionOptions, *, yes: bool, sql: bool = False) -> int:
    """Show the approval, ask unless ``yes`` or a sha256 is given, write the decision; returns exit code 0.

    ``sql``: show the text as it was written too.
    """
    shown = await show_for_decision(client, options)
    describe(shown.approval, sql=sql or shown.needs_full_text)
    sha256 = shown.check()
    if not options.sha256 and not yes:
        _ask(shown, sha256)
    approval = await decide(client, shown)
    namespace = approval.metadata.namespace
    tell(f"DDLApproval {options.name} in namespace {namespace} is {str(options.verdict).lower()} by {shown.by}")
    if options.verdict is Verdict.APPROVED:
        tell(f"to see how it ends: vaultbrix ddl wait {options.name} -n {namespace}")
    return 0


def _ask(shown: ShownApproval, sha256: str) -> None:
    """Have the person type how the sha256 begins. Raises Misused without a terminal, Refused for anything else."""
    if not sys.stdin.isatty():
        raise Misused(f"--sha256: there is no terminal to ask on; give --sha256 {sha256[:PREFIX]}, or --yes")
    verb = "approve" if shown.options.verdict is Verdict.APPROVED else "deny"
    try:
        typed = input(f"To {verb} it, type the first {PREFIX} characters of its sha256: ")
    except (EOFError, KeyboardInterrupt):
        typer.echo(err=True)
        raise Refused("nothing was decided") from None
    shown.check_typed(typed)
