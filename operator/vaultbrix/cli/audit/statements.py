"""Statements as a table, CSV or JSON lines. What tenants wrote is hostile, to terminals and to spreadsheets."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from vaultbrix.cli.output import plain, say, short, show, table

if TYPE_CHECKING:
    from rich.table import Table

    from vaultbrix.audit.stats import Stats

Row = Mapping[str, Any]

COLUMNS = (
    "at", "tenant", "person", "ground", "role", "address", "application", "database", "class", "command", "object_type",
    "object_name", "objects", "statement", "row_count", "duration_ms", "outcome", "sqlstate", "message", "server",
    "session_id", "line_num", "approver",
)  # fmt: skip
# What a spreadsheet takes for a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# Of a longer statement, CSV and JSON have the rest.
_SHOWN = 2000
_HEADINGS = ("TIME (UTC)", "TENANT", "PERSON", "ADDRESS", "STATEMENT", "MS", "OUTCOME")


class Form(StrEnum):
    """The forms of ``--output``."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def printer(form: Form, *, heading: bool = True) -> Callable[[Iterable[Row]], None]:
    """Prints rows one by one, as they come."""
    if form is Form.JSON:
        return lambda rows: _write(map(json_line, rows))
    if form is Form.CSV:
        _write([csv_line(COLUMNS)] if heading else [])
        return lambda rows: _write(csv_line([_text(row.get(name)) for name in COLUMNS]) for row in rows)
    _write(["  ".join(_fitted(_HEADINGS)).rstrip()] if heading else [])
    return lambda rows: _write("  ".join(_fitted(_cells(row))).rstrip() for row in rows)


def json_line(row: Row) -> str:
    """One object; everything that a terminal would obey is escaped."""
    return json.dumps(dict(row), default=_text).replace("\x7f", "\\u007f")


def csv_line(cells: Iterable[str]) -> str:
    """One line (RFC 4180) that no spreadsheet runs."""
    out = io.StringIO()
    # Only cells with one of the characters that end a line are quoted.
    csv.writer(out, lineterminator="\r\n").writerow(
        [f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells]
    )
    return out.getvalue().removesuffix("\r\n")


def print_table(rows: Iterable[Row]) -> None:
    """Print all rows at once, as wide as they need."""
    from rich.console import Console  # noqa: PLC0415

    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "180"))
    Console(width=width, highlight=False).print(_table(rows))


def print_numbers(stats: "Stats") -> None:
    """Print counts as tables: by tenant, by day, and what only a reader of the whole record may know."""
    classes = sorted({count.class_ for count in stats.counts if count.class_})
    failures = ["error", "refused", "cancelled"]
    for field, heading in (("tenant", "TENANT"), ("day", "DAY (UTC)")):
        counters = sorted(stats.by(field).items())
        shown = ["statements", *classes, *failures]
        lines = [[name or "(none)", *(f"{counted[column]:,}" for column in shown)] for name, counted in counters]
        show(table([heading, *(column.upper() for column in shown)], lines))
        say()
    whole = stats.whole
    if whole is None:
        return
    say(f"gaps {whole.gaps:,}  quarantined {whole.quarantined:,}  forged {whole.forged:,}  holes {whole.holes:,}")
    for server in whole.servers:
        say(
            f"{server.server}: last batch {server.batch:,}, sealed {server.sealed_at:%Y-%m-%d %H:%M:%S} UTC,"
            f" {server.seconds:,.0f} s ago"
        )


def _table(rows: Iterable[Row]) -> "Table":
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in _HEADINGS:
        grid.add_column(name, overflow="fold", justify="right" if name == "MS" else "left")
    for row in rows:
        # Text, not markup: a tenant's statement must not be able to paint or hide anything.
        grid.add_row(*map(Text, _cells(row)))
    return grid


def _cells(row: Row) -> list[str]:
    duration = row["duration_ms"]
    return [
        f"{row['at'].astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3],
        plain(row["tenant"] or row["role"] or ""),
        plain(_who(row)),
        # Of a refused request, which took no role, it may be unknown.
        str(row["address"] or ("local" if row["role"] else "")),
        short(row["statement"] or "", _SHOWN),
        "" if duration is None else f"{duration:.1f}",
        plain(" ".join(filter(None, (row["outcome"], row["sqlstate"] or _cause(row))))),
    ]


def _cause(row: Row) -> str:
    """Why a request of the data API was refused; a statement's SQLSTATE tells it."""
    return row["message"] or "" if row["outcome"] == "refused" else ""


def _who(row: Row) -> str:
    """The person, and who approved it. No name holds a blank, so that none can be taken for two."""
    person = row["person"] or _key(row.get("ground") or "") or "unknown"
    return f"{person}, approved by {row['approver']}" if row.get("approver") else person


def _key(ground: str) -> str:
    """The key of the data API, for requests without a user."""
    return ground if ground.startswith("key:") else ""


def _fitted(cells: Iterable[str]) -> list[str]:
    # Rows that come one by one have no common width: the statement, which may be long, goes last.
    time, tenant, person, address, statement, duration, outcome = cells
    return [f"{time:23}", f"{tenant:24}", f"{person:24}", f"{address:15}", f"{duration:>8}", f"{outcome:15}", statement]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _write(lines: Iterable[str]) -> None:
    tty = sys.stdout.isatty()
    for line in lines:
        # A quoted cell may hold line ends, and more that a terminal would obey.
        sys.stdout.write(("".join(c if c.isprintable() else " " for c in line) if tty else line) + "\n")
    sys.stdout.flush()
