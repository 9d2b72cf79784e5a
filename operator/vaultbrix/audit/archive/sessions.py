"""A session's lines → its statements and how they ended, by the rules of audit.statements_within. Pure.

The store decides in SQL; this says the same of lines that are in the store no more. A test holds the two together.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# A line or a statement: the columns of audit.record, or of audit.statement, by name.
Line = Mapping[str, Any]
Row = dict[str, Any]

# Lines that end a client's message.
_ENDINGS = ("duration", "error")
_NO_UTILITY = ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "DO")
_BEFORE_START = ("PARSE", "BIND", "idle")
# Lines from a statement's first one on whose objects are told.
_OBJECT_LINES = 99
_COPIED = ("server", "at", "session_id", "line_num", "pid", "role", "tenant", "person", "ground", "database", "address",
           "application")  # fmt: skip


def statements(lines: Sequence[Line]) -> Iterator[Row]:
    """The statements of one session's lines, which come in order of ``line_num``."""
    session = _Session(lines)
    for position, line in enumerate(lines):
        if line["kind"] == "statement":
            row = session.started(position)
        elif line["kind"] == "error" and line["statement"] is not None:
            row = session.never_started(position)
        elif line["kind"] == "duration" and line["tag"] in ("COMMIT", "ROLLBACK"):
            row = session.ended_transaction(position)
        else:
            row = None
        if row is not None:
            yield row


