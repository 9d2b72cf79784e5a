"""``vaultbrix audit query``, ``tail`` and ``stats``. That somebody reads is on record before anything is shown."""

import contextlib
import difflib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vaultbrix.cli import complete
from vaultbrix.cli.audit.archive import archived, opened
from vaultbrix.cli.audit.known import EARLIEST, check_known, with_tenant
from vaultbrix.cli.audit.statements import Form, Row, json_line, print_numbers, print_table, printer
from vaultbrix.cli.audit.store import fail, reading
from vaultbrix.cli.audit.way import asks_store
from vaultbrix.cli.output import plain

if TYPE_CHECKING:
    import psycopg

    from vaultbrix.audit.archive.everywhere import Everywhere
    from vaultbrix.audit.query import Filter
    from vaultbrix.audit.query import Kind as RecordKind

_PAUSE_SECONDS = 1.0
_CLASSES = ("READ", "WRITE", "DDL", "ROLE", "FUNCTION", "MISC")
_OUTCOMES = ("ok", "error", "refused", "cancelled", "unknown")

Tenant = Annotated[str | None, typer.Option(help="namespace/name, or the name alone.")]
Person = Annotated[str | None, typer.Option(help="Who, as in requestedBy.")]
Approver = Annotated[str | None, typer.Option(help="Who approved the access, or what ran.")]
Rule = Annotated[str | None, typer.Option(help="The AccessRule or DDLApproval that let them in: namespace/name.")]
Key = Annotated[
    str | None,
    typer.Option(help="APIKey of the data API: namespace/name, or the name alone.", autocompletion=complete.api_keys),
]
Kind = Annotated[
    Literal["statement", "refusal"] | None,
    typer.Option(
        help="statement, or refusal: a request that the data API let in nowhere. "
        "Statements unless told otherwise; with --key or --request both."
    ),
]
Request = Annotated[str | None, typer.Option(help="Id of a request of the data API, as in its X-Request-Id.")]
Address = Annotated[str | None, typer.Option(help="Address or CIDR.")]
Role = Annotated[str | None, typer.Option(help="Login role.")]
Object = Annotated[str | None, typer.Option("--object", help="Table or other object: schema.name, or the name alone.")]
Class = Annotated[str | None, typer.Option("--class", help="READ, WRITE, DDL, ROLE, FUNCTION or MISC.")]
Command = Annotated[str | None, typer.Option(help='Such as SELECT or "DROP TABLE".')]
Outcome = Annotated[str | None, typer.Option(help="ok, error, refused, cancelled or unknown.")]
Text = Annotated[str | None, typer.Option(help="Part of the statement's text, in any case of letters.")]
Since = Annotated[
    str | None, typer.Option(help="From then on (UTC): a time, a day, or how long ago, such as 2h or 7d.")
]
Until = Annotated[str | None, typer.Option(help="Before then (UTC).")]
Everybody = Annotated[bool, typer.Option("--all", help="Admins and the operator too.")]
Output = Annotated[Form, typer.Option(help="table, csv or json (one object a line).")]


@dataclass(frozen=True)
class Options:
    """The options of a command that asks the store, as they were given."""

    tenant: str | None = None
    person: str | None = None
    rule: str | None = None
    address: str | None = None
    role: str | None = None
    object: str | None = None
    class_: str | None = None
    command: str | None = None
    outcome: str | None = None
    text: str | None = None
    since: str | None = None
    until: str | None = None
    everybody: bool = False
    key: str | None = None
    request: str | None = None
    kind: "RecordKind | None" = None
    approver: str | None = None

    def filter(self, now: datetime) -> "Filter":
        """The criteria, checked, but for the tenant, which only the store knows. Exits with 2 for a wrong option."""
        from vaultbrix.audit.query import DEFAULT_SPAN, Filter  # noqa: PLC0415

        until = moment("--until", self.until, now) if self.until else None
        since = moment("--since", self.since, now) if self.since else (until or now) - DEFAULT_SPAN
        if until is not None and until <= since:
            fail(
                f"--until: {until:%Y-%m-%d %H:%M:%S} is not after --since {since:%Y-%m-%d %H:%M:%S}",
                "give the earlier time as --since",
                code=2,
            )
        if self.outcome is not None and self.outcome not in _OUTCOMES:
            fail(f"--outcome: {self.outcome!r} is none", f"give one of {', '.join(_OUTCOMES)}", code=2)
        if self.class_ is not None and self.class_.upper() not in _CLASSES:
            near = difflib.get_close_matches(self.class_.upper(), _CLASSES, 1)
            meant = f"did you mean {near[0]}?" if near else f"give one of {', '.join(_CLASSES)}"
            fail(f"--class: {plain(self.class_)} is no class of statements", meant, code=2)
        if self.key and self.rule:
            fail("--key: stands where --rule does", "give one of them", code=2)
        whole_key = self.key is not None and "/" in self.key
        return Filter(
            since=since,
            # Clocks differ: what is newest counts as now.
            until=until or max(now, since) + timedelta(days=1),
            kinds=self._kinds(),
            person=self.person,
            authorization=f"key:{self.key}" if whole_key else self.rule,
            key=None if whole_key else self.key,
            request=self.request,
            address=network(self.address) if self.address else None,
            role=self.role,
            object=self.object,
            class_=self.class_.upper() if self.class_ else None,
            command=self.command.upper() if self.command else None,
            outcome=self.outcome,
            text=self.text,
            everybody=self.everybody,
            approver=self.approver,
        )

    def _kinds(self) -> "tuple[RecordKind, ...]":
        if self.kind is not None:
            return (self.kind,)
        return ("statement", "refusal") if self.key or self.request else ("statement",)

    def note(self, command: str) -> dict[str, Any]:
        """The detail of the event that says who read what."""
        given = {name.rstrip("_"): value for name, value in vars(self).items() if value not in (None, False)}
        return {"asked": command, **given}


