"""From a file or an option to a DDLApproval: read as UTF-8, understood by the operator's own parser, refused early.

Pure: what is read is given as bytes, and what is to be created is returned as a manifest.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vaultbrix.api.ddlapproval import FINAL_PHASES, MAX_SQL_BYTES, DDLApproval, Execution
from vaultbrix.api.meta import API_VERSION, format_duration, is_person
from vaultbrix.ddl.plan import Plan, RejectedText, plan
from vaultbrix.runtime.usage import LONGEST_REASON, Misused, Refused
from vaultbrix.runtime.visible import visible, width

_MARK = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_FIELD = re.compile(r"^spec\.sql:? ")
_PLACE = re.compile(r"spec\.sql line (\d+)(?:, column (\d+))?: ")
# Of a long line, so much of it before and after the place that is pointed at.
_BEFORE, _AFTER = 60, 30


@dataclass(frozen=True)
class Refusal:
    """Why a text cannot be submitted, and where: ``line`` as it is shown, and a caret for the line below it."""

    message: str
    line: str = ""
    caret: str = ""


class Unfit(Misused):
    """A text that cannot be submitted."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def decode(option: str, content: bytes) -> tuple[str, list[str]]:
    """The statements in the bytes of a file or option, and notes on what was left out of them.

    Raises Misused for bytes that are too many or no UTF-8; ``option`` names where they come from.
    """
    if len(content) > MAX_SQL_BYTES:
        raise Misused(f"{option}: is longer than {MAX_SQL_BYTES // 1024} KiB; split it into several DDLApprovals")
    if content.startswith(_UTF16):
        raise Misused(f"{option}: is UTF-16; save it as UTF-8, or: iconv -f UTF-16 -t UTF-8")
    notes = []
    if content.startswith(_MARK):
        content = content.removeprefix(_MARK)
        notes.append(f"{option}: the byte-order mark at its beginning is left out")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Misused(
            f"{option}: line {line} holds a byte, 0x{content[error.start]:02X}, that is not UTF-8; "
            "save it as UTF-8, or: iconv -f LATIN1 -t UTF-8"
        ) from None
    return text, notes


def understood(option: str, text: str, schema: str | None = None) -> Plan:
    """A text as the operator will read it; ``schema`` is the tenant's own, if it is known already.

    Raises Unfit, with the place, for a text that cannot be approved.
    """
    if not text.strip():
        raise Unfit(Refusal(f"{option}: is empty; give the statements to run"))
    try:
        return plan(text, schema=schema)
    except RejectedText as error:
        raise Unfit(_refusal(option, text, str(error))) from None


def _refusal(option: str, text: str, message: str) -> Refusal:
    shown = f"{option}: {_FIELD.sub('', message)}"
    place = _PLACE.match(message)
    if place is None:
        return Refusal(shown)
    number, column = int(place[1]), int(place[2] or 0)
    rows = text.replace("\r\n", "\n").split("\n")
    row = rows[number - 1] if number <= len(rows) else ""
    if row.lstrip().startswith("\\") and "psql" not in shown:
        shown += "; commands of psql, which begin with \\, cannot be part of it"
    return Refusal(shown, *_excerpt(row, column))


def _excerpt(row: str, column: int) -> tuple[str, str]:
    """The line around a 1-based column, and a line with a caret below it; column 0 points at none."""
    start = max(0, column - 1 - _BEFORE)
    head = visible(row[start : max(0, column - 1)])
    tail = visible(row[max(0, column - 1) : max(0, column - 1) + _AFTER])
    before = "\N{HORIZONTAL ELLIPSIS}" if start else ""
    after = "\N{HORIZONTAL ELLIPSIS}" if len(row) > max(0, column - 1) + _AFTER else ""
    line = f"{before}{head}{tail}{after}"
    return line, f"{' ' * width(before + head)}^" if column else ""


def check_reason(reason: str) -> None:
    """``--reason``. Raises Misused."""
    if not reason.strip():
        raise Misused("--reason: say why the change is needed, for whoever decides and for the record")
    if len(reason) > LONGEST_REASON:
        raise Misused(f"--reason: has {len(reason)} characters, at most {LONGEST_REASON} are kept; shorten it")


def check_person(person: str) -> None:
    """The caller's name as the API server knows it. Raises Refused where the API cannot hold it."""
    if not is_person(person):
        raise Refused(
            f"the API server knows you as {person!r}, and the record cannot hold a name that is empty, has white space "
            "or more than 256 characters; log in under another name"
        )


def ddl_approval(
    namespace: str,
    name: str,
    tenant: str,
    *,
    sql: str,
    reason: str,
    requested_by: str,
    session: bool,
    valid_for: timedelta,
    lock_timeout: timedelta,
    statement_timeout: timedelta,
) -> dict[str, Any]:
    """The manifest of the DDLApproval to create; without ``name`` the API server makes one from the tenant's."""
    named = {"name": name} if name else {"generateName": f"{tenant}-"}
    return {
        "apiVersion": API_VERSION,
        "kind": DDLApproval.crd.kind,
        "metadata": {"namespace": namespace, **named},
        "spec": {
            "tenantRef": {"name": tenant},
            "sql": sql,
            "reason": reason,
            "requestedBy": requested_by,
            "execution": str(Execution.SESSION if session else Execution.JOB),
            "validFor": format_duration(valid_for),
            "lockTimeout": format_duration(lock_timeout),
            "statementTimeout": format_duration(statement_timeout),
        },
    }


def same_text(approvals: Iterable[DDLApproval], tenant: str, sha256: str) -> list[str]:
    """Names of the tenant's approvals of the same text that are under way."""
    return [
        a.metadata.name
        for a in approvals
        if a.spec.tenant_ref.name == tenant and a.status.sha256 == sha256 and a.status.phase not in FINAL_PHASES
    ]
