"""One line of PostgreSQL's jsonlog (PostgreSQL 20.8.5) → one record of the store. Pure."""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

import msgspec

from vaultbrix.domain.access import parse_address
from vaultbrix.domain.grants import AgentState

# Names that only PostgreSQL's own code puts into func_name. A tenant can RAISE any text, but not from these.
_AUDIT = "log_audit_event"
_DURATION = frozenset({"exec_simple_query", "exec_execute_message"})
_CONNECTION = frozenset({"BackendInitialize", "PerformAuthentication", "InitPostgres"})
_DISCONNECTION = "log_disconnections"
_ERRORS = frozenset({"ERROR", "FATAL", "PANIC"})
_AUDIT_MARK = "AUDIT: "


class LogLine(msgspec.Struct):
    """The fields of jsonlog that are read; PostgreSQL leaves out those that are empty."""

    timestamp: str
    session_id: str = ""
    line_num: int = 0
    pid: int | None = None
    user: str | None = None
    dbname: str | None = None
    remote_host: str | None = None
    error_severity: str = ""
    state_code: str | None = None
    message: str = ""
    statement: str | None = None
    func_name: str | None = None
    application_name: str | None = None


@dataclass
class Record:
    """A row of audit.record, in the order of its columns."""

    server: str
    at: datetime
    session_id: str
    line_num: int
    kind: str
    pid: int | None
    role: str | None
    tenant: str
    person: str
    ground: str
    database: str | None
    address: str | None
    application: str | None
    class_: str | None = None
    command: str | None = None
    object_type: str | None = None
    object_name: str | None = None
    statement_id: int | None = None
    substatement_id: int | None = None
    statement: str | None = None
    duration_ms: float | None = None
    severity: str | None = None
    sqlstate: str | None = None
    message: str | None = None
    file: str = ""
    position: int = 0


class MalformedLine(ValueError):
    """The line is not what PostgreSQL writes; it belongs into quarantine."""


_decode = msgspec.json.Decoder(LogLine).decode


def parse(line: bytes, *, server: str, state: AgentState) -> Record:
    """Read one line, without its line end. Raises MalformedLine."""
    try:
        entry = _decode(line)
        at = timestamp(entry.timestamp)
    except (msgspec.DecodeError, ValueError) as error:
        raise MalformedLine(str(error)[:200]) from None
    address = _address(entry.remote_host)
    who = state.person(entry.user or "", parse_address(address) if address else None, at)
    record = Record(
        server=server,
        at=at,
        session_id=entry.session_id,
        line_num=entry.line_num,
        kind="other",
        pid=entry.pid,
        role=entry.user,
        tenant=who.tenant,
        person=who.person,
        ground=who.ground,
        database=entry.dbname,
        address=address,
        application=entry.application_name,
    )
    _classify(record, entry)
    return record


def timestamp(text: str) -> datetime:
    """``2026-12-01 18:00:00.123 UTC`` as PostgreSQL prints it with log_timezone UTC. Raises ValueError for others."""
    stamp, _, zone = text.rpartition(" ")
    if zone not in ("UTC", "GMT"):
        raise ValueError(f"log_timezone must be UTC, not {zone}")
    return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)


def _address(remote: str | None) -> str | None:
    # "[local]" for a Unix socket; a name only where log_hostname is on.
    try:
        return str(ip_address((remote or "").split("%", 1)[0]))
    except ValueError:
        return None


def _classify(record: Record, entry: LogLine) -> None:
    function = entry.func_name
    if function == _AUDIT and entry.message.startswith(_AUDIT_MARK):
        _take_audit(record, entry.message.removeprefix(_AUDIT_MARK))
        return
    record.severity, record.sqlstate, record.message = entry.error_severity, entry.state_code, entry.message
    if entry.error_severity in _ERRORS:
        record.kind, record.statement = "error", entry.statement
    elif entry.message.startswith(_AUDIT_MARK):
        record.kind = "forged"
    elif function in _DURATION and entry.message.startswith("duration: "):
        record.kind, record.duration_ms = "duration", float(entry.message.split()[1])
    elif function in _CONNECTION and entry.message.startswith("connection "):
        record.kind = "connection"
    elif function == _DISCONNECTION:
        record.kind = "disconnection"


def _take_audit(record: Record, payload: str) -> None:
    # pgAudit quotes every field that holds a comma, a quote or a line end, so without quotes a split is exact.
    if '"' in payload:
        fields = next(csv.reader([payload], strict=True)) if "\n" not in payload else _multiline(payload)
    else:
        fields = payload.split(",")
    if len(fields) not in (9, 10):
        raise MalformedLine(f"pgAudit payload with {len(fields)} fields")
    record.kind = "statement"
    record.statement_id, record.substatement_id = int(fields[1]), int(fields[2])
    record.class_, record.command = fields[3], fields[4]
    record.object_type, record.object_name = fields[5] or None, fields[6] or None
    record.statement = fields[7]


def _multiline(payload: str) -> list[str]:
    rows = list(csv.reader(payload.splitlines(keepends=True), strict=True))
    if len(rows) != 1:
        raise MalformedLine(f"pgAudit payload with {len(rows)} rows")
    return rows[0]
