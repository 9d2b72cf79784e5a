"""Rows as lines of PostgreSQL's COPY text format. A row is stored and sealed as the same bytes. Pure.

Its text must be what PostgreSQL gives back for it, with TimeZone UTC, DateStyle ISO and extra_float_digits above 0.
"""

import re
from binascii import hexlify
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from vaultbrix.audit.records import MalformedLine, Record

# Columns of a sealed line, in their order. They stay: what is sealed is checked by them.
RECORD = (
    "server, at, session_id, line_num, kind, pid, role, tenant, person, ground, database, address, application, tag,"
    " vxid, class, command, object_type, object_name, statement_id, substatement_id, statement, row_count, duration_ms,"
    " severity, sqlstate, message, file, position, keep"
)
# The last field of a record's line, only where somebody approved: so lines from before there were approvers stay good.
APPROVER = "approver"
STORED = f"{RECORD}, {APPROVER}"
GAP = "server, file, position, reason, found_at"
QUARANTINE = "server, file, position, line, reason, found_at"
EVENT = "id, at, kind, actor, detail"
SEAL = "batch, leaf_index, salt, leaf"
# Under which PostgreSQL's text of a value is the sealed one.
SETTINGS = "-c TimeZone=UTC -c DateStyle=ISO -c extra_float_digits=1 -c bytea_output=hex"

NULL = "\\N"
ESCAPES = {
    ord(raw): f"\\{name}"
    for raw, name in (("\\", "\\"), ("\b", "b"), ("\f", "f"), ("\n", "n"), ("\r", "r"), ("\t", "t"), ("\v", "v"))
}
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_NAMED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_LARGEST_INT, _LARGEST_BIGINT = 2**31 - 1, 2**63 - 1
# Characters of a statement that is long.
_LONG = 256 * 1024
# From here on PostgreSQL prints an exponent where Python does not; no statement takes thirty thousand years.
_LONGEST_MS = 1e15


def record_line(record: Record) -> bytes:
    """One record, as it is sealed. Raises MalformedLine for what PostgreSQL cannot hold."""
    statement = record.statement
    if statement is not None and len(statement) > _LONG:
        # Piece by piece, so that it is held in as few copies as can be.
        text = _encoded(string(statement))
        return b"".join((_encoded(f"{_before(record)}\t"), text, _encoded(f"\t{_behind(record)}")))
    return _encoded(f"{_before(record)}\t{string(statement)}\t{_behind(record)}")


def _before(r: Record) -> str:
    # What is the same in many lines is looked up; this is what takes the shipper's time.
    pid = NULL if r.pid is None else _int(r.pid, _LARGEST_INT)
    statement_id = NULL if r.statement_id is None else _int(r.statement_id)
    substatement_id = NULL if r.substatement_id is None else _int(r.substatement_id)
    return (
        f"{_texts(r.server)}\t{timestamp(r.at)}\t{string(r.session_id)}\t{_int(r.line_num)}\t{r.kind}\t{pid}\t"
        f"{_texts(r.role, r.tenant, r.person, r.authorization, r.database)}\t{address(r.address)}\t"
        f"{_texts(r.application, r.tag)}\t{string(r.vxid)}\t"
        f"{_texts(r.class_, r.command, r.object_type, r.object_name)}\t{statement_id}\t{substatement_id}"
    )


def _behind(r: Record) -> str:
    row_count = NULL if r.row_count is None else _int(r.row_count)
    duration = NULL if r.duration_ms is None else milliseconds(r.duration_ms)
    approver = f"\t{_texts(r.approver)}" if r.approver else ""
    return (
        f"{row_count}\t{duration}\t{_texts(r.severity, r.sqlstate)}\t{string(r.message)}\t{_texts(r.file)}\t"
        f"{r.position}\t{r.keep}{approver}"
    )


def without_approver(line: bytes) -> bytes:
    """A record's sealed line, given the one with all columns: the approver's is left out where nobody approved."""
    return line.removesuffix(b"\t")


def gap_line(server: str, file: str, position: int, reason: str, found_at: datetime) -> bytes:
    """One row of audit.gap, but for its number."""
    return _encoded("\t".join((string(server), string(file), str(position), string(reason), timestamp(found_at))))


def quarantine_line(server: str, file: str, position: int, line: bytes, reason: str, found_at: datetime) -> bytes:
    """One row of audit.quarantine, but for its number."""
    fields = (string(server), string(file), str(position), binary(line), string(reason), timestamp(found_at))
    return _encoded("\t".join(fields))


def unescaped(field: bytes) -> bytes:
    """A field of COPY's text format as it was; not for NULL."""
    return _ESCAPED.sub(lambda match: _NAMED.get(match[1], match[1]), field)


def sealed(line: bytes, batch: int, index: int, salt: bytes, leaf: bytes) -> bytes:
    """The line to COPY: a row with its seal."""
    return b"%b\t%d\t%d\t\\\\x%b\t\\\\x%b\n" % (line, batch, index, hexlify(salt), hexlify(leaf))


def sealed_record(line: bytes, batch: int, index: int, salt: bytes, leaf: bytes, *, approved: bool) -> bytes:
    """The same for a record, whose line has no approver where nobody approved."""
    between = b"" if approved else b"\t"
    return b"%b%b\t%d\t%d\t\\\\x%b\t\\\\x%b\n" % (line, between, batch, index, hexlify(salt), hexlify(leaf))


def string(value: str | None) -> str:
    """A text as COPY writes it, with its escapes; NULL for None."""
    if value is None:
        return NULL
    # Quicker than a search for the few characters that matter, and true of nearly all texts.
    return value if value.isprintable() and "\\" not in value else value.translate(ESCAPES)


@lru_cache(1024)
def _texts(*values: str | None) -> str:
    return "\t".join([string(value) for value in values])


@lru_cache(4096)
def timestamp(value: datetime) -> str:
    """A timestamptz as COPY writes it."""
    text = value.astimezone(UTC).isoformat(" ")[:-6]
    return (text.rstrip("0") if "." in text else text) + "+00"


def binary(value: bytes) -> str:
    """A bytea as COPY writes it."""
    return "\\\\x" + value.hex()


@lru_cache(4096)
def address(value: str | None) -> str:
    """An inet of one host as COPY writes it; NULL for None."""
    if value is None:
        return NULL
    if ":" not in value:
        return value
    parsed = ip_address(value)
    assert isinstance(parsed, IPv6Address)
    # PostgreSQL writes the last four bytes as an IPv4 address in ::a.b.c.d and ::ffff:a.b.c.d.
    high, low = int(parsed) >> 32, int(parsed) & 0xFFFFFFFF
    if (high == 0 and low >> 16) or high == 0xFFFF:
        dotted = ".".join(str(byte) for byte in low.to_bytes(4, "big"))
        return f"::ffff:{dotted}" if high else f"::{dotted}"
    return str(parsed)


def _int(value: int, largest: int = _LARGEST_BIGINT) -> str:
    if not -largest <= value <= largest:
        raise MalformedLine("a number is too large")
    return str(value)


def milliseconds(value: float | None) -> str:
    """A duration (double precision) as COPY writes it; NULL for None. Raises MalformedLine."""
    if value is None:
        return NULL
    if not 0 <= value < _LONGEST_MS:
        raise MalformedLine("a duration is out of range")
    return repr(float(value)).removesuffix(".0")


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise MalformedLine("a NUL character")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise MalformedLine("not UTF-8") from None
