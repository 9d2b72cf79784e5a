"""The command for a tenant's credentials. It only parses its options.

What it does is imported when it runs, so that ``--help`` and completion answer at once.
"""

from typing import Annotated

import typer

from vaultbrix.cli import complete
from vaultbrix.cli.access.commands import Context, Namespace, Timeout


def rotate(
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", help="Name of the Tenant.", autocompletion=complete.tenants)
    ],
    end_sessions: Annotated[
        bool,
        typer.Option(
            "--end-sessions",
            help="For a suspected leak: end the sessions that began before, and the old password at once, whatever "
            "keepPrevious says.",
        ),
    ] = False,
    namespace: Namespace = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the operator has done it.")] = True,
    timeout: Timeout = "60s",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have it checked by the API server, and change nothing.")
    ] = False,
    context: Context = "",
) -> None:
    """Make a new password for a tenant in place of the old one.

    The Secret keeps its name. Open sessions go on, unless --end-sessions is given. Whoever may update the Tenant may.
    """
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.tenants.rotate import rotate_and_print  # noqa: PLC0415
    from vaultbrix.tenants.actions import RotateOptions  # noqa: PLC0415

    options = RotateOptions(tenant=tenant, end_sessions=end_sessions, wait=wait, timeout=timeout, dry_run=dry_run)
    act(Where(namespace, context), lambda client: rotate_and_print(client, options))


def register(app: typer.Typer) -> None:
    """Make it a command of the application."""
    app.command()(rotate)
