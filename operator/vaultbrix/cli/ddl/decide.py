"""``vaultbrix ddl approve`` and ``ddl deny``: what was shown is what is decided."""

from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.cli.confirm import ask_for_hash
from vaultbrix.cli.ddl.show import describe
from vaultbrix.cli.output import tell, warn
from vaultbrix.ddl.actions import DecisionOptions, decide, show_for_decision
from vaultbrix.ddl.review import PREFIX
from vaultbrix.kube.person import PersonClient


async def show_and_decide(client: PersonClient, options: DecisionOptions, *, yes: bool, sql: bool = False) -> int:
    """Show the approval, ask unless ``yes`` or a sha256 is given, write the decision; returns exit code 0.

    ``sql``: show the text as it was written too.
    """
    shown = await show_for_decision(client, options)
    describe(shown.approval, sql=sql or shown.needs_full_text)
    sha256 = shown.check()
    for caution in shown.cautions:
        warn(f"warning: {caution}")
    if not options.sha256 and not yes:
        verb = "approve" if options.verdict is Verdict.APPROVED else "deny"
        shown.check_typed(ask_for_hash(verb, sha256, PREFIX))
    approval = await decide(client, shown)
    namespace = approval.metadata.namespace
    tell(f"DDLApproval {options.name} in namespace {namespace} is {str(options.verdict).lower()} by {shown.by}")
    if options.verdict is Verdict.APPROVED:
        tell(f"to see how it ends: vaultbrix ddl wait {options.name} -n {namespace}")
    return 0
