"""``vaultbrix approve`` and ``vaultbrix deny``: one pair of commands for whatever waits for a decision.

What a command does is imported when it runs, so that ``--help`` and completion answer at once.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from vaultbrix.cli.access.commands import Context, Namespace
from vaultbrix.cli.ddl.commands import Sha256, Sql, Yes

if TYPE_CHECKING:
    from vaultbrix.ddl.actions import DecisionOptions
    from vaultbrix.kube.person import PersonClient

Reference = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Of an AccessRule or a DDLApproval; accessrule/NAME or ddlapproval/NAME where both have it.",
    ),
]


def approve(
    name: Reference,
    sha256: Sha256 = "",
    message: Annotated[str, typer.Option(metavar="TEXT", help="For the record.")] = "",
    allow_nested: Annotated[
        bool, typer.Option("--allow-nested", help="DDLApproval: also what its functions, DO blocks and triggers do.")
    ] = False,
    despite_rehearsal: Annotated[
        bool, typer.Option("--despite-rehearsal", help="DDLApproval: also when its rehearsal failed or is not over.")
    ] = False,
    yes: Yes = False,
    sql: Sql = False,
    namespace: Namespace = "",
    context: Context = "",
) -> None:
    """Approve access, or a text of DDL, that somebody else asked for.

    Shows what it gives or does, and asks for the first 8 characters of its sha256. Whoever asked cannot approve it.
    """
    from vaultbrix.api.ddlapproval import Verdict  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.ddl.actions import DecisionOptions  # noqa: PLC0415

    options = DecisionOptions(
        name=name,
        verdict=Verdict.APPROVED,
        message=message,
        sha256=sha256,
        allow_nested=allow_nested,
        despite_rehearsal=despite_rehearsal,
    )
    act(Where(namespace, context), lambda client: _decide(client, options, yes=yes, sql=sql))


def deny(
    name: Reference,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever asked.")],
    sha256: Sha256 = "",
    yes: Yes = False,
    namespace: Namespace = "",
    context: Context = "",
) -> None:
    """Refuse access, or a text of DDL, for good."""
    from vaultbrix.api.ddlapproval import Verdict  # noqa: PLC0415
    from vaultbrix.cli.client import Where, act  # noqa: PLC0415
    from vaultbrix.ddl.actions import DecisionOptions  # noqa: PLC0415

    options = DecisionOptions(name=name, verdict=Verdict.DENIED, message=message, sha256=sha256)
    act(Where(namespace, context), lambda client: _decide(client, options, yes=yes, sql=False))


async def _decide(client: "PersonClient", options: "DecisionOptions", *, yes: bool, sql: bool) -> int:
    from dataclasses import replace  # noqa: PLC0415

    from vaultbrix.access.deciding import RuleDecisionOptions, find_decidable  # noqa: PLC0415
    from vaultbrix.api.ddlapproval import DDLApproval  # noqa: PLC0415
    from vaultbrix.cli.access.decide import show_rule_and_decide  # noqa: PLC0415
    from vaultbrix.cli.ddl.decide import show_and_decide  # noqa: PLC0415
    from vaultbrix.runtime.usage import Misused  # noqa: PLC0415

    target = await find_decidable(client, options.name)
    if target.kind is DDLApproval:
        return await show_and_decide(client, replace(options, name=target.name), yes=yes, sql=sql)
    if options.allow_nested or options.despite_rehearsal or sql:
        raise Misused(f"{options.name} is an AccessRule; --allow-nested, --despite-rehearsal and --sql are of DDL")
    of_rule = RuleDecisionOptions(
        name=target.name, verdict=options.verdict, message=options.message, sha256=options.sha256
    )
    return await show_rule_and_decide(client, of_rule, yes=yes)


def register(app: typer.Typer) -> None:
    """Make them commands of the application."""
    for command in (approve, deny):
        app.command()(command)
