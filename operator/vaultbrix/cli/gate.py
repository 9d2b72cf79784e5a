"""``vaultbrix gate``: for who administers PostgreSQL itself; no cluster is needed."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from vaultbrix.cli.output import say, warn

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    help="Check the gate in a database, or take it away. Connects as a superuser, as libpq's environment says"
    " (PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD or .pgpass).",
)


@app.command()
def check() -> None:
    """Look for drift and for ways around the gate.

    Exit code 0 when all is well, 1 when something was found, 2 when the database cannot be asked.
    """
    from vaultbrix.ddl.gate.drift import audit_gate  # noqa: PLC0415 - the parser is needed there

    findings = _ask(audit_gate)
    for finding in findings:
        say(finding)
    if findings:
        raise typer.Exit(1)
    say("the gate is as installed, and nothing goes around it")


@app.command()
def uninstall(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take the gate away: from then on nothing asks for an approval.

    Tenants keep roles, data and rights. Delete the PostgresServer first: its operator would install the gate again.
    """
    from vaultbrix.ddl.gate.schema import uninstall as take_away  # noqa: PLC0415

    if not yes:
        typer.confirm("From then on tenants drop, alter and truncate without approval. Go on?", abort=True)
    _ask(take_away)
    say("the gate is gone")


def _ask(function: "Callable[[psycopg.AsyncConnection], Awaitable[T]]") -> T:
    import psycopg  # noqa: PLC0415

    from vaultbrix.postgres.connect import of_person, pinned  # noqa: PLC0415

    async def call() -> T:
        async with await psycopg.AsyncConnection.connect(
            of_person(os.environ),
            application_name="vaultbrix-gate",
            connect_timeout=10,
            options=pinned(os.environ.get("PGOPTIONS", "")),
            autocommit=True,
        ) as connection:
            return await function(connection)

    try:
        return asyncio.run(call())
    except psycopg.Error as error:
        warn(
            "PostgreSQL: "
            + ": ".join(filter(None, (error.diag.message_primary or str(error), error.diag.message_detail)))
        )
        raise typer.Exit(2) from None
