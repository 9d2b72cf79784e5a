"""The store as its readers reach it: libpq's environment, and errors that name the remedy."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from vaultbrix.cli.output import plain

if TYPE_CHECKING:
    import psycopg
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

DATABASE = "audit"


@contextlib.contextmanager
def reading() -> Iterator["psycopg.Connection"]:
    """An autocommit connection to the store, whose texts are those that were sealed; exits with 1 when it fails."""
    import psycopg  # noqa: PLC0415

    from vaultbrix.audit.rows import SETTINGS  # noqa: PLC0415
    from vaultbrix.postgres.connect import pinned  # noqa: PLC0415

    try:
        with (
            _parameters() as parameters,
            psycopg.connect(
                **parameters,
                application_name="vaultbrix-audit",
                options=pinned(os.environ.get("PGOPTIONS", ""), SETTINGS),
                autocommit=True,
            ) as connection,
        ):
            yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        fail(f"audit store: {error.diag.message_primary}", "connect as a login that may do this; see docs/audit.md")
    except psycopg.errors.DatabaseError as error:
        if error.diag.sqlstate and not isinstance(error, psycopg.OperationalError):
            fail(
                f"audit store: {plain(error.diag.message_primary)}",
                plain(error.diag.message_hint or f"PostgreSQL says {error.diag.sqlstate}; see docs/audit.md"),
            )
        fail(
            f"audit store: {plain(str(error).strip())}",
            "set PGHOST, PGPORT, PGUSER, PGPASSWORD and PGSSLROOTCERT, or none of them; see docs/audit-query.md",
        )


@contextlib.contextmanager
def _parameters() -> Iterator[dict[str, Any]]:
    """What libpq needs to connect, by the way that was chosen; exits with 1 where the store is not found."""
    import psycopg  # noqa: PLC0415

    from vaultbrix.cli.audit.way import through_cluster, way  # noqa: PLC0415
    from vaultbrix.postgres.connect import of_person  # noqa: PLC0415
    from vaultbrix.runtime.errors import Expected  # noqa: PLC0415
    from vaultbrix.runtime.usage import Refused  # noqa: PLC0415

    chosen = way()
    careful: dict[str, Any] = {"dbname": os.environ.get("PGDATABASE", DATABASE)}
    careful |= psycopg.conninfo.conninfo_to_dict(of_person(os.environ))
    if not chosen.by_cluster:
        try:
            given = psycopg.conninfo.conninfo_to_dict(chosen.store)
        except psycopg.ProgrammingError as error:
            fail(
                f"--store: {plain(str(error).strip())}",
                "write postgresql://user@host:port/audit or host=... user=...",
                code=2,
            )
        yield {**careful, **given}
        return
    try:
        with through_cluster(chosen) as (parameters, problem):
            try:
                yield parameters
            except psycopg.OperationalError:
                if problem() is None:
                    raise
                fail(
                    f"audit store: {plain(problem())}", "try again, or connect by libpq: --store, or PGHOST and its kin"
                )
    except Refused as error:
        fail(plain(str(error)), "see docs/audit-query.md")
    except Expected as error:
        fail(plain(error.message), "or connect by libpq: --store, or PGHOST and its kin; see docs/audit-query.md")


def public_keys(path: Path, option: str = "--keys") -> dict[bytes, "Ed25519PublicKey"]:
    """The keys in a PEM file; exits with 2 for another file."""
    from vaultbrix.audit.seal import public_keys as read  # noqa: PLC0415

    try:
        return read(path.read_bytes())
    except (OSError, ValueError) as error:
        fail(
            f"{option}: {error}",
            "give the file of key signing.pub of the reader's Secret (PEM; old keys may stand beside the new)",
            code=2,
        )


def fail(message: str, remedy: str, *, code: int = 1) -> NoReturn:
    """Say what is wrong and what to do, and exit."""
    typer.echo(f"error: {message}", err=True)
    typer.echo(f"       {remedy}", err=True)
    raise typer.Exit(code) from None


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int], None]]:
    """A line on standard error that tells how far long work is, where somebody watches."""
    if not sys.stderr.isatty():
        yield lambda _what, _count: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.status import Status  # noqa: PLC0415

    counts: dict[str, int] = {}
    with Status("reading", console=Console(stderr=True)) as status:

        def tell(what: str, count: int) -> None:
            counts[what] = count
            status.update(", ".join(f"{number:,} {name}" for name, number in counts.items()))

        yield tell
