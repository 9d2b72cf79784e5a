"""The commands for direct access: ask for it, see it, change it, understand it. They only parse their options.

What a command does is imported when it runs, so that ``--help`` and completion answer at once.
"""

from enum import StrEnum
from typing import Annotated

import typer

from vaultbrix.cli.output import Format

Namespace = Annotated[
    str, typer.Option("--namespace", "-n", metavar="NAMESPACE", help="Default: that of the kubeconfig's context.")
]
Context = Annotated[
    str, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig. Default: the current one.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the agents have done it.")]
Timeout = Annotated[str, typer.Option(metavar="DURATION", help="How long to wait at most.")]
TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the Tenant.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print.")]


class Login(StrEnum):
    """--login, as spec.login."""

    TENANT = "tenant"
    PER_RULE = "per-rule"


def allow(
    tenant: TenantName,
    cidr: Annotated[
        list[str], typer.Option("--cidr", metavar="CIDR", help="Address or network; me: your own. Repeat it for more.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")],
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="How long, such as 2h or 1h30m.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends, such as 2026-12-01T18:00:00Z.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="When it opens. Default: at once.")
    ] = None,
    login: Annotated[Login, typer.Option(help="The tenant's login, or one of the rule's own.")] = Login.TENANT,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of the AccessRule. Default: made from the tenant's.")
    ] = "",
    requested_by: Annotated[str, typer.Option(metavar="PERSON", help="Who will use it. Default: you.")] = "",
    namespace: Namespace = "",
    wait: Wait = True,
    timeout: Timeout = "60s",
    output: Output = Format.TABLE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have it checked by the API server, and create nothing.")
    ] = False,
    context: Context = "",
) -> None:
    """Let addresses log in as a tenant for a while.

    Creates an AccessRule, waits until it is in force, and says how to connect. Where the server wants an approval, it
    says who is waited for, and waits for them too.
    """
    from vaultbrix.access.actions import AllowOptions  # noqa: PLC0415
    from vaultbrix.api.accessrule import RuleLogin  # noqa: PLC0415
    from vaultbrix.cli.access.allow import allow_and_print  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415

    options = AllowOptions(
        tenant=tenant,
        cidrs=tuple(cidr),
        lasting=lasting,
        until=until,
        since=since,
        reason=reason,
        requested_by=requested_by,
        login=RuleLogin.PER_RULE if login is Login.PER_RULE else RuleLogin.TENANT,
        name=name,
        wait=wait,
        timeout=timeout,
        dry_run=dry_run,
    )
    act(Where(namespace, context), lambda client: allow_and_print(client, options, output))


def revoke(
    rules: Annotated[list[str], typer.Argument(metavar="RULE...", help="Names of AccessRules.")],
    namespace: Namespace = "",
    wait: Wait = True,
    timeout: Timeout = "60s",
    context: Context = "",
) -> None:
    """End rules now, with their sessions.

    Sessions that another open rule covers go on. The AccessRules stay as a record.
    """
    from vaultbrix.access.actions import RevokeOptions  # noqa: PLC0415
    from vaultbrix.cli.access.change import revoke_and_print  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415

    options = RevokeOptions(names=tuple(rules), wait=wait, timeout=timeout)
    act(Where(namespace, context), lambda client: revoke_and_print(client, options))


def extend(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Name of the AccessRule.")],
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="So much longer than it lasts now.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Until this time; an earlier one shortens the rule.")
    ] = None,
    namespace: Namespace = "",
    wait: Wait = True,
    timeout: Timeout = "60s",
    context: Context = "",
) -> None:
    """Move the deadline of a rule.

    Only while it has not ended. --for counts from the deadline it has now. Open sessions go on. Where the change needs
    an approval, it makes a second rule that waits for it, and the first one goes on.
    """
    from vaultbrix.access.actions import ExtendOptions  # noqa: PLC0415
    from vaultbrix.cli.access.change import extend_and_print  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415

    options = ExtendOptions(name=rule, lasting=lasting, until=until, wait=wait, timeout=timeout)
    act(Where(namespace, context), lambda client: extend_and_print(client, options))


def rules(
    namespace: Namespace = "",
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Of this Tenant only.")] = "",
    ended: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    pending: Annotated[bool, typer.Option("--pending", help="Only those that wait for a decision.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, and show changes as they come.")] = False,
    output: Output = Format.TABLE,
    context: Context = "",
) -> None:
    """Show rules that are open or about to open."""
    from vaultbrix.access.listing import RulesOptions  # noqa: PLC0415
    from vaultbrix.cli.access.look import print_rules  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415

    options = RulesOptions(everywhere=everywhere, tenant=tenant, ended=ended, pending=pending)
    act(Where(namespace, context), lambda client: print_rules(client, options, output, watch=watch))


def explain(
    ip: Annotated[str, typer.Option(metavar="ADDRESS", help="The address; me: your own.")],
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Name of the Tenant.")],
    namespace: Namespace = "",
    context: Context = "",
) -> None:
    """Say why an address is let in, or why not.

    Exit code 0 when the address may log in as the tenant, 1 when not.
    """
    from vaultbrix.access.actions import ExplainOptions  # noqa: PLC0415
    from vaultbrix.cli.access.look import print_explanation  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415

    options = ExplainOptions(address=ip, tenant=tenant)
    act(Where(namespace, context), lambda client: print_explanation(client, options))


def status(
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAMESPACE", help="Default: all that you may see.")
    ] = "",
    output: Output = Format.TABLE,
    context: Context = "",
) -> None:
    """Show servers, and what needs attention.

    What is not ready, what ends within the hour, what waits for approval; as far as you may see it.
    """
    from vaultbrix.cli.access.status import print_status  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415

    act(Where(namespace, context), lambda client: print_status(client, namespace, output))


def register(app: typer.Typer) -> None:
    """Make them commands of the application."""
    for command in (allow, rules, explain, extend, revoke, status):
        app.command()(command)