def moment(option: str, text: str, now: datetime) -> datetime:
    """A time, a day, or how long before now; without an offset it is UTC. Exits with 2 for something else."""
    from vaultbrix.runtime.usage import Misused, parse_span  # noqa: PLC0415

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now - parse_span(option, text)
        except Misused:
            return fail(
                f"{option}: {text!r} is no time",
                "write 2026-12-01, 2026-12-01T18:00:00Z, or how long ago: 90m, 1d12h, 7d",
                code=2,
            )
    if not EARLIEST.year <= at.year < 9000:
        fail(f"{option}: the year {at.year} is out of range", "the record begins after 2000", code=2)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def network(text: str) -> str:
    """An address or a CIDR. Exits with 2 for something else."""
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        return fail(f"--address: {text!r} is no address", "write 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32", code=2)


def register(app: typer.Typer) -> None:
    """Add the commands to ``vaultbrix audit``."""
    for command in (query, tail, stats):
        app.command()(asks_store(command))


def query(
    tenant: Tenant = None,
    person: Person = None,
    approver: Approver = None,
    rule: Rule = None,
    key: Key = None,
    address: Address = None,
    role: Role = None,
    object_: Object = None,
    class_: Class = None,
    command: Command = None,
    outcome: Outcome = None,
    text: Text = None,
    request: Request = None,
    kind: Kind = None,
    since: Since = None,
    until: Until = None,
    everybody: Everybody = False,
    limit: Annotated[int, typer.Option(min=0, help="The latest so many; 0 is all, oldest first.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is stored from now on.")] = False,
    output: Output = Form.TABLE,
    archive: Annotated[
        str | None, typer.Option(help="URL of `audit export`: also days that the store has dropped.")
    ] = None,
    archive_keys: Annotated[Path | None, typer.Option(help="Public keys (PEM) of the archive's manifests.")] = None,
) -> None:
    """Print statements from the audit store: the latest 200 of the last 24 hours unless told otherwise.

    Finds the store with your kubeconfig and forwards its port, unless --store or PGHOST and its kin say where it is.
    """
    options = Options(
        tenant, person, rule, address, role, object_, class_, command, outcome, text, since, until, everybody,
        key, request, kind, approver,
    )  # fmt: skip
    if follow and (until or limit == 0):
        fail("--follow: has no end", "leave out --until, and --limit=0", code=2)
    source = opened(archive, archive_keys) if archive else None
    _ask(options, "query", limit=limit, follow=follow, output=output, source=source)


def tail(
    tenant: Tenant = None,
    person: Person = None,
    approver: Approver = None,
    rule: Rule = None,
    key: Key = None,
    address: Address = None,
    role: Role = None,
    object_: Object = None,
    class_: Class = None,
    command: Command = None,
    outcome: Outcome = None,
    text: Text = None,
    kind: Kind = None,
    everybody: Everybody = False,
    limit: Annotated[int, typer.Option("--lines", "-n", min=1, help="So many to begin with.")] = 10,
    output: Output = Form.TABLE,
) -> None:
    """Print the newest statements, and each new one when its end is stored; ends with Ctrl-C."""
    options = Options(
        tenant, person, rule, address, role, object_, class_, command, outcome, text, None, None, everybody,
        key, None, kind, approver,
    )  # fmt: skip
    _ask(options, "tail", limit=limit, follow=True, output=output)


