import json
from contextlib import redirect_stdout
from io import StringIO

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.cli.output import Format, document, plain, say, short, show, table

EVIL = "\x1b[31m[bold red]a[/]\x07\x9b2J\u202e :smile: \r\n\tb\x00"


@given(st.text())
def test_no_character_that_a_terminal_obeys_is_left(text: str) -> None:
    assert all(c.isprintable() for c in plain(text))


@given(st.text())
def test_a_line_stays_one_line(text: str) -> None:
    with redirect_stdout(StringIO()) as out:
        say(text)
    assert all(c.isprintable() for c in out.getvalue()[:-1])
    assert out.getvalue()[-1] == "\n"


def test_what_is_left_is_what_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain(EVIL) == "\ufffd[31m[bold red]a[/]\ufffd\ufffd2J\ufffd :smile: b\ufffd"
    say(f"  {EVIL}")
    assert capsys.readouterr().out == "  \ufffd[31m[bold red]a[/]\ufffd\ufffd2J\ufffd :smile:    b\ufffd\n"


def test_a_table_holds_text_and_no_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show(table(("NAME", "REASON"), [("one", EVIL), ("two", "x" * 500)]))
    printed = capsys.readouterr().out
    assert "[bold red]a[/]" in printed
    assert ":smile:" in printed
    assert not set("\x1b\x07\x9b\u202e\x00\r") & set(printed)
    assert len(printed.splitlines()) == 3, "one line a row where it goes into a pipe"


@pytest.mark.parametrize("form", [Format.JSON, Format.YAML])
def test_an_object_is_printed_whole_and_harmless(form: Format, capsys: pytest.CaptureFixture[str]) -> None:
    document({"reason": EVIL}, form)
    printed = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert (json.loads(printed) if form is Format.JSON else yaml.safe_load(printed)) == {"reason": EVIL}


def test_a_long_text_is_cut_and_says_so() -> None:
    assert short("x" * 60) == "x" * 60
    assert short("x" * 61) == "x" * 59 + "\N{HORIZONTAL ELLIPSIS}"
