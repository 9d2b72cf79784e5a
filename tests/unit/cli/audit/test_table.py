import unicodedata
from datetime import timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.builders import NOW

from vaultbrix.cli.audit.statements import print_table


def row(**fields: Any) -> dict[str, Any]:
    return {
        "at": NOW,
        "tenant": "team/acme",
        "person": "jane@example.com",
        "role": "tenant_acme",
        "address": "203.0.113.7",
        "statement": "select 1",
        "duration_ms": 1.25,
        "outcome": "ok",
        "sqlstate": None,
        **fields,
    }


def printed(capsys: pytest.CaptureFixture[str], **fields: Any) -> str:
    print_table([row(**fields)])
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def test_a_row_says_who_did_what_from_where_and_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    heading, line = printed(capsys, outcome="refused", sqlstate="VBX01").splitlines()
    assert heading.split() == ["TIME", "(UTC)", "TENANT", "PERSON", "ADDRESS", "STATEMENT", "MS", "OUTCOME"]
    assert line.split() == [
        "2026-12-01",
        "12:00:00.000",
        "team/acme",
        "jane@example.com",
        "203.0.113.7",
        "select",
        "1",
        "1.2",
        "refused",
        "VBX01",
    ]


def test_a_request_without_a_user_shows_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert "key:team/web" in printed(capsys, person="", ground="key:team/web")
    assert "key:team/web" not in printed(capsys, person="user:jane", ground="key:team/web")
    assert "team/rule" not in printed(capsys, person="", ground="team/rule")


def test_times_are_in_utc_as_the_heading_says(capsys: pytest.CaptureFixture[str]) -> None:
    local = NOW.astimezone(timezone(timedelta(hours=5)))
    assert "2026-12-01 12:00:00.000" in printed(capsys, at=local)


@pytest.mark.parametrize("field", ["statement", "person", "tenant"])
@pytest.mark.parametrize(
    "text",
    [
        "[red]x[/red]",
        "[/]",
        "[link=https://evil.example]x[/link]",
        "[bold",
        ":warning:",
        "\\[x]",
    ],
)
def test_markup_is_printed_and_not_obeyed(capsys: pytest.CaptureFixture[str], field: str, text: str) -> None:
    assert text in printed(capsys, **{field: text})


@pytest.mark.parametrize("field", ["statement", "person", "tenant"])
@pytest.mark.parametrize(
    "text",
    [
        "\x1b[2J\x1b[H",
        "\x1b]0;title\x07",
        "a\rb",
        "a\x08b",
        "\x9b31m",
        "\u202eevil",
        "a\u200bb",
        "\x00",
        "\x7f",
        "a\nb",
    ],
)
def test_nothing_that_a_tenant_wrote_moves_the_cursor_or_turns_the_text(
    capsys: pytest.CaptureFixture[str], field: str, text: str
) -> None:
    shown = printed(capsys, **{field: text})
    assert len(shown.splitlines()) == 2
    assert not [c for c in shown if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_no_statement_leaves_its_row(capsys: pytest.CaptureFixture[str], text: str) -> None:
    shown = printed(capsys, statement=text)
    assert shown.count("\n") == 2
    assert not [c for c in shown if c != "\n" and not c.isprintable()]


def test_what_is_unknown_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    line = printed(capsys, tenant="", person="", address=None, statement=None, duration_ms=None).splitlines()[1]
    assert line.split() == ["2026-12-01", "12:00:00.000", "tenant_acme", "unknown", "local", "ok"]


def test_a_line_of_a_process_without_a_role_is_printed_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "ok" in printed(capsys, tenant="", role=None)


def test_no_rows_make_an_empty_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([])
    assert len(capsys.readouterr().out.splitlines()) == 1
