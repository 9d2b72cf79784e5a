"""``vaultbrix audit``: ship the log to the store, and ask the store."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaultbrix.cli import auditquery, auditreader, auditverify

if TYPE_CHECKING:
    from vaultbrix.adapters.postgres import Target
    from vaultbrix.audit.seal import Signer

app = typer.Typer(no_args_is_help=True, help="Ship the log, and ask the audit store.")
app.command()(auditquery.query)
app.command()(auditquery.tail)
app.add_typer(auditreader.app, name="reader")
app.command()(auditverify.verify)
app.command()(auditverify.proof)
app.command()(auditverify.anchor)


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
) -> None:
    """Ship PostgreSQL's log to the audit store, for ever."""
    from vaultbrix.audit.shipper import Shipper, Source  # noqa: PLC0415
    from vaultbrix.cli.process import run  # noqa: PLC0415

    try:
        target, signer = _Store(store).target(), _Store(store).signer()
    except (OSError, ValueError) as error:
        typer.echo(f"error: --store: {error}", err=True)
        raise typer.Exit(2) from None
    run(Shipper(Source(server, log_directory, grants), target, signer).run())
