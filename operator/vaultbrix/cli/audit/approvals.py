"""``vaultbrix audit approvals``: who asked, who decided and what came of it, also of objects that are gone."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from vaultbrix.cli.audit.query import Since, Until, check_schema, ended, moment
from vaultbrix.cli.audit.statements import json_line
from vaultbrix.cli.audit.store import fail, reading
from vaultbrix.cli.audit.way import asks_store
from vaultbrix.cli.output import painted, say, show, table
from vaultbrix.runtime.counted import counted

_UID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PLACE = ("kind", "namespace", "name", "uid")


def register(app: typer.Typer) -> None:
    """Add the command to ``vaultbrix audit``."""
    app.command()(asks_store(approvals))


def approvals(
    approval: Annotated[
        str | None,
        typer.Argument(metavar="[NAMESPACE/NAME|UID]", help="A DDLApproval or AccessRule, there or gone; else all."),
    ] = None,
    person: Annotated[str | None, typer.Option(help="Who asked or decided.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="The latest so many.")] = 200,
    output: Annotated[Literal["table", "json"], typer.Option(help="table or json (one object a line).")] = "table",
) -> None:
    """Print what became of approvals: asked for, decided on, run and ended; of the last 24 hours, or all of one.

    Finds the store as `audit query` does.
    """
    from vaultbrix.audit import query as store  # noqa: PLC0415
    from vaultbrix.audit.trail.stored import Asked, found  # noqa: PLC0415

    now = datetime.now(UTC)
    namespace, slash, name = (approval or "").partition("/")
    is_uid = approval is not None and _UID.fullmatch(approval) is not None
    if approval is not None and not is_uid and not (namespace and slash and name):
        fail(f"{approval}: is no approval", "give its namespace/name, or its uid (metadata.uid)", code=2)
    asked = Asked(
        uid=approval if is_uid else None,
        namespace=namespace if slash else None,
        name=name if slash else None,
        person=person,
        since=moment("--since", since, now) if since else None if approval else now - timedelta(days=1),
        until=moment("--until", until, now) if until else None,
    )
    with ended(), reading() as connection:
        check_schema(connection)
        given = {"approval": approval, "person": person, "since": since, "until": until}
        store.note(connection, {"asked": "approvals", **{key: value for key, value in given.items() if value}})
        rows = found(connection, asked, limit)
        if output == "json":
            for row in rows:
                typer.echo(json_line(row))
            return
        if not rows:
            say("no approval is on record" + (" by that name" if approval else " of that time"))
            return
        show(
            table(
                ["TIME (UTC)", "APPROVAL", "EVENT", "BY", "WHAT", "MESSAGE", "SEALED"],
                [[painted(cell) for cell in _cells(row)] for row in rows],
            )
        )


def _cells(row: Mapping[str, Any]) -> list[str]:
    said: Mapping[str, Any] = row["detail"]
    about = "{} {}/{}".format(*(said.get(name, "") for name in _PLACE[:3]))
    batch = f"{row['server']} {row['batch']}" if row["batch"] is not None else "not yet"
    return [
        str(said.get("at", "")).replace("T", " ").removesuffix("Z"),
        about,
        str(said.get("event", "")),
        str(said.get("by", "erased" if said.get("redacted") else "")),
        _what(said),
        " ".join(str(said.get("message", "")).split()),
        batch,
    ]


def _what(said: Mapping[str, Any]) -> str:
    parts = [said.get("verdict", ""), "" if said.get("counts", True) else "does not count"]
    why = ": ".join(filter(None, (said.get("reason"), said.get("why"))))
    parts += [why, said.get("terms", "")]
    if said.get("executed"):
        parts.append(f"{counted(said['executed'], 'statement')} took effect")
    if said.get("sha256"):
        parts.append(f"sha256 {said['sha256'][:8]}")
    return "; ".join(str(part) for part in parts if part)
