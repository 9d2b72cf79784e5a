"""What the store must hold for a line of the log: the words of docs/audit.md, with the standard library alone."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

csv.field_size_limit(sys.maxsize)


def read_time(text: str) -> datetime:
    """PostgreSQL's text of a timestamptz in UTC."""
    stamp, _, fraction = text.removesuffix("+00").partition(".")
    return datetime.fromisoformat(f"{stamp}.{fraction:0<6}").replace(tzinfo=UTC)


TEXT, INT, FLOAT, TIME, ADDRESS = str, int, float, read_time, ip_address
RECORD: dict[str, Callable[[str], Any]] = {
    "server": TEXT, "at": TIME, "session_id": TEXT, "line_num": INT, "kind": TEXT, "pid": INT, "role": TEXT,
    "tenant": TEXT, "person": TEXT, "ground": TEXT, "database": TEXT, "address": ADDRESS, "application": TEXT,
    "tag": TEXT, "vxid": TEXT, "class": TEXT, "command": TEXT, "object_type": TEXT, "object_name": TEXT,
    "statement_id": INT, "substatement_id": INT, "statement": TEXT, "row_count": INT, "duration_ms": FLOAT,
    "severity": TEXT, "sqlstate": TEXT, "message": TEXT, "file": TEXT, "position": INT, "keep": INT,
}  # fmt: skip
GATE = re.compile(
    r"SELECT vaultbrix\.(ddl_start\(tg_tag|sql_drop\(tg_tag|ddl_end\(tg_tag|truncate_check\(TG_RELID)"
    r", current_user, ctx, pg_catalog\.current_schemas\(false\)\)"
)
DATA_API = re.compile(r"vaultbrix_rest(_[a-z0-9_]+)?")
REQUEST_FRAME = re.compile(r"PL/pgSQL function vaultbrix\.pre_request\(\) line [0-9]+ at RAISE")
# Who held a role at a time: (tenant, person, ground), all empty when nobody is known.
People = Callable[[str, datetime], tuple[str, str, str]]


def nobody(_role: str, _at: datetime) -> tuple[str, str, str]:
    """Nobody holds a grant."""
    return "", "", ""


