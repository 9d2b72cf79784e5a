"""``vaultbrix audit``: ship the log to the store, and ask the store."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaultbrix.cli import auditexport, auditmanage, auditverify
from vaultbrix.cli.output import plain

if TYPE_CHECKING:
    from vaultbrix.adapters.postgres import Target
    from vaultbrix.audit.seal import Signer

app = typer.Typer(no_args_is_help=True, help="Ship the log, and ask the audit store.")
auditverify.register(app)
auditexport.register(app)
auditmanage.register(app)


@dataclass(frozen=True)
class _Store:
    """The store's Secret, as it is mounted."""

    directory: Path

    def target(self) -> "Target":
        from vaultbrix.adapters.postgres import Target  # noqa: PLC0415

        return Target(
            host=self._value("host"),
            port=int(self._value("port")),
            database=self._value("dbname"),
            user=self._value("username"),
            password=self._value("password"),
            ca=self._value("ca.crt"),
            application="vaultbrix-shipper",
        )

    def signer(self) -> "Signer":
        from vaultbrix.audit.seal import Signer  # noqa: PLC0415

        return Signer(self._value("signing.key").encode())

    def _value(self, key: str) -> str:
        return (self.directory / key).read_text()


@app.command()
def ship(
    server: Annotated[str, typer.Option(help="Name of the PostgresServer.")],
    log_directory: Annotated[Path, typer.Option(help="log_directory of PostgreSQL.")],
    grants: Annotated[Path, typer.Option(help="The agent's grants.json.")],
    store: Annotated[
        Path, typer.Option(help="Directory with host, port, dbname, username, password, ca.crt, signing.key.")
    ],
    flow: Annotated[
        Path | None, typer.Option(help="flow.json, for the agent: how the record stands, written every second.")
    ] = None,
    anchor_file: Annotated[
        Path | None, typer.Option(help="File that the latest batch is added to, at most once a minute.")
    ] = None,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics; 0: none.")] = 8082,
    metrics_address: Annotated[str, typer.Option(help="Address to serve /metrics at. Absent: all.")] = "",
) -> None:
    """Ship PostgreSQL's log to the audit store, for ever."""
    from vaultbrix.audit.metrics import ShipperMetrics  # noqa: PLC0415
    from vaultbrix.audit.monitor import Monitor  # noqa: PLC0415
    from vaultbrix.audit.shipper import Shipper, Source  # noqa: PLC0415
    from vaultbrix.cli.process import run  # noqa: PLC0415
    from vaultbrix.edge.metrics import serving  # noqa: PLC0415

    try:
        target, signer = _Store(store).target(), _Store(store).signer()
    except (OSError, ValueError) as error:
        typer.echo(f"error: --store: {error}", err=True)
        raise typer.Exit(2) from None
    monitor = Monitor(server, log_directory, flow_file=flow, anchor_file=anchor_file)
    shipper = Shipper(Source(server, log_directory, grants), target, signer, monitor)

    async def main() -> None:
        async with serving(metrics_port, ShipperMetrics(monitor), address=metrics_address):
            await shipper.run()

    run(main())


@app.command()
def query(
    tenant: Annotated[str | None, typer.Option(help="namespace/name, or the name alone.")] = None,
    person: Annotated[str | None, typer.Option(help="Who, as in requestedBy.")] = None,
    address: Annotated[str | None, typer.Option(help="Address or CIDR.")] = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time (UTC).")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Admins and the operator too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The latest so many.")] = 200,
    output: Annotated[str, typer.Option(help="table or json (one object a line).")] = "table",
) -> None:
    """Print statements from the audit store. Connects as libpq does: PGHOST, PGPORT, PGUSER, PGPASSWORD, ..."""
    import psycopg  # noqa: PLC0415

    from vaultbrix.audit.query import Filter, statements  # noqa: PLC0415

    wanted = Filter(tenant, person, address, since, until, everybody, limit)
    try:
        with psycopg.connect(dbname=os.environ.get("PGDATABASE", "audit"), application_name="vaultbrix-audit") as link:
            rows = statements(link, wanted)
    except psycopg.Error as error:
        typer.echo(f"error: audit store: {str(error).strip()}", err=True)
        typer.echo("       set PGHOST, PGPORT, PGUSER, PGPASSWORD and PGSSLROOTCERT; see docs/audit.md", err=True)
        raise typer.Exit(1) from None
    if output == "json":
        for row in rows:
            typer.echo(json.dumps(row, default=str))
        return
    _print(rows)


def _print(rows: Any) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("TIME (UTC)", "TENANT", "PERSON", "ADDRESS", "STATEMENT", "MS", "OUTCOME"):
        table.add_column(name, overflow="fold", justify="right" if name == "MS" else "left")
    for row in rows:
        duration = row["duration_ms"]
        # Text, not markup: a tenant's statement must not be able to paint or hide anything.
        table.add_row(
            f"{row['at'].astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3],
            Text(plain(row["tenant"] or row["role"] or "")),
            Text(plain(row["person"] or "unknown")),
            row["address"] or "local",
            Text(plain(row["statement"] or "")),
            "" if duration is None else f"{duration:.1f}",
            row["outcome"] if not row["sqlstate"] else f"{row['outcome']} {row['sqlstate']}",
        )
    width = None if os.isatty(1) else int(os.environ.get("COLUMNS", "180"))
    Console(width=width, highlight=False).print(table)
