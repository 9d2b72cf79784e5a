"""``vaultbrix audit export``: whole days of the store as Parquet files with a signed manifest."""

import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaultbrix.cli.audit.archive import needs_libraries
from vaultbrix.cli.audit.store import fail, reading
from vaultbrix.cli.output import say
from vaultbrix.runtime.counted import counted

if TYPE_CHECKING:
    from vaultbrix.audit.archive.export import Done, Progress
    from vaultbrix.audit.seal import Signer


def export(
    url: Annotated[str, typer.Argument(help="A folder's path or s3://bucket/prefix.")],
    key: Annotated[Path, typer.Option(help="Ed25519 private key (PEM) that signs the manifests.")],
    day: Annotated[list[str] | None, typer.Option(help="YYYY-MM-DD (UTC), repeatable; without: all past days.")] = None,
    again: Annotated[bool, typer.Option(help="Anew, in place of what is there of the day: after a redaction.")] = False,
    without: Annotated[
        list[str] | None, typer.Option(help="A server to wait for no more, such as one that is gone; repeatable.")
    ] = None,
) -> None:
    """Export past days to Parquet files, with a signed manifest for each.

    Connects as libpq does (PGHOST, PGPORT, PGUSER, ...), with a login of group audit_export. For S3: AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY or AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL.
    """
    needs_libraries()
    from vaultbrix.audit.archive import store  # noqa: PLC0415
    from vaultbrix.audit.archive.export import Exporter, ExportError, Options  # noqa: PLC0415
    from vaultbrix.audit.archive.place import BadPlace, Place  # noqa: PLC0415

    if again and not day:
        fail("--again: needs --day", "name the days that are to be exported anew", code=2)
    days, signer = _days(day or []), _signer(key)
    try:
        place = Place(url)
        with reading() as link, _bar() as progress:
            if not store.permitted(link):
                fail("the login may not export", "connect as a login of group audit_export")
            if not store.alone(link):
                fail("another export of this store is running", "wait for it to end")
            now = datetime.now(UTC)
            exporter, options = Exporter(link, place, signer, progress), Options(again, frozenset(without or []))
            printed = 0
            for exported_day in days or _past(store.first_day(link), now.date()):
                done = exporter.export(exported_day, options, now=now)
                # Without --day, days that are settled are no news.
                if days or done.manifest or done.waits:
                    _tell(done)
                    printed += 1
            if not printed:
                say("nothing to export: all past days are in the archive")
    except BadPlace as error:
        fail(f"URL: {error.args[0]}", error.args[1], code=2)
    except ExportError as error:
        fail(str(error.args[0]), error.args[1])
    except OSError as error:
        fail(f"{url}: {error}", "check the place and its credentials; the next export goes on where this one ended")


def _days(texts: list[str]) -> list[date]:
    try:
        return sorted({date.fromisoformat(text) for text in texts})
    except ValueError as error:
        fail(f"--day: {error}", "write YYYY-MM-DD", code=2)


def _past(first: date | None, today: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((today - first).days)] if first else []


def _signer(key: Path) -> "Signer":
    from vaultbrix.audit.seal import Signer  # noqa: PLC0415

    try:
        return Signer(key.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        fail(f"--key: {error}", "make one with: openssl genpkey -algorithm ed25519 -out export.key", code=2)


@contextlib.contextmanager
def _bar() -> Iterator["Progress"]:
    """A bar on standard error where that is a terminal."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("rows {task.completed:,}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("")
        yield lambda day, rows, total: bars.update(task, description=str(day), completed=rows, total=total)


def _tell(done: "Done") -> None:
    if done.why:
        say(f"{done.day}  {done.why}")
    else:
        figures = f"{counted(done.rows, 'row')}  {counted(done.bytes, 'byte')}  manifest {done.manifest}"
        say(f"{done.day}  {'supplement  ' if done.number > 1 else ''}{figures}")


def register(app: typer.Typer) -> None:
    """Add the command to ``vaultbrix audit``."""
    app.command()(export)
