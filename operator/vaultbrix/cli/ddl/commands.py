"""The commands for approvals of DDL: ask for one, see what it would do, decide, wait. They only parse their options.

What a command does is imported when it runs, so that ``--help`` and completion answer at once.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vaultbrix.cli import complete
from vaultbrix.cli.access.commands import Context, Namespace, Output
from vaultbrix.cli.output import Format

app = typer.Typer(
    no_args_is_help=True,
    help="Approve DDL: DROP, ALTER and TRUNCATE run only as an admin approved them, and once.",
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the DDLApproval.", autocompletion=complete.approvals)
]
Sql = Annotated[bool, typer.Option("--sql", help="Also the text as it was written, what is invisible made visible.")]
Sha256 = Annotated[
    str, typer.Option("--sha256", metavar="PREFIX", help="For scripts: decide on this text only, and do not ask.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Timeout = Annotated[str, typer.Option(metavar="DURATION", help="How long to wait at most.")]


class Goal(StrEnum):
    """--for."""

    SUCCEEDED = "succeeded"
    DECIDED = "decided"


@app.command()
def submit(
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", help="Name of the Tenant.", autocompletion=complete.tenants)
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever decides and for the record.")],
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="The statements; -: from standard input.")
    ] = None,
    sql: Annotated[str | None, typer.Option("--sql", metavar="SQL", help="The statements.")] = None,
    session: Annotated[
        bool, typer.Option("--session", help="The tenant sends it itself, as a migration tool does. Default: a Job.")
    ] = False,
    valid_for: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the approval lasts once it is given.")
    ] = "1h",
    lock_timeout: Annotated[str, typer.Option(metavar="DURATION", help="Longest wait for a lock.")] = "5s",
    statement_timeout: Annotated[str, typer.Option(metavar="DURATION", help="Longest run of a statement.")] = "10m",
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of the DDLApproval. Default: made from the tenant's.")
    ] = "",
    namespace: Namespace = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it ran, as vaultbrix ddl wait does.")] = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have it checked by the API server, and create nothing.")
    ] = False,
    context: Context = "",
) -> None:
    """Ask for statements to be run as a tenant.

    Checks them here with the operator's parser, creates a DDLApproval, and says what comes next.
    """
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.ddl.submit import Source, submit_and_print  # noqa: PLC0415 - the parser is needed here only
    from vaultbrix.ddl.actions import SubmitOptions  # noqa: PLC0415

    options = SubmitOptions(
        tenant=tenant,
        reason=reason,
        session=session,
        valid_for=valid_for,
        lock_timeout=lock_timeout,
        statement_timeout=statement_timeout,
        name=name,
        timeout=timeout,
        dry_run=dry_run,
    )
    source = Source(file, sql)
    act(Where(namespace, context), lambda client: submit_and_print(client, options, source, output, wait=wait))


@app.command("list")
def list_(
    pending: Annotated[bool, typer.Option("--pending", help="Only those that wait for a decision.")] = False,
    namespace: Namespace = "",
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="NAME", help="Of this Tenant only.", autocompletion=complete.tenants)
    ] = "",
    output: Output = Format.TABLE,
    context: Context = "",
) -> None:
    """Show approvals, those that wait for a decision first."""
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.ddl.show import print_approvals  # noqa: PLC0415
    from vaultbrix.ddl.actions import ApprovalsOptions  # noqa: PLC0415

    options = ApprovalsOptions(everywhere=everywhere, tenant=tenant, pending=pending)
    act(Where(namespace, context), lambda client: print_approvals(client, options, output))


@app.command()
def show(
    name: Name, sql: Sql = False, namespace: Namespace = "", output: Output = Format.TABLE, context: Context = ""
) -> None:
    """Show what an approval would do, or did.

    The statements as PostgreSQL's parser reads them, what would be lost, the rehearsal, the decision, the run.
    """
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.ddl.show import print_approval  # noqa: PLC0415

    act(Where(namespace, context), lambda client: print_approval(client, name, output, sql=sql))


@app.command()
def approve(
    name: Name,
    sha256: Sha256 = "",
    message: Annotated[str, typer.Option(metavar="TEXT", help="For the record.")] = "",
    allow_nested: Annotated[
        bool,
        typer.Option("--allow-nested", help="Also what its functions, DO blocks and triggers do; that may change."),
    ] = False,
    despite_rehearsal: Annotated[
        bool,
        typer.Option(
            "--despite-rehearsal",
            help="Also when its rehearsal failed, is not over, or takes along what is somebody else's.",
        ),
    ] = False,
    yes: Yes = False,
    sql: Sql = False,
    namespace: Namespace = "",
    context: Context = "",
) -> None:
    """Let a text run, once.

    Shows it and asks for the first 8 characters of its sha256. Whoever asked for it cannot approve it.
    """
    from vaultbrix.api.ddlapproval import Verdict  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.ddl.decide import show_and_decide  # noqa: PLC0415
    from vaultbrix.ddl.actions import DecisionOptions  # noqa: PLC0415

    options = DecisionOptions(
        name=name,
        verdict=Verdict.APPROVED,
        message=message,
        sha256=sha256,
        allow_nested=allow_nested,
        despite_rehearsal=despite_rehearsal,
    )
    act(Where(namespace, context), lambda client: show_and_decide(client, options, yes=yes, sql=sql))


@app.command()
def deny(
    name: Name,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever asked.")],
    sha256: Sha256 = "",
    yes: Yes = False,
    namespace: Namespace = "",
    context: Context = "",
) -> None:
    """Refuse a text for good."""
    from vaultbrix.api.ddlapproval import Verdict  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.ddl.decide import show_and_decide  # noqa: PLC0415
    from vaultbrix.ddl.actions import DecisionOptions  # noqa: PLC0415

    options = DecisionOptions(name=name, verdict=Verdict.DENIED, message=message, sha256=sha256)
    act(Where(namespace, context), lambda client: show_and_decide(client, options, yes=yes))


@app.command()
def wait(
    name: Name,
    goal: Annotated[Goal, typer.Option("--for", help="What to wait for.")] = Goal.SUCCEEDED,
    timeout: Timeout = "10m",
    namespace: Namespace = "",
    context: Context = "",
) -> None:
    """Wait until an approval ran, or is decided.

    Exit code 0 when it ran (or is approved), 3 when it failed, 4 denied, 5 expired, 6 invalid, 7 after the timeout.
    """
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.ddl.wait import wait_and_print  # noqa: PLC0415
    from vaultbrix.ddl.actions import WaitOptions  # noqa: PLC0415

    options = WaitOptions(name=name, decided=goal is Goal.DECIDED, timeout=timeout)
    act(Where(namespace, context), lambda client: wait_and_print(client, options))


@app.command(hidden=True)
def run(directory: Annotated[Path, typer.Option(help="The mounted Secret of the Job.")]) -> None:
    """Run an approved text once; the entry point of a DDLApproval's Job."""
    from vaultbrix.ddl.job.run import Order  # noqa: PLC0415 - the parser is needed here only
    from vaultbrix.ddl.job.run import run as run_order  # noqa: PLC0415
    from vaultbrix.runtime.process import configure_logging  # noqa: PLC0415

    configure_logging()
    code, error = run_order(Order.read(directory))
    message = Path(os.environ.get("TERMINATION_LOG", "/dev/termination-log"))
    if error is not None and message.exists():
        message.write_text(error.model_dump_json(by_alias=True))
    raise typer.Exit(code)
