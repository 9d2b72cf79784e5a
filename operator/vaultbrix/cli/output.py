"""What is printed. Whatever comes from the cluster is hostile: nothing of it may paint, move the cursor or hide."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer

from vaultbrix.runtime.visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# Beyond any terminal: in a pipe, a row stays one line.
_PIPE_WIDTH = 4096


class Format(StrEnum):
    """-o of commands that print objects."""

    TABLE = "table"
    YAML = "yaml"
    JSON = "json"


def plain(text: object) -> str:
    """Without control and formatting characters, which a terminal would obey; white space as single blanks."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(text).split()))


def short(text: object, most: int = 60) -> str:
    """As plain, cut where it is longer."""
    whole = plain(text)
    return whole if len(whole) <= most else f"{whole[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _line(text: str) -> str:
    """As plain, but columns stay where they are."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def say(text: str = "") -> None:
    """A line on standard output."""
    typer.echo(_line(text))


def warn(text: str) -> None:
    """A line on standard error."""
    typer.echo(_line(text), err=True)


def painted(text: object, style: str = "") -> "Text":
    """A cell of a table in a style of rich, with what cannot be seen made visible."""
    from rich.text import Text  # noqa: PLC0415

    return Text(visible(str(text)), style)


def tell(text: str = "", style: str = "") -> None:
    """A line with what cannot be seen made visible; in a style of rich where there is a terminal."""
    if style:
        _console(None).print(painted(text, style), soft_wrap=True)
    else:
        say(visible(text))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> "Table":
    """A table whose cells are text and no markup; those that are painted stay so."""
    from rich.table import Table  # noqa: PLC0415 - only for those who print one
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for header in headers:
        made.add_column(header, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row))
    return made


def show(printed: "Table", *, indent: int = 0) -> None:
    """Print a table: as wide as the terminal, or one line for each row in a pipe."""
    from rich.padding import Padding  # noqa: PLC0415

    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", _PIPE_WIDTH))
    _console(width).print(Padding(printed, (0, 0, 0, indent), expand=False))


def _console(width: int | None) -> "Console":
    from rich.console import Console  # noqa: PLC0415

    return Console(width=width, markup=False, emoji=False, highlight=False)


def document(value: Any, form: Format) -> None:
    """Print as JSON or YAML; both escape what a terminal would obey."""
    if form is Format.JSON:
        typer.echo(json.dumps(value, indent=2))
        return
    import yaml  # noqa: PLC0415

    typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=False), nl=False)
