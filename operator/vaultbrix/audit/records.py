"""One line of PostgreSQL's jsonlog (PostgreSQL 20.8.5) → one record of the store. Pure."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated

import msgspec

from vaultbrix.grants.state import AgentState, Attribution
from vaultbrix.runtime.addresses import Address, parse_address

# Names that only PostgreSQL's own code puts into func_name. A tenant can RAISE any text, but not from these.
_AUDIT = "log_audit_event"
_DURATION = frozenset({"exec_simple_query", "exec_execute_message"})
_CONNECTION = frozenset({"BackendInitialize", "set_authn_id", "PerformAuthentication", "InitPostgres"})
_DISCONNECTION = "log_disconnections"
_ERRORS = frozenset({"ERROR", "FATAL", "PANIC"})
_AUDIT_MARK = "AUDIT: "
# What vaultbrix.pre_request() says for PostgREST at the beginning of a request of the data API, and the login that it
# says it for. A tenant can call it, or raise the same: then there are other frames.
_REQUEST = "exec_stmt_raise"
_REQUEST_MARK = "REQUEST: "
_REQUEST_FRAME = re.compile(r"PL/pgSQL function vaultbrix\.pre_request\(\) line [0-9]+ at RAISE").fullmatch
# And what a gateway says of requests that it has let in nowhere.
_REFUSAL_MARK = "REFUSED: "
_REFUSAL_FRAME = re.compile(r"PL/pgSQL function vaultbrix\.note_refusals\(jsonb\) line [0-9]+ at RAISE").fullmatch
_GATEWAY = "vaultbrix_listener"
# And what the gate says before an approved text that a tenant sends from its own session. What it runs within, such as
# a tenant's function, stands behind its own frame.
_APPROVED_MARK = "APPROVED: "
_APPROVED_FRAME = re.compile(
    r"PL/pgSQL function vaultbrix\.use_pass\(text,boolean,name\[\],boolean,text\[\]\) line [0-9]+ at RAISE(?:\n|\Z)"
).match
_MARKS = (_AUDIT_MARK, _REQUEST_MARK, _REFUSAL_MARK, _APPROVED_MARK)
_DATA_API = "vaultbrix_rest_"
is_data_api = re.compile(r"vaultbrix_rest(_[a-z0-9_]+)?").fullmatch
# What stands before the name of an APIKey in the column of rules.
KEY = "key:"
# How long a record is kept that no policy speaks of.
DEFAULT_DAYS = 400

# While a session waits for a lock, PostgreSQL adds this to its process title.
_WAITING = " waiting"
# Class of errors: invalid authorization specification.
_REFUSED_LOGIN = "28"
# Classes of errors that parse analysis finds, before pgAudit writes a line.
_PARSE_ERRORS = ("22", "42")

# A field as pgAudit writes it: quoted if it holds a comma, a quote or a line end, and then with its quotes doubled.
_FIELD = re.compile(r'"((?:[^"]++|"")*+)"|([^,"\r\n]*+)')
# Where to look in a line that is no JSON. Inside a string its quotes would be escaped.
_NUMBER = re.compile(rb'"session_id":"([0-9a-f]{1,16}\.[0-9a-f]{1,8})","line_num":([0-9]{1,18})').search

_MINUTE = re.compile(rb'\A\{"timestamp":"([0-9]{4}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]):').match

# What the gate's event triggers and guards send on behalf of the session, word for word as in ddl/gate/sql. A tenant
# who sends the same reaches the same functions, which then only judge.
_GATE = frozenset(
    f"SELECT vaultbrix.{call}, current_user, ctx, pg_catalog.current_schemas(false))"
    for call in ("ddl_start(tg_tag", "sql_drop(tg_tag", "ddl_end(tg_tag", "truncate_check(TG_RELID")
)


class LogLine(msgspec.Struct, gc=False):
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
    backend_type: str | None = None


class Record(msgspec.Struct, gc=False):
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
    authorization: str
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
    keep: int = DEFAULT_DAYS
    approver: str = ""


_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9.-]{1,253}/[a-z0-9.-]{1,253}\Z")]


class Request(msgspec.Struct):
    """A request of the data API, as its authorizer signed it: the role that it runs as, and whose it is.

    ``tenant`` and ``key``, of the APIKey, are namespace/name; ``subject`` is the user's, empty without one; ``client``
    is an IP address; ``claims`` the hash of all that is known of the user.
    """

    role: Annotated[str, msgspec.Meta(pattern=r"^tenant_[a-z0-9_]{1,56}\Z")]
    tenant: _Name
    key: _Name
    client: str
    request: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,200}\Z")]
    claims: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    subject: str = ""


class RefusedRequest(msgspec.Struct):
    """A request of the data API that was let in nowhere: why, from where, with which key, as far as that is known.

    ``count`` is for those of which only the number was told.
    """

    why: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]{1,64}\Z")]
    request: str = ""
    client: str = ""
    tenant: _Name | None = None
    key: _Name | None = None
    count: int = 1


class ApprovedText(msgspec.Struct):
    """A text that a tenant's session sends with an approval: the approval's uid, and who approved it."""

    approval: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f-]{36}\Z")]
    by: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class MalformedLine(ValueError):
    """The line is not what PostgreSQL writes; it belongs into quarantine."""


_decode = msgspec.json.Decoder(LogLine).decode
_decode_request = msgspec.json.Decoder(Request).decode
_decode_approved = msgspec.json.Decoder(ApprovedText).decode
_decode_refusal = msgspec.json.Decoder(RefusedRequest).decode


def parse(line: bytes, *, server: str, state: AgentState) -> Record:
    """Read one line, without its line end. Raises MalformedLine."""
    entry = decoded(line)
    who = state.attribute(entry.user or "", address_of(entry.remote_host)[1], timestamp(entry.timestamp))
    return record_of(entry, server, who)


def decoded(line: bytes) -> LogLine:
    """The fields of a line. Raises MalformedLine."""
    try:
        entry = _decode(line)
        timestamp(entry.timestamp)
    except (msgspec.DecodeError, ValueError) as error:
        raise MalformedLine(str(error)[:200]) from None
    return entry


def record_of(entry: LogLine, server: str, who: Attribution) -> Record:
    """The record of a line whose fields were read, and the person behind it. Raises MalformedLine."""
    record = Record(
        server=server,
        at=timestamp(entry.timestamp),
        session_id=entry.session_id,
        line_num=entry.line_num,
        kind="other",
        pid=entry.pid,
        role=entry.user,
        tenant=who.tenant,
        person=who.person,
        authorization=who.authorization,
        approver=who.approver,
        database=entry.dbname,
        address=address_of(entry.remote_host)[0],
        application=entry.application_name,
        tag=_tag(entry),
        vxid=entry.vxid,
    )
    try:
        _classify(record, entry)
    except ValueError as error:
        raise MalformedLine(str(error)[:200]) from None
    return record


def request_of(message: str) -> Request | None:
    """The request that a line begins, by its message; None for another text."""
    try:
        request = _decode_request(message.removeprefix(_REQUEST_MARK))
    except (msgspec.DecodeError, RecursionError):
        return None
    # A key and its Tenant are of one namespace.
    same_namespace = request.key.partition("/")[0] == request.tenant.partition("/")[0]
    return request if same_namespace and address_of(request.client)[0] else None


def approved_text(message: str) -> ApprovedText | None:
    """The approval of the text that follows a line, by its message; None for another line."""
    if not message.startswith(_APPROVED_MARK):
        return None
    try:
        return _decode_approved(message.removeprefix(_APPROVED_MARK))
    except (msgspec.DecodeError, RecursionError):
        return None


def numbered(line: bytes) -> tuple[str, int] | None:
    """Session and line number of a line that is malformed, if it shows them."""
    match = _NUMBER(line)
    return (match[1].decode(), int(match[2])) if match else None


def minute_of(line: bytes) -> str | None:
    """The minute in which a line was written that is malformed or only a beginning, such as ``2026-12-01 18:00``."""
    match = _MINUTE(line)
    return match[1].decode() if match else None


def session_parts(session: str) -> tuple[datetime, int] | None:
    """When a session began, in whole seconds, and its process id: its id in the log is these two in hexadecimal."""
    began, _, pid = session.partition(".")
    try:
        return datetime.fromtimestamp(int(began, 16), UTC), int(pid, 16)
    except (ValueError, OverflowError, OSError):
        return None


@lru_cache(4096)
def timestamp(text: str) -> datetime:
    """``2026-12-01 18:00:00.123 UTC`` as PostgreSQL prints it with log_timezone UTC. Raises ValueError for others."""
    stamp, _, zone = text.rpartition(" ")
    if zone not in ("UTC", "GMT"):
        raise ValueError(f"log_timezone must be UTC, not {zone}")
    if len(stamp) != len("2026-12-01 18:00:00.123"):
        raise ValueError("not a time of PostgreSQL's")
    return datetime.fromisoformat(stamp).replace(tzinfo=UTC)


@lru_cache(4096)
def address_of(remote: str | None) -> tuple[str | None, Address | None]:
    """The address as it is stored, and as rules know it. None for a Unix socket, and a name (log_hostname is on)."""
    try:
        address = str(ip_address((remote or "").split("%", 1)[0]))
    except ValueError:
        return None, None
    return address, parse_address(address)


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
        _take_audit(record, entry.message)
        # A statement may be long: one copy of it is enough.
        entry.message = ""
        return
    record.severity, record.sqlstate, record.message = entry.error_severity, entry.state_code, entry.message
    if entry.error_severity == "FATAL" and (entry.state_code or "").startswith(_REFUSED_LOGIN):
        # A tenant can raise an ERROR with any SQLSTATE, but nothing FATAL.
        record.kind = "authentication"
    elif entry.error_severity in _ERRORS:
        record.kind, record.statement = "error", entry.statement
    elif entry.message.startswith(_MARKS):
        if request := _request(entry):
            record.kind, record.object_name = "request", request.request
        elif refusal := _refusal(entry):
            record.kind, record.object_name = "refusal", refusal.request or None
            record.tenant, record.address = refusal.tenant or "", address_of(refusal.client)[0]
            record.authorization = KEY + refusal.key if refusal.key else ""
        elif approved := _approved(entry):
            record.kind, record.object_name = "gate", approved.approval
        else:
            record.kind = "forged"
    elif function in _DURATION and entry.message.startswith("duration: "):
        record.kind, record.duration_ms = "duration", float(entry.message.split()[1])
    elif function in _CONNECTION and entry.message.startswith("connection authenticated: "):
        record.kind = "authentication"
    elif function in _CONNECTION and entry.message.startswith("connection "):
        record.kind = "connection"
    elif function == _DISCONNECTION:
        record.kind = "disconnection"


def _request(entry: LogLine) -> Request | None:
    """The request that PostgREST's own call of vaultbrix.pre_request() tells; None for a line that only looks so."""
    genuine = (
        entry.func_name == _REQUEST
        and entry.error_severity == "LOG"
        and entry.message.startswith(_REQUEST_MARK)
        and is_data_api(entry.user or "")
        and _REQUEST_FRAME(entry.context or "")
    )
    request = request_of(entry.message) if genuine else None
    return request if request and _may_take(entry.user or "", request.role) else None