class Requests:
    """Whose requests the data API's sessions serve. Lines come as each session wrote them, none is missing."""

    def __init__(self) -> None:
        self._at: dict[str, tuple[str, dict[str, Any] | None]] = {}

    def attribute(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row as its session's request has it."""
        if not DATA_API.fullmatch(row["role"] or ""):
            return row
        vxid, caller = self._at.get(row["session_id"], ("", None))
        inside = row["vxid"] is not None and not row["vxid"].endswith("/0")
        if inside and row["vxid"] != vxid:
            vxid, caller = row["vxid"], None
        if row["kind"] == "request":
            if caller is None and inside:
                said = json.loads(row["message"].removeprefix("REQUEST: "))
                person = f"user:{said['subject']}" if said.get("subject") else ""
                caller = {
                    "role": said["role"], "tenant": said["tenant"], "person": person, "ground": f"key:{said['key']}",
                    "address": ip_address(said["client"]),
                }  # fmt: skip
            else:
                row |= {"kind": "forged", "object_name": None}
        self._at[row["session_id"]] = vxid, caller
        return row | (caller if caller and row["kind"] != "disconnection" else {})


class Malformed(ValueError):
    """No line of PostgreSQL's; belongs into quarantine."""


def expectation(
    line: bytes, server: str, file: str, position: int, people: People, requests: Requests
) -> tuple[Any, ...]:
    """The row of audit.record that a line must become, in the order of RECORD. Raises Malformed."""
    try:
        entry = json.loads(line.decode())
        stamp, _, zone = entry["timestamp"].rpartition(" ")
        at = datetime.fromisoformat(stamp).replace(tzinfo=UTC)
        message = entry.get("message", "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Malformed(str(error)) from None
    if zone not in ("UTC", "GMT"):
        raise Malformed(zone)
    remote = entry.get("remote_host") or ""
    try:
        address = ip_address(remote.split("%")[0])
    except ValueError:
        address = None
    row = dict.fromkeys(RECORD) | {
        "server": server, "at": at, "session_id": entry.get("session_id", ""), "line_num": entry.get("line_num", 0),
        "kind": "other", "pid": entry.get("pid"), "role": entry.get("user"), "database": entry.get("dbname"),
        "address": address, "application": entry.get("application_name"), "tag": _tag(entry),
        "vxid": entry.get("vxid"), "file": file, "position": position, "keep": 400,
    }  # fmt: skip
    row["tenant"], row["person"], row["ground"] = people(row["role"] or "", at) if address else ("", "", "")
    function, severity = entry.get("func_name", ""), entry.get("error_severity", "")
    if function == "log_audit_event" and message.startswith("AUDIT: "):
        return _storable(requests.attribute(row | _audited(message.removeprefix("AUDIT: "))))
    row |= {"severity": severity, "sqlstate": entry.get("state_code"), "message": message}
    if severity == "FATAL" and (entry.get("state_code") or "").startswith("28"):
        row["kind"] = "authentication"
    elif severity in ("ERROR", "FATAL", "PANIC"):
        row |= {"kind": "error", "statement": entry.get("statement")}
    elif message.startswith("AUDIT: "):
        row["kind"] = "forged"
    elif message.startswith("REQUEST: "):
        row |= _request(entry)
    elif function in ("exec_simple_query", "exec_execute_message") and message.startswith("duration: "):
        row |= {"kind": "duration", "duration_ms": float(message.split(" ")[1])}
    elif function in ("BackendInitialize", "set_authn_id", "PerformAuthentication", "InitPostgres"):
        if message.startswith("connection "):
            row["kind"] = "authentication" if message.startswith("connection authenticated: ") else "connection"
    elif function == "log_disconnections":
        row["kind"] = "disconnection"
    return _storable(requests.attribute(row))


def _storable(row: dict[str, Any]) -> tuple[Any, ...]:
    # PostgreSQL holds no NUL.
    if any(isinstance(value, str) and "\0" in value for value in row.values()):
        raise Malformed("NUL")
    return tuple(row.values())


def _tag(entry: dict[str, Any]) -> str:
    tag: str = entry.get("ps", "").removesuffix(" waiting")
    place, state = entry.get("cursor_position"), entry.get("state_code", "")[:2]
    return "PARSE" if place and not entry.get("context") and tag != "DO" and state in ("22", "42") else tag


def _request(entry: dict[str, Any]) -> dict[str, Any]:
    ours = (entry.get("func_name"), entry.get("error_severity")) == ("exec_stmt_raise", "LOG")
    if (
        not ours
        or not REQUEST_FRAME.fullmatch(entry.get("context", ""))
        or not DATA_API.fullmatch(entry.get("user") or "")
    ):
        return {"kind": "forged"}
    try:
        said = json.loads(entry["message"].removeprefix("REQUEST: "))
        ip_address(said["client"])
        whole = all(isinstance(said[name], str) for name in ("role", "tenant", "key", "request", "claims"))
        whole &= said["tenant"].split("/")[0] == said["key"].split("/")[0]
        slug = entry["user"].removeprefix("vaultbrix_rest_")
        whole &= re.fullmatch(f"tenant_{slug}(_anon|_authenticated)?", said["role"]) is not None
    except (ValueError, KeyError, TypeError):
        whole = False
    return {"kind": "request", "object_name": said["request"]} if whole else {"kind": "forged"}


def _audited(payload: str) -> dict[str, Any]:
    try:
        ((_, number, below, class_, command, type_, name, statement, _parameters, *more),) = csv.reader(
            io.StringIO(payload, newline=""), strict=True
        )
        kind = "gate" if GATE.fullmatch(statement) else "statement"
        return {
            "kind": kind, "class": class_, "command": command, "object_type": type_ or None,
            "object_name": name or None, "statement_id": int(number), "substatement_id": int(below),
            "statement": statement, "row_count": int(more[0]) if more and more[0] else None,
        }  # fmt: skip
    except (ValueError, csv.Error) as error:
        raise Malformed(str(error)) from None
