"""Lines of PostgreSQL's jsonlog as pgAudit makes them."""

import json
from typing import Any

from hypothesis import strategies as st

AUDIT = "log_audit_event"


# No NUL: PostgreSQL's text has none.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


def line(message: str, function: str | None = AUDIT, **fields: Any) -> bytes:
    entry = {
        "timestamp": "2026-12-01 12:00:01.250 UTC",
        "user": "tenant_acme",
        "dbname": "app",
        "pid": 42,
        "remote_host": "203.0.113.7",
        "session_id": "65.1",
        "line_num": 3,
        "error_severity": "LOG",
        "state_code": "00000",
        "message": message,
        "func_name": function,
        "application_name": "psql",
        "file_name": "pgaudit.c",
        **fields,
    }
    return json.dumps({key: value for key, value in entry.items() if value is not None}, ensure_ascii=False).encode()


def quoted(field: str) -> str:
    """As pgAudit's append_valid_csv."""
    return '"' + field.replace('"', '""') + '"' if any(c in field for c in ',"\n\r') else field


def session(statement: str, parameters: str = "<not logged>", *rows: str) -> str:
    return payload("SESSION", "7", "1", "DDL", "CREATE TABLE", "TABLE", "acme.t", statement, parameters, *rows)


def payload(*fields: str) -> str:
    return "AUDIT: " + ",".join(map(quoted, fields))


CLAIMS = {
    "role": "tenant_acme_authenticated", "tenant": "team/acme", "key": "team/web", "subject": "jane",
    "client": "198.51.100.7", "request": "0123456789abcdef0123456789abcdef", "claims": "ab" * 32,
}  # fmt: skip
FRAME = "PL/pgSQL function vaultbrix.pre_request() line 7 at RAISE"


def request(text: str | None = None, **fields: Any) -> bytes:
    """The line of vaultbrix.pre_request(), with what it says; ``text``: what follows its mark, if not CLAIMS."""
    values = {"user": "vaultbrix_rest_acme", "context": FRAME, "application_name": "PostgREST", "vxid": "3/1", **fields}
    said = json.dumps(CLAIMS) if text is None else text
    return line(f"REQUEST: {said}", values.pop("func_name", "exec_stmt_raise"), **values)
