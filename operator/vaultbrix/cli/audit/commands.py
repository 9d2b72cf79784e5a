"""``vaultbrix audit``: ship the log to the store, and ask the store."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaultbrix.cli.audit import approvals, export, manage, query, reader, verify

if TYPE_CHECKING:
    from vaultbrix.audit.seal import Signer
    from vaultbrix.postgres.connect import Target

app = typer.Typer(no_args_is_help=True, help="Ship the log, and ask the audit store.")
query.register(app)
approvals.register(app)
app.add_typer(reader.app, name="reader")
verify.register(app)
export.register(app)
manage.register(app)


@dataclass(frozen=True)
class _Store:
    """The store's Secret, as it is mounted."""

    directory: Path

    def target(self) -> "Target":
        from vaultbrix.postgres.connect import Target  # noqa: PLC0415

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
    keep_stored: Annotated[
        str, typer.Option(help="How long log files stay that are stored, such as 1h; 0s: for ever.")
    ] = "0s",
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics; 0: none.")] = 8082,
    metrics_address: Annotated[str, typer.Option(help="Address to serve /metrics at. Absent: all.")] = "",
) -> None:
    """Ship PostgreSQL's log to the audit store, for ever."""
    from vaultbrix.api.meta import parse_duration  # noqa: PLC0415
    from vaultbrix.audit.shipping.metrics import serving  # noqa: PLC0415
    from vaultbrix.audit.shipping.monitor import Monitor  # noqa: PLC0415
    from vaultbrix.audit.shipping.shipper import Shipper, Source  # noqa: PLC0415
    from vaultbrix.runtime.process import configure_logging, run  # noqa: PLC0415

    try:
        target, signer = _Store(store).target(), _Store(store).signer()
    except (OSError, ValueError) as error:
        typer.echo(f"error: --store: {error}", err=True)
        raise typer.Exit(2) from None
    try:
        keep = parse_duration(keep_stored).total_seconds()
    except ValueError as error:
        typer.echo(f"error: --keep-stored: {error}", err=True)
        raise typer.Exit(2) from None
    monitor = Monitor(server, log_directory, flow_file=flow, anchor_file=anchor_file)
    shipper = Shipper(Source(server, log_directory, grants, keep or None), target, signer, monitor)

    configure_logging()
    with serving(metrics_port, monitor, metrics_address):
        run(shipper.run())