def stats(
    since: Since = None,
    until: Until = None,
    output: Annotated[Literal["table", "json"], typer.Option(help="table or json (one object).")] = "table",
) -> None:
    """Count statements by tenant, class, outcome and day (UTC), and say what is missing: of the last 24 hours."""
    from vaultbrix.audit import query as store  # noqa: PLC0415
    from vaultbrix.audit.stats import gather  # noqa: PLC0415

    now = datetime.now(UTC)
    options = Options(since=since, until=until)
    criteria = options.filter(now)
    with ended(), reading() as connection:
        check_schema(connection)
        store.note(connection, options.note("stats"))
        with progress() as report:
            counted = gather(connection, criteria.since, criteria.until, report, now=now)
        if output == "json":
            typer.echo(json_line(counted.document()))
        else:
            print_numbers(counted)


def _ask(
    options: Options,
    command: str,
    *,
    limit: int,
    follow: bool,
    output: Form,
    source: "Everywhere | None" = None,
) -> None:
    from vaultbrix.audit import query as store  # noqa: PLC0415

    criteria = options.filter(datetime.now(UTC))
    with ended(), reading() as connection, archived() if source else contextlib.nullcontext():
        check_schema(connection)
        if source and not store.sees_all(connection):
            fail("--archive: holds every tenant's record", "connect as a login of group audit_read, or leave it out")
        store.note(connection, options.note(command))
        answers = source or store
        if options.tenant:
            criteria = with_tenant(connection, criteria, options.tenant, answers.tenants)
        if follow:
            _follow(connection, criteria, limit, answers.latest, printer(output))
            return
        with progress() as report:
            if limit == 0:
                show = printer(output)
                for row in answers.everything(connection, criteria, report):
                    show([row])
            else:
                rows = answers.latest(connection, criteria, limit, report)
        if limit and not rows:
            check_known(connection, _names(options), criteria.until, answers.latest)
        if limit and output is Form.TABLE:
            print_table(rows)
        elif limit:
            printer(output)(rows)


def _names(options: Options) -> list[tuple[str, str, str | None]]:
    return [
        ("person", "person", options.person),
        ("approver", "approver", options.approver),
        ("rule", "authorization", options.rule),
        ("role", "role", options.role),
        ("object", "object", options.object),
    ]


def _follow(
    connection: "psycopg.Connection",
    criteria: "Filter",
    limit: int,
    latest: "Callable[[psycopg.Connection, Filter, int, Callable[[float], None]], list[dict[str, Any]]]",
    show: Callable[[Iterable[Row]], None],
) -> None:
    from vaultbrix.audit import query as store  # noqa: PLC0415

    # What is stored meanwhile is not among the first, and so it is shown after them.
    with store.snapshot(connection), progress() as report:
        heads = store.batches(connection)
        rows = latest(connection, criteria, limit, report)
    running = [row for row in rows if row["outcome"] == "unknown"]
    show([row for row in rows if row["outcome"] != "unknown"])
    for rows in store.follow(connection, criteria, lambda: datetime.now(UTC), after=heads, running=running):
        show(rows)
        time.sleep(_PAUSE_SECONDS)


def check_schema(connection: "psycopg.Connection") -> None:
    """Whether store and release know the same schema; exits with 1 otherwise."""
    import psycopg  # noqa: PLC0415

    from vaultbrix.audit.schema import OtherSchema, check_schema_sync  # noqa: PLC0415

    try:
        check_schema_sync(connection)
    except psycopg.errors.UndefinedTable:
        fail(f"database {connection.info.dbname} is no audit store", "set PGDATABASE to the store's, or leave it out")
    except OtherSchema as error:
        has = f"the store's schema is {error.stored}, this release"
        if error.newer:
            fail(f"{has} knows {error.known}", "use the release that the store is of")
        fail(f"{has} needs {error.known}", "upgrade the store: the bootstrap Job does")


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """Ends without a word at Ctrl-C, SIGTERM, and when whoever reads the output is gone."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except BrokenPipeError:
        # Python would say so once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[float], None]]:
    """A bar on standard error that tells how much is looked through, where somebody watches."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=1.0)
        yield lambda done: bar.update(task, completed=done)