class _Session:
    """Lines with the positions of those that are asked for."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        self._statements = [n for n, line in enumerate(lines) if line["kind"] == "statement"]
        self._endings = [n for n, line in enumerate(lines) if line["kind"] in _ENDINGS]

    def started(self, position: int) -> Row | None:
        """The statement whose first line this is; None where it is a later one, or of what the message set off."""
        lines, line = self._lines, self._lines[position]
        at = bisect_left(self._statements, position)
        if at and lines[self._statements[at - 1]]["statement_id"] == line["statement_id"]:
            return None
        begin, end = self._message(position)
        ending = lines[end] if end is not None else None
        first = next(n for n in self._from(begin) if lines[n]["vxid"] == line["vxid"])
        own, opening = self._own(position), self._own(first)
        sent = self._sent(first, opening, begin, end)
        if not (lines[first]["tag"] == "BIND" or sent is None or own["statement"] == sent):
            return None
        followed = self._followed(position, end, sent)
        failed = (
            not followed
            and ending is not None
            and ending["kind"] == "error"
            and _belongs(ending, line["tag"], line["vxid"], own["statement"])
        )
        late = self._late(end) if ending is not None and ending["kind"] == "duration" and not followed else None
        error = ending if failed else late
        if error is not None and error["sqlstate"] is not None:
            outcome = _failure(error["sqlstate"])
        elif failed:
            outcome = "error"
        else:
            outcome = "ok" if followed or ending is not None else "unknown"
        statement = own["statement"]
        if failed and ending is not None and ending["statement"] is not None:
            statement = ending["statement"]
        return {
            **_copied(line),
            **{name: own[name] for name in ("class", "command", "object_type", "object_name")},
            "statement": statement,
            "duration_ms": None if followed or ending is None else ending["duration_ms"],
            "outcome": outcome,
            "sqlstate": error["sqlstate"] if error is not None else None,
            "message": error["message"] if error is not None else None,
            "row_count": own["row_count"],
            "objects": self._objects(position),
        }

    def never_started(self, position: int) -> Row | None:
        """The statement that ended before pgAudit wrote a line; None where the error is that of another one."""
        lines, error = self._lines, self._lines[position]
        begin, _ = self._message(position)
        before = [lines[n] for n in self._from(begin, position)]
        if before:
            # Later lines first, those with the error's text before others; NULL sorts as PostgreSQL does.
            text = error["statement"]
            known = max(before, key=lambda r: (r["statement"] is None, r["statement"] == text, r["line_num"]))
            if _belongs(error, known["tag"], known["vxid"], known["statement"]):
                return None
        return {
            **_row(error),
            "command": None if error["tag"] in _BEFORE_START else error["tag"],
            "statement": error["statement"],
            "outcome": _failure(error["sqlstate"]),
            "sqlstate": error["sqlstate"],
            "message": error["message"],
        }

    def ended_transaction(self, position: int) -> Row | None:
        """The end of a transaction that had failed, of which there is a duration only."""
        for n in range(position - 1, -1, -1):
            line = self._lines[n]
            if line["kind"] in ("statement", "error") or (line["kind"] == "duration" and line["tag"] != "idle"):
                if line["kind"] != "error":
                    return None
                ended = self._lines[position]
                return {
                    **_row(ended),
                    "class": "MISC",
                    "command": ended["tag"],
                    "statement": ended["tag"],
                    "duration_ms": ended["duration_ms"],
                    "outcome": "ok",
                }
        return None

    def touches(self, position: int) -> Iterator[str]:
        """Objects of the lines that belong to the statement whose first line this is."""
        statement_id = self._lines[position]["statement_id"]
        for n in self._from(position):
            if self._lines[n]["statement_id"] != statement_id:
                return
            if self._lines[n]["object_name"] is not None:
                yield self._lines[n]["object_name"]

    def _message(self, position: int) -> tuple[int, int | None]:
        """Where the message of a line begins, and the line that ends it; an ending's message is the one it ends."""
        before = bisect_left(self._endings, position)
        begin = self._endings[before - 1] + 1 if before else 0
        after = bisect_right(self._endings, position)
        return begin, self._endings[after] if after < len(self._endings) else None

    def _from(self, position: int, stop: int | None = None) -> Iterator[int]:
        """Positions of pgAudit's lines from one on, before another."""
        for at in range(bisect_left(self._statements, position), len(self._statements)):
            if stop is not None and self._statements[at] >= stop:
                return
            yield self._statements[at]

    def _own(self, position: int) -> Line:
        """The line that stands for the statement whose first line this is."""
        first = self._lines[position]
        run = []
        for n in self._from(position):
            if self._lines[n]["statement_id"] != first["statement_id"]:
                break
            run.append(self._lines[n])
        return min(run, key=lambda line: (_rank(line, first["tag"]), line["line_num"]))

    def _sent(self, first: int, opening: Line, begin: int, end: int | None) -> str | None:
        """The message's text where it is certain."""
        ending = self._lines[end] if end is not None else None
        text: str | None = None
        if ending is not None and ending["kind"] == "error" and ending["statement"] is not None:
            known = any(self._lines[n]["statement"] == ending["statement"] for n in self._from(begin, end))
            text = ending["statement"] if known else None
        if text is None and self._lines[first]["tag"] in ("COMMIT", "COPY"):
            text = opening["statement"] if opening["command"] == self._lines[first]["tag"] else None
        return text

    def _followed(self, position: int, end: int | None, sent: str | None) -> bool:
        statement_id = self._lines[position]["statement_id"]
        return any(
            self._lines[n]["statement_id"] != statement_id and (sent is None or self._lines[n]["statement"] == sent)
            for n in self._from(position + 1, end)
        )

    def _late(self, end: int | None) -> Line | None:
        """What a deferred constraint of the extended protocol says after the duration."""
        assert end is not None
        for n in range(end + 1, len(self._lines)):
            line = self._lines[n]
            if line["kind"] in ("statement", *_ENDINGS):
                is_late = line["kind"] == "error" and line["severity"] == "ERROR" and line["statement"] is None
                return line if is_late and line["tag"] == self._lines[end]["tag"] and line["tag"] != "idle" else None
        return None

    def _objects(self, position: int) -> list[str] | None:
        first = self._lines[position]
        last = first["line_num"] + _OBJECT_LINES
        names = set()
        for n in self._from(position):
            line = self._lines[n]
            if line["line_num"] > last:
                break
            if line["statement_id"] == first["statement_id"] and line["object_name"] is not None:
                names.add(line["object_name"])
        return sorted(names) or None


def _rank(line: Line, tag: str) -> int:
    number: int = line["line_num"]
    if line["command"] != tag or tag in _NO_UTILITY:
        return 0 if line["row_count"] is None else -int(line["substatement_id"])
    if line["object_type"] is not None and tag.endswith(line["object_type"]):
        return -2 * number - 2**62
    return -number


def _belongs(error: Line, tag: str, vxid: str | None, statement: str | None) -> bool:
    known = statement is not None and statement == error["statement"]
    return (tag == error["tag"] or (tag == "BIND" and error["tag"] != "PARSE")) and (known or vxid == error["vxid"])


def _failure(sqlstate: str | None) -> str:
    if sqlstate == "VBX01":
        return "refused"
    return "cancelled" if sqlstate in ("57014", "57P01") else "error"


def _copied(line: Line) -> Row:
    # Lines of earlier releases have no approver.
    return {**{name: line[name] for name in _COPIED}, "approver": line.get("approver") or ""}


def _row(line: Line) -> Row:
    names = ("class", "command", "object_type", "object_name", "statement", "duration_ms", "outcome", "sqlstate",
             "message", "row_count", "objects")  # fmt: skip
    return {**_copied(line), **dict.fromkeys(names)}
