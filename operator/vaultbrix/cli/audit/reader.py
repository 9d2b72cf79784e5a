"""``vaultbrix audit reader``: a tenant's own auditors."""

import getpass
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from vaultbrix.cli.audit.store import fail, reading
from vaultbrix.cli.output import say, show, table
from vaultbrix.runtime.counted import counted

_SHORTEST = 12

app = typer.Typer(
    no_args_is_help=True,
    help="Logins that see their tenants' records and nothing else. For members of audit_manage and the store's owner;"
    " connects as libpq does: PGHOST, PGPORT, PGUSER, PGPASSWORD, ...",
)

Login = Annotated[str, typer.Argument(help="Its name in the store.")]
Tenants = Annotated[list[str], typer.Option("--tenant", help="namespace/name of a Tenant; repeat it for more.")]


@app.command()
def add(
    login: Login,
    tenant: Tenants,
    password_file: Annotated[
        Path | None,
        typer.Option(help="File with the password; without one it is asked for. Not needed for more tenants."),
    ] = None,
) -> None:
    """Let a login see the records of tenants: a new one, or one more tenant for one that there is."""
    with reading() as connection:
        known = connection.execute("SELECT 1 FROM audit.reader WHERE login = %s LIMIT 1", [login]).fetchone()
        password = _password(password_file, needed=known is None)
        verifier = _verifier(password) if password is not None else None
        connection.execute("SELECT audit.add_reader(%s, %s, %s)", [login, tenant, verifier])
    say(f"{login} sees the records of {', '.join(tenant)}" + ("" if known else "; it logs in with that password"))


@app.command()
def remove(
    login: Login,
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", help="Only these; without any, the login goes.")
    ] = None,
) -> None:
    """Let a login no longer see a tenant's records; one that sees none is dropped, and its sessions end."""
    with reading() as connection:
        row = connection.execute("SELECT audit.remove_reader(%s, %s)", [login, tenant or None]).fetchone()
    say(f"{login} is gone" if row and row[0] else f"{login} no longer sees the records of {', '.join(tenant or [])}")


@app.command(name="list")
def list_() -> None:
    """Print who sees which tenants' records."""
    with reading() as connection:
        rows = connection.execute(
            "SELECT login, string_agg(tenant, ', ' ORDER BY tenant) FROM audit.reader GROUP BY login ORDER BY login"
        ).fetchall()
    show(table(["LOGIN", "TENANTS"], rows))


def _password(file: Path | None, *, needed: bool) -> str | None:
    if file is not None:
        try:
            return file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            fail(f"--password-file: {error}", "give a file that holds the password and nothing else", code=2)
    if not needed:
        return None
    if not sys.stdin.isatty():
        fail("--password-file: there is no terminal to ask on", "give a file that holds the password", code=2)
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        fail("the two passwords differ", "try again", code=2)
    return password


def _verifier(password: str) -> str:
    from vaultbrix.postgres import scram  # noqa: PLC0415

    if len(password) < _SHORTEST:
        fail(f"the password has {counted(len(password), 'character')}", f"use at least {_SHORTEST}", code=2)
    try:
        return scram.verifier(password, secrets.token_bytes(scram.SALT_BYTES))
    except ValueError as error:
        return fail(str(error), "use letters, digits and signs of ASCII", code=2)