def _may_take(login: str, role: str) -> bool:
    """Whether a role is one of the tenant's whose PostgREST has this login. The login is all that no tenant can set."""
    tenant = "tenant_" + login.removeprefix(_DATA_API)
    return role in (tenant, f"{tenant}_anon", f"{tenant}_authenticated")


def _refusal(entry: LogLine) -> RefusedRequest | None:
    """The refusal that a gateway's own call of vaultbrix.note_refusals() tells; None for a line that looks so."""
    genuine = (
        entry.func_name == _REQUEST
        and entry.error_severity == "LOG"
        and entry.message.startswith(_REFUSAL_MARK)
        and entry.user == _GATEWAY
        and _REFUSAL_FRAME(entry.context or "")
    )
    if not genuine:
        return None
    try:
        return _decode_refusal(entry.message.removeprefix(_REFUSAL_MARK))
    except (msgspec.DecodeError, RecursionError):
        return None


def _approved(entry: LogLine) -> ApprovedText | None:
    """The approval that the gate tells of a text; None for a line that only looks so."""
    raised = entry.func_name == _REQUEST and entry.error_severity == "LOG"
    return approved_text(entry.message) if raised and _APPROVED_FRAME(entry.context or "") else None


def _take_audit(record: Record, message: str) -> None:
    fields = _fields(message) if '"' in message else message[len(_AUDIT_MARK) :].split(",")
    if len(fields) not in (9, 10):
        raise MalformedLine(f"pgAudit payload with {len(fields)} fields")
    record.kind = "gate" if fields[7] in _GATE else "statement"
    record.statement_id, record.substatement_id = int(fields[1]), int(fields[2])
    record.class_, record.command = fields[3], fields[4]
    record.object_type, record.object_name = fields[5] or None, fields[6] or None
    record.statement = fields[7]
    # pgaudit.log_rows adds a tenth field.
    record.row_count = int(fields[9]) if len(fields) == 10 and fields[9] else None


def _fields(message: str) -> list[str]:
    # The standard library's csv would hold a long statement several times over, four bytes a character.
    place = message.index('"')
    # All before the first quote is plain; a field begins there.
    fields = message[len(_AUDIT_MARK) : place].split(",")
    if fields.pop():
        raise MalformedLine("pgAudit payload: a quote within a field")
    while match := _FIELD.match(message, place):
        quoted = match[1]
        fields.append(match[2] if quoted is None else quoted.replace('""', '"') if '""' in quoted else quoted)
        place = match.end() + 1
        if place > len(message):
            return fields
        if message[place - 1] != ",":
            break
    raise MalformedLine("pgAudit payload: not as pgAudit quotes")
