"""The commands for keys of the data API: make one, see them, replace one, end them. They only parse their options.

What a command does is imported when it runs, so that ``--help`` and completion answer at once.
"""

from enum import StrEnum
from typing import Annotated

import typer

from vaultbrix.cli import complete
from vaultbrix.cli.access.commands import Context, Namespace, Output
from vaultbrix.cli.output import Format

app = typer.Typer(no_args_is_help=True, help="Keys with which applications call the data API as a tenant.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the APIKey.", autocompletion=complete.api_keys)]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the operator has done it.")]
Timeout = Annotated[str, typer.Option(metavar="DURATION", help="How long to wait at most.")]
Show = Annotated[
    bool, typer.Option("--show", help="Print the key itself, too. You must have the right to read its Secret.")
]


class Kind(StrEnum):
    """--kind, as spec.kind."""

    PUBLISHABLE = "publishable"
    SECRET = "secret"  # noqa: S105 - a kind's name


@app.command()
def create(
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", help="Name of the Tenant.", autocompletion=complete.tenants)
    ],
    kind: Annotated[Kind, typer.Option(help="publishable: may stand in a browser. secret: for servers only.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="What it is for, for the record.")],
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="How long. Default: until it is revoked.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends, such as 2026-12-01T18:00:00Z.")
    ] = None,
    cidr: Annotated[
        list[str] | None,
        typer.Option("--cidr", metavar="CIDR", help="Good from there only. Repeat it for more. Default: everywhere."),
    ] = None,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long an old key stays good after each rotation.")
    ] = "0s",
    secret_name: Annotated[
        str,
        typer.Option("--secret-name", metavar="NAME", help="Secret to write. Default: <name of the APIKey>-api-key."),
    ] = "",
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of the APIKey. Default: made from the tenant's.")
    ] = "",
    requested_by: Annotated[str, typer.Option(metavar="PERSON", help="Who answers for it. Default: you.")] = "",
    namespace: Namespace = "",
    wait: Wait = True,
    timeout: Timeout = "60s",
    show: Show = False,
    output: Output = Format.TABLE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have it checked by the API server, and create nothing.")
    ] = False,
    context: Context = "",
) -> None:
    """Make a key for a tenant's data.

    Creates an APIKey, waits until the key is in its Secret and good, and says how to read it.
    """
    from vaultbrix.api.apikey import KeyKind  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.keys.change import create_and_print  # noqa: PLC0415
    from vaultbrix.dataapi.actions import CreateOptions  # noqa: PLC0415

    options = CreateOptions(
        tenant=tenant,
        kind=KeyKind.PUBLISHABLE if kind is Kind.PUBLISHABLE else KeyKind.SECRET,
        reason=reason,
        lasting=lasting,
        until=until,
        cidrs=tuple(cidr or ()),
        overlap=overlap,
        secret_name=secret_name,
        requested_by=requested_by,
        name=name,
        wait=wait,
        timeout=timeout,
        dry_run=dry_run,
    )
    act(Where(namespace, context), lambda client: create_and_print(client, options, output, show=show))


@app.command("list")
def list_(
    namespace: Namespace = "",
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="NAME", help="Of this Tenant only.", autocompletion=complete.tenants)
    ] = "",
    ended: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    output: Output = Format.TABLE,
    context: Context = "",
) -> None:
    """Show keys that have not ended: by their first characters, never whole."""
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.keys.look import print_keys  # noqa: PLC0415
    from vaultbrix.dataapi.actions import KeysOptions  # noqa: PLC0415

    options = KeysOptions(everywhere=everywhere, tenant=tenant, ended=ended)
    act(Where(namespace, context), lambda client: print_keys(client, options, output))


@app.command()
def rotate(
    name: Name,
    overlap: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="How long the old key stays good, now and later. Default: as it is."),
    ] = None,
    namespace: Namespace = "",
    wait: Wait = True,
    timeout: Timeout = "60s",
    show: Show = False,
    context: Context = "",
) -> None:
    """Make a new key in place of the old one.

    The Secret keeps its name. The old key ends at once, or after --overlap.
    """
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.keys.change import rotate_and_print  # noqa: PLC0415
    from vaultbrix.dataapi.actions import RotateOptions  # noqa: PLC0415

    options = RotateOptions(name=name, overlap=overlap, wait=wait, timeout=timeout)
    act(Where(namespace, context), lambda client: rotate_and_print(client, options, show=show))


@app.command()
def revoke(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Names of APIKeys.", autocompletion=complete.api_keys)
    ],
    namespace: Namespace = "",
    wait: Wait = True,
    timeout: Timeout = "60s",
    context: Context = "",
) -> None:
    """End keys now and for good.

    The Secrets are deleted. The APIKeys stay as a record.
    """
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.cli.keys.change import revoke_and_print  # noqa: PLC0415
    from vaultbrix.dataapi.actions import RevokeOptions  # noqa: PLC0415

    options = RevokeOptions(names=tuple(names), wait=wait, timeout=timeout)
    act(Where(namespace, context), lambda client: revoke_and_print(client, options))
