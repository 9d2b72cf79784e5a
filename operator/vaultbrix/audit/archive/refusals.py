"""A line of a refused request → what is shown of it, by the rules of audit.statements_at. Pure."""

import json
from typing import Any

from vaultbrix.audit.archive.sessions import Line, Row

_MARK = "REFUSED: "
_SAME = ("server", "at", "session_id", "line_num", "pid", "tenant", "person", "ground", "database", "address",
         "application", "object_name")  # fmt: skip
_NONE = ("role", "class", "object_type", "duration_ms", "sqlstate", "row_count", "objects")


def refusal(line: Line) -> Row:
    """The row of a line of kind ``refusal``, with the columns of a statement's."""
    message = line["message"] or ""
    said: dict[str, Any] = json.loads(message.removeprefix(_MARK)) if message.startswith(_MARK) else {}
    asked = [said.get(name) for name in ("method", "host", "path")]
    text = f"{asked[0]} {asked[1]}{asked[2]}" if None not in asked else None
    if text is None and "count" in said:
        text = f"{said['count']} requests"
    return {
        **{name: line[name] for name in _SAME},
        **dict.fromkeys(_NONE),
        "approver": "",
        "command": said.get("method"),
        "statement": text,
        "outcome": "refused",
        "message": said.get("why"),
    }
