"""One line of PostgreSQL's jsonlog (PostgreSQL 20.8.5) → one record of the store. Pure."""

import csv
import io
import sys
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

# While a session waits for a lock, PostgreSQL adds this to its process title.
_WAITING = " waiting"
# Classes of errors that parse analysis finds, before pgAudit writes a line.
_PARSE_ERRORS = ("22", "42")

# The standard library refuses fields of more than 128 KiB otherwise; a statement may be as long as PostgreSQL allows.
csv.field_size_limit(sys.maxsize)

# What the gate's event triggers and guards send on behalf of the session, word for word as in sql/migrations. A tenant
# who sends the same reaches the same functions, which then only judge.
_GATE = frozenset(
    f"SELECT vaultbrix.{call}, current_user, ctx, pg_catalog.current_schemas(false))"
    for call in ("ddl_start(tg_tag", "sql_drop(tg_tag", "ddl_end(tg_tag", "truncate_check(TG_RELID")
)


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
    ps: str = ""
    vxid: str | None = None
    cursor_position: int | None = None
    context: str | None = None


@dataclass(slots=True)
class Record:
    """A row of audit.record. The order is that of its sealed line, which must never change (vaultbrix.audit.rows)."""

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
    tag: str
    vxid: str | None
    class_: str | None = None
    command: str | None = None
    object_type: str | None = None
    object_name: str | None = None
    statement_id: int | None = None
    substatement_id: int | None = None
    statement: str | None = None
    row_count: int | None = None
    duration_ms: float | None = None
    severity: str | None = None
    sqlstate: str | None = None
    message: str | None = None
    file: str = ""
    position: int = 0
    keep: int = 400


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
        tag=_tag(entry),
        vxid=entry.vxid,
    )
    try:
        _classify(record, entry)
    except ValueError as error:
        raise MalformedLine(str(error)[:200]) from None
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


def _tag(entry: LogLine) -> str:
    """Command tag of the statement that the session was at, or PARSE, BIND, idle."""
    tag = entry.ps.removesuffix(_WAITING)
    # The title names a statement before it is analysed. A place in the text and no context is that stage; only a DO
    # block is analysed once it runs.
    if entry.cursor_position and not entry.context and tag != "DO" and (entry.state_code or "")[:2] in _PARSE_ERRORS:
        return "PARSE"
    return tag


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
    elif function in _CONNECTION and entry.message.startswith("connection authenticated: "):
        record.kind = "authentication"
    elif function in _CONNECTION and entry.message.startswith("connection "):
        record.kind = "connection"
    elif function == _DISCONNECTION:
        record.kind = "disconnection"


def _take_audit(record: Record, payload: str) -> None:
    # pgAudit quotes every field that holds a comma, a quote or a line end, so without quotes a split is exact.
    try:
        fields = _quoted(payload) if '"' in payload else payload.split(",")
    except csv.Error as error:
        raise MalformedLine(f"pgAudit payload: {error}") from None
    if len(fields) not in (9, 10):
        raise MalformedLine(f"pgAudit payload with {len(fields)} fields")
    record.kind = "gate" if fields[7] in _GATE else "statement"
    record.statement_id, record.substatement_id = int(fields[1]), int(fields[2])
    record.class_, record.command = fields[3], fields[4]
    record.object_type, record.object_name = fields[5] or None, fields[6] or None
    record.statement = fields[7]
    # pgaudit.log_rows adds a tenth field.
    record.row_count = int(fields[9]) if len(fields) == 10 and fields[9] else None


def _quoted(payload: str) -> list[str]:
    rows = list(csv.reader(io.StringIO(payload, newline=""), strict=True))
    if len(rows) != 1:
        raise MalformedLine(f"pgAudit payload with {len(rows)} rows")
    return rows[0]
