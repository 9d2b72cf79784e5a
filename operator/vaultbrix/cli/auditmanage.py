"""``vaultbrix audit redact`` and ``vaultbrix audit retention``: what may be erased of the record, and when."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from vaultbrix.cli.output import say, warn

if TYPE_CHECKING:
    import psycopg

    from vaultbrix.audit.erasure import Erased, Place

T = TypeVar("T")

retention = typer.Typer(no_args_is_help=True, help="How long records are kept.")


def register(app: typer.Typer) -> None:
    """Add the commands to ``vaultbrix audit``."""
    app.command()(redact)
    app.add_typer(retention, name="retention")


def redact(
    reason: Annotated[str, typer.Option(help="Kept with the event: the number of the request, not the person's name.")],
    person: Annotated[str, typer.Option(help="All that names this person, as in requestedBy.")] = "",
    records: Annotated[
        Path | None, typer.Option(help="JSON lines with session_id and line_num, as query prints them; - is stdin.")
    ] = None,
    session: Annotated[str, typer.Option(help="One record: its session_id, with --line.")] = "",
    line: Annotated[int, typer.Option(min=0, help="One record: its line_num, with --session.")] = 0,
    quarantine: Annotated[list[int] | None, typer.Option(help="id of a quarantined line; repeat it for more.")] = None,
    server: Annotated[str, typer.Option(help="Whose records, for --records and --session.")] = "main",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase the content of records. They stay, without content, and all others can still be verified.

    Connects as libpq does: PGHOST, PGPORT, PGUSER, PGPASSWORD, ... The login must be a member of audit_redact.
    """
    from vaultbrix.audit import erasure  # noqa: PLC0415

    if sum((bool(person), records is not None, bool(session), bool(quarantine))) != 1:
        _usage("give one of --person, --records, --session with --line, --quarantine")
    if bool(session) != bool(line):
        _usage("--session and --line go together")
    wanted = _places(records, server) if records else [erasure.Place(server, session, line)]

    async def erase(link: "psycopg.AsyncConnection", really: bool) -> "Erased":
        if person:
            return await erasure.redact_person(link, person, reason, really=really)
        if quarantine:
            return await erasure.redact_quarantine(link, quarantine, reason, really=really)
        return await erasure.redact_records(link, wanted, reason, really=really)

    async def work(link: "psycopg.AsyncConnection") -> int:
        found = await erase(link, False)
        if dry_run or not (found.records or found.quarantine or found.events):
            say(f"would erase {_counts(found)}" if dry_run else "nothing to erase")
            return _waiting(found)
        if not yes:
            typer.confirm(f"Erase {_counts(found)} for ever?", abort=True, err=True)
        done = await erase(link, True)
        say(f"erased {_counts(done)}")
        say(f"request {', '.join(done.requests)}")
        if not await erasure.free(link):
            warn(f"their old versions stay on disk until the store's owner runs: {erasure.VACUUM}")
        return _waiting(done)

    raise typer.Exit(_connected(work))


def _places(path: Path, server: str) -> "list[Place]":
    from vaultbrix.audit.erasure import places  # noqa: PLC0415

    try:
        return places(typer.get_text_stream("stdin").read() if str(path) == "-" else path.read_text(), server)
    except (OSError, ValueError) as error:
        _usage(f"--records: {error}")


def _counts(found: "Erased") -> str:
    return f"{found.records} records, {found.quarantine} quarantined lines, {found.events} events"


def _waiting(found: "Erased") -> int:
    if found.waiting:
        warn(f"{found.waiting} events are not sealed yet and were left; repeat this once a shipper has sealed them")
    return 1 if found.waiting else 0


def _usage(message: str) -> NoReturn:
    warn(f"error: {message}")
    raise typer.Exit(2)


def _connected(work: "Callable[[psycopg.AsyncConnection], Awaitable[T]]") -> "T":
    """Run with a connection to the store; an error of it ends the process with 1."""
    import psycopg  # noqa: PLC0415

    from vaultbrix.audit import schema  # noqa: PLC0415

    async def main() -> T:
        async with await psycopg.AsyncConnection.connect(
            dbname=os.environ.get("PGDATABASE", "audit"), application_name="vaultbrix-audit", autocommit=True
        ) as link:
            found, ours = await schema.version(link)
            if found != ours:
                warn(f"error: audit store: schema {found} is not this release's {ours}")
                raise typer.Exit(1)
            return await work(link)

    try:
        return asyncio.run(main())
    except psycopg.Error as error:
        warn(f"error: audit store: {error.diag.message_primary or str(error).strip()}")
        if isinstance(error, psycopg.OperationalError):
            warn("       set PGHOST, PGPORT, PGUSER, PGPASSWORD and PGSSLROOTCERT; see docs/audit.md")
        elif isinstance(error, psycopg.errors.InsufficientPrivilege):
            warn("       redact needs a member of audit_redact, retention one of audit_manage")
        raise typer.Exit(1) from None
