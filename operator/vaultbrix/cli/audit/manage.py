"""``vaultbrix audit redact`` and ``vaultbrix audit retention``: what may be erased of the record, and when."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from vaultbrix.cli.audit.store import DATABASE
from vaultbrix.cli.output import say, show, table, warn
from vaultbrix.runtime.counted import counted, verb

if TYPE_CHECKING:
    import psycopg

    from vaultbrix.audit.erasure import Erased, Place
    from vaultbrix.audit.retention.decisions import Partition, Policy, Scope

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
    places = _places(records, server) if records else [erasure.Place(server, session, line)]

    async def erase(link: "psycopg.AsyncConnection", really: bool) -> "Erased":
        if person:
            return await erasure.redact_person(link, person, reason, really=really)
        if quarantine:
            return await erasure.redact_quarantine(link, quarantine, reason, really=really)
        return await erasure.redact_records(link, places, reason, really=really)

    async def work(link: "psycopg.AsyncConnection") -> int:
        erasable = await erase(link, False)
        if dry_run or not (erasable.records or erasable.quarantine or erasable.events):
            say(f"would erase {_counts(erasable)}" if dry_run else "nothing to erase")
            return _waiting(erasable)
        if not yes:
            typer.confirm(f"Erase {_counts(erasable)} for ever?", abort=True, err=True)
        done = await erase(link, True)
        say(f"erased {_counts(done)}")
        say(f"request {', '.join(done.requests)}")
        if not await erasure.free(link):
            warn(f"their old versions stay on disk until the store's owner runs: {erasure.VACUUM}")
        return _waiting(done)

    raise typer.Exit(_connected(work))


Tenant = Annotated[str, typer.Option(help="namespace/name; absent: any.")]
Class = Annotated[str, typer.Option("--class", help="READ, WRITE, FUNCTION, ROLE, DDL or MISC; absent: any.")]
_CLASSES = ("", "READ", "WRITE", "FUNCTION", "ROLE", "DDL", "MISC")


@retention.command("show")
def show_retention() -> None:
    """Print the policies, and what is stored."""
    from vaultbrix.audit.retention.store import kept, policies  # noqa: PLC0415

    async def work(link: "psycopg.AsyncConnection") -> None:
        policy_by_scope, stored = await policies(link), await kept(link, datetime.now(UTC))
        show(
            table(
                ("TENANT", "CLASS", "DAYS", "SET BY", "ARCHIVE"),
                (
                    (
                        tenant or "any",
                        class_ or "any",
                        policy.days,
                        "operator" if policy.managed else "hand",
                        "first" if policy.archive else "",
                    )
                    for (tenant, class_), policy in policy_by_scope.items()
                ),
            )
        )
        say()
        size = sum(partition.bytes for partition in stored.partitions)
        say(f"{counted(len(stored.partitions), 'partition')}, {size / 2**20:.1f} MiB; {len(stored.due)} due")
        rest = [partition for partition in stored.partitions if partition not in stored.due]
        if rest:
            first = min(rest, key=lambda partition: partition.due)
            say(f"the next one is due on {first.due}: {_partition(first)}")

    _connected(work)


@retention.command("set")
def set_retention(
    days: Annotated[int, typer.Option(min=1, max=36500, help="How many days records are kept.")],
    tenant: Tenant = "",
    class_: Class = "",
    archive_first: Annotated[
        bool, typer.Option("--archive-first", help="Drop records, of whatever policy, only once they are exported.")
    ] = False,
) -> None:
    """Keep records for so many days from now on. Those that are stored keep the days they were stored with."""
    from vaultbrix.audit.retention.decisions import Policy  # noqa: PLC0415

    _change((tenant, class_), Policy(days, archive=archive_first))
    say(f"{counted(days, 'day')} {verb(days, 'holds', 'hold')} for records that are stored from half a minute on")


@retention.command("remove")
def remove_retention(tenant: Tenant = "", class_: Class = "") -> None:
    """Remove a policy, so that the next closest one holds; 400 days where there is none."""
    _change((tenant, class_), None)


def _change(scope: "Scope", policy: "Policy | None") -> None:
    from vaultbrix.audit.retention.decisions import Changes  # noqa: PLC0415
    from vaultbrix.audit.retention.store import change, policies  # noqa: PLC0415

    if scope[1] not in _CLASSES:
        _usage(f"--class: {scope[1]} is none of {', '.join(_CLASSES[1:])}")
    if scope[0] and scope[0].count("/") != 1:
        _usage(f"--tenant: {scope[0]} is not namespace/name")

    async def work(link: "psycopg.AsyncConnection") -> None:
        existing = (await policies(link)).get(scope)
        if existing is not None and existing.managed:
            warn("error: the operator wrote this policy; change spec.auditRetention of the Tenant or PostgresServer")
            raise typer.Exit(1)
        if policy is None and existing is None:
            warn("error: there is no such policy; see: vaultbrix audit retention show")
            raise typer.Exit(1)
        changes = Changes({}, frozenset((scope,))) if policy is None else Changes({scope: policy}, frozenset())
        await change(link, changes)

    _connected(work)


@retention.command("apply")
def apply_retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
) -> None:
    """Drop the partitions whose days have passed. Exits 1 where some are due and stay."""
    from vaultbrix.audit.retention.store import apply  # noqa: PLC0415

    async def work(link: "psycopg.AsyncConnection") -> int:
        done = await apply(link, datetime.now(UTC), really=not dry_run)
        for gone in done.dropped:
            say(
                f"due: {_partition(gone.partition)}"
                if dry_run
                else f"dropped {_partition(gone.partition)}, {counted(gone.rows, 'row')}"
            )
        if done.quarantine:
            say(f"{'due' if dry_run else 'erased'}: {counted(done.quarantine, 'quarantined line')}")
        for partition in done.unexported:
            warn(f"not in the archive: {_partition(partition)}; run: vaultbrix audit export")
        for partition in done.waiting:
            warn(f"not yet: {_partition(partition)}: the store's clock or its newest record has not come that far")
        for partition in done.held:
            warn(f"held by a query: {_partition(partition)}; try again")
        if not (done.dropped or done.unexported or done.waiting or done.held or done.quarantine):
            say("nothing is due")
        return 1 if done.held or done.unexported else 0

    raise typer.Exit(_connected(work))


def _partition(partition: "Partition") -> str:
    return (
        f"{partition.name} ({partition.day}, kept {counted(partition.keep, 'day')}, {partition.bytes / 2**20:.1f} MiB)"
    )


def _places(path: Path, server: str) -> "list[Place]":
    from vaultbrix.audit.erasure import places  # noqa: PLC0415

    try:
        return places(typer.get_text_stream("stdin").read() if str(path) == "-" else path.read_text(), server)
    except (OSError, ValueError) as error:
        _usage(f"--records: {error}")


def _counts(erased: "Erased") -> str:
    parts = ((erased.records, "record"), (erased.quarantine, "quarantined line"), (erased.events, "event"))
    return ", ".join(counted(number, noun) for number, noun in parts)


def _waiting(erased: "Erased") -> int:
    if erased.waiting:
        left = f"{counted(erased.waiting, 'event')} {verb(erased.waiting, 'is', 'are')} not sealed yet and stayed"
        warn(f"{left}; repeat this once a shipper has sealed {verb(erased.waiting, 'it', 'them')}")
    return 1 if erased.waiting else 0


def _usage(message: str) -> NoReturn:
    warn(f"error: {message}")
    raise typer.Exit(2)


def _connected(work: "Callable[[psycopg.AsyncConnection], Awaitable[T]]") -> "T":
    """Run with a connection to the store; an error of it ends the process with 1."""
    import psycopg  # noqa: PLC0415

    from vaultbrix.audit.schema import OtherSchema, check_schema  # noqa: PLC0415
    from vaultbrix.postgres.connect import of_person, pinned  # noqa: PLC0415

    async def main() -> T:
        async with await psycopg.AsyncConnection.connect(
            of_person(os.environ),
            dbname=os.environ.get("PGDATABASE", DATABASE),
            application_name="vaultbrix-audit",
            options=pinned(os.environ.get("PGOPTIONS", "")),
            autocommit=True,
        ) as link:
            await check_schema(link)
            return await work(link)

    try:
        return asyncio.run(main())
    except OtherSchema as error:
        warn(f"error: audit store: {error}")
        raise typer.Exit(1) from None
    except psycopg.Error as error:
        warn(f"error: audit store: {error.diag.message_primary or str(error).strip()}")
        if isinstance(error, psycopg.OperationalError):
            warn("       set PGHOST, PGPORT, PGUSER, PGPASSWORD and PGSSLROOTCERT; see docs/audit.md")
        elif isinstance(error, psycopg.errors.InsufficientPrivilege):
            warn("       redact needs a member of audit_redact, retention one of audit_manage")
        raise typer.Exit(1) from None
