"""``vaultbrix audit verify``, ``proof`` and ``anchor``: whether the record is what was sealed."""

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaultbrix.cli.audit.store import fail, progress, public_keys, reading
from vaultbrix.cli.audit.way import asks_store
from vaultbrix.cli.output import plain

if TYPE_CHECKING:
    import psycopg
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from vaultbrix.audit.archive.place import Place
    from vaultbrix.audit.evidence.findings import Anchor
    from vaultbrix.audit.evidence.verify import Checked

# Findings that are printed; one damaged table makes very many.
_SHOWN = 50

Keys = Annotated[Path, typer.Option(help="Public keys of the shippers (PEM): signing.pub of the reader's Secret.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``vaultbrix audit``."""
    for command in (verify, proof, anchor):
        app.command()(asks_store(command))


def verify(
    keys: Keys,
    day: Annotated[str | None, typer.Option(help="One day (UTC) instead of the whole store: 2026-12-01.")] = None,
    proof: Annotated[Path | None, typer.Option(help="Check a record's proof; needs no store.")] = None,
    anchor: Annotated[
        str | None,
        typer.Option(help="Batches known from outside: a file with what `audit anchor` printed, or its --to."),
    ] = None,
    archive: Annotated[
        str | None, typer.Option(help="Check what `audit export` wrote there; needs no store. A folder or s3://...")
    ] = None,
    export_keys: Annotated[
        Path | None,
        typer.Option(help="Public keys that the archive's manifests are signed with; else those of --keys."),
    ] = None,
    lenient: Annotated[
        bool,
        typer.Option(
            "--lenient", help="Only count rows of servers that never sealed one, and erasures that wait for their seal."
        ),
    ] = False,
) -> None:
    """Check the seals, and name the first bad batch. Exits with 1 when something is wrong, with 2 for a bad call."""
    trusted = public_keys(keys)
    if proof is not None:
        if day or anchor or archive:
            fail("--proof: stands alone", "leave out --day, --anchor and --archive", code=2)
        _verify_proof(proof, trusted)
        return
    if archive is not None:
        if day or anchor:
            fail("--archive: stands alone", "leave out --day and --anchor", code=2)
        _verify_archive(archive, trusted, public_keys(export_keys, "--export-keys") if export_keys else trusted)
        return
    from vaultbrix.audit.evidence.verify import Verifier  # noqa: PLC0415

    only_day = _day(day) if day else None
    anchors = _anchors(anchor) if anchor else []
    with reading() as connection, progress() as tell:
        verifier = Verifier(connection, trusted, anchors=anchors, progress=tell, lenient=lenient)
        checked = verifier.day(only_day) if only_day else verifier.whole()
        _note(connection, "verified", {"day": day, "batches": checked.batches, "findings": checked.wrong})
    _report(checked)
    if checked.findings:
        raise typer.Exit(1)


def proof(
    server: Annotated[str, typer.Option(help="Name of the PostgresServer.")],
    session: Annotated[str, typer.Option(help="Session id of the record.")],
    line: Annotated[int, typer.Option(help="Line number of the record in its session.")],
) -> None:
    """Print the proof of one record, which `audit verify --proof` checks without the store."""
    from vaultbrix.audit.evidence.proof import dump, make  # noqa: PLC0415

    with reading() as connection:
        _note(connection, "read", {"proof": {"server": server, "session": session, "line": line}})
        try:
            record_proof = make(connection, server, session, line)
        except LookupError as error:
            fail(str(error.args[0]), "`vaultbrix audit query --output json` prints session_id and line_num")
    typer.echo(dump(record_proof).decode())


def anchor(
    to: Annotated[
        str | None, typer.Option(help="Keep it there as well, a file for each batch: a folder or s3://bucket/prefix.")
    ] = None,
) -> None:
    """Print the newest batch of each server, to be kept where the store's owner cannot write."""
    from vaultbrix.audit.headers import read_latest_headers  # noqa: PLC0415

    place = _place("--to", to) if to else None
    with reading() as connection:
        headers = read_latest_headers(connection)
    for header in headers:
        line = json.dumps({"server": header.server, "batch": header.batch, "head": header.head().hex()})
        if place:
            try:
                place.put_bytes(f"anchor-{header.server}-{header.batch:012}.json", f"{line}\n".encode())
            except OSError as error:
                fail(f"--to: {plain(str(error))}", "see that the place can be written")
        typer.echo(line)


def _verify_proof(path: Path, keys: "dict[bytes, Ed25519PublicKey]") -> None:
    from vaultbrix.audit.evidence.proof import Untrue, check, load  # noqa: PLC0415

    try:
        record_proof = load(path.read_bytes())
        header = check(record_proof, keys)
    except OSError as error:
        fail(f"--proof: {error}", "give a file that `vaultbrix audit proof` printed", code=2)
    except Untrue as error:
        typer.echo(f"NOT PROVED: {plain(str(error))}")
        raise typer.Exit(1) from None
    erased = "; its content was redacted" if record_proof.salt is None else ""
    where = f"row {record_proof.index} of {record_proof.part}, batch {header.batch} of server {header.server}"
    typer.echo(f"proved: {where}{erased}")
    typer.echo(f"sealed {header.sealed_at:%Y-%m-%d %H:%M:%S} UTC, key {record_proof.signer[:16]}")
    if record_proof.salt is not None:
        typer.echo(plain(bytes.fromhex(record_proof.line).decode()))


def _verify_archive(
    url: str, shippers: "dict[bytes, Ed25519PublicKey]", exporters: "dict[bytes, Ed25519PublicKey]"
) -> None:
    place = _place("--archive", url)
    from vaultbrix.audit.archive.whole import check  # noqa: PLC0415

    try:
        with progress() as tell:
            whole = check(place, exporters=exporters, shippers=shippers, progress=tell)
    except OSError as error:
        fail(f"--archive: {plain(str(error))}", "see that the place can be read", code=2)
    for finding in whole.findings[:_SHOWN]:
        typer.echo(f"BAD  {plain(str(finding))}")
    if len(whole.findings) > _SHOWN:
        typer.echo(f"     and {len(whole.findings) - _SHOWN:,} more")
    typer.echo(f"sets {whole.sets:,}  batches {whole.batches:,}  rows {whole.rows:,}", nl=False)
    typer.echo(f"  redacted {whole.redacted:,}  from before sealing {whole.unsealed:,}")
    if whole.uncovered:
        typer.echo(f"of the redacted rows, {whole.uncovered:,} have their event in the store or in a later day only")
    if not whole.sets and not whole.findings:
        fail(f"--archive: there is nothing at {plain(url)}", "see `vaultbrix audit export`")
    typer.echo("all seals hold" if not whole.findings else f"first bad: {plain(str(whole.findings[0]))}")
    if whole.findings:
        raise typer.Exit(1)


def _report(checked: "Checked") -> None:
    for finding in sorted(checked.findings)[:_SHOWN]:
        where = f"{finding.server or 'store'} batch {finding.batch}" if finding.batch else finding.server or "store"
        typer.echo(f"BAD  {where}: {finding.fault}: {plain(finding.message)}")
    if checked.wrong > _SHOWN:
        typer.echo(f"     and {checked.wrong - _SHOWN:,} more")
    typer.echo(f"batches {checked.batches:,}  rows {checked.rows:,}  redacted {checked.redacted:,}", nl=False)
    typer.echo(f"  expired parts {checked.expired:,}", nl=False)
    typer.echo(f"  from before sealing {checked.unsealed:,}  events to be sealed {checked.waiting:,}")
    if checked.uncovered:
        typer.echo(f"of the redacted rows, {checked.uncovered:,} wait for their event to be sealed")
    for last in checked.last.values():
        typer.echo(f"last batch of {last.server}: {last.batch}, {last.head.hex()}")
    first = checked.first
    typer.echo(f"first bad batch: {first.batch} of server {first.server}" if first else "all seals hold")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return fail(f"--day: {text!r} is no date", "write it as 2026-12-01", code=2)


def _place(option: str, url: str) -> "Place":
    try:
        from vaultbrix.audit.archive.place import BadPlace, Place  # noqa: PLC0415
    except ImportError:
        return fail("pyarrow is not installed", "install it with: pip install 'vaultbrix[archive]'", code=2)
    try:
        return Place(url)
    except BadPlace as error:
        wrong, remedy = error.args
        return fail(f"{option}: {wrong}", remedy, code=2)


def _anchor_texts(where: str) -> list[str]:
    """The contents of a file, or of all anchors that were put at a place. Raises OSError."""
    if "://" not in where and not Path(where).is_dir():
        return [Path(where).read_text()]
    place = _place("--anchor", where)
    names = sorted(name for name in place.names("") if name.startswith("anchor-") and name.endswith(".json"))
    if not names:
        return fail(f"--anchor: there is none at {plain(where)}", "see `vaultbrix audit anchor --to`", code=2)
    return [place.read(name).decode() for name in names]


def _anchors(where: str) -> "list[Anchor]":
    from vaultbrix.audit.evidence.findings import Anchor  # noqa: PLC0415

    try:
        texts = _anchor_texts(where)
        lines = [json.loads(line) for text in texts for line in text.splitlines() if line.strip()]
        return [Anchor(line["server"], int(line["batch"]), bytes.fromhex(line["head"])) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return fail(f"--anchor: {error}", "give lines as `vaultbrix audit anchor` prints them", code=2)


def _note(connection: "psycopg.Connection", kind: str, detail: dict[str, object]) -> None:
    connection.execute("SELECT audit.note(%s, %s)", [kind, json.dumps(detail)])
