import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, SECOND, approval

from vaultbrix.api.ddlapproval import MAX_SQL_BYTES, DDLApproval
from vaultbrix.ddl.plan import plan
from vaultbrix.ddl.submission import (
    Refusal,
    Unfit,
    check_person,
    check_reason,
    ddl_approval,
    decode,
    same_text,
    understood,
)
from vaultbrix.runtime.usage import Misused, Refused
from vaultbrix.runtime.visible import width

EF_SCRIPT = """START TRANSACTION;

DO $EF$
BEGIN
    IF NOT EXISTS(SELECT 1 FROM "__EFMigrationsHistory" WHERE "MigrationId" = '2026_Note') THEN
    ALTER TABLE "Orders" ADD "Note" text;
    END IF;
END $EF$;

DO $EF$
BEGIN
    IF NOT EXISTS(SELECT 1 FROM "__EFMigrationsHistory" WHERE "MigrationId" = '2026_Note') THEN
    INSERT INTO "__EFMigrationsHistory" VALUES ('2026_Note');
    END IF;
END $EF$;
COMMIT;
"""
DUMP = "-- PostgreSQL database dump\n\\restrict abc\nALTER TABLE orders DROP COLUMN legacy;\n\\unrestrict abc\n"


def refusal(text: str) -> Refusal:
    with pytest.raises(Unfit) as caught:
        understood("-f x.sql", text)
    return caught.value.refusal


def test_a_byte_order_mark_is_left_out_and_that_is_told() -> None:
    text, notes = decode("-f x.sql", b"\xef\xbb\xbfDROP TABLE a")
    assert text == "DROP TABLE a"
    assert notes == ["-f x.sql: the byte-order mark at its beginning is left out"]


def test_line_ends_of_windows_are_kept_and_make_no_other_text() -> None:
    text, notes = decode("-f x.sql", b"DROP TABLE a;\r\nDROP TABLE b;\r\n")
    assert (text, notes) == ("DROP TABLE a;\r\nDROP TABLE b;\r\n", [])
    assert plan(text).sha256 == plan("DROP TABLE a;\nDROP TABLE b").sha256


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("DROP TABLE a".encode("utf-16"), "UTF-16"),
        (b"SELECT 1;\n-- caf\xe9", "line 2 holds a byte, 0xE9"),
        (b"-" * (MAX_SQL_BYTES + 1), "256 KiB"),
    ],
)
def test_a_file_that_is_no_text_of_ours_names_file_and_remedy(content: bytes, says: str) -> None:
    with pytest.raises(Misused, match=f"^-f x.sql: .*{says}"):
        decode("-f x.sql", content)


@given(st.binary(max_size=64))
def test_any_bytes_are_text_or_refused(content: bytes) -> None:
    try:
        text, _ = decode("-f x.sql", content)
    except Misused:
        return
    assert content.endswith(text.encode())


def test_a_syntax_error_is_shown_where_it_is() -> None:
    found = refusal("DROP TABLE a;\nDROP TABEL b;\n")
    assert found.message.startswith("-f x.sql: line 2, column 6: syntax error")
    assert found.line == "DROP TABEL b;"
    assert found.caret == "     ^"


def test_the_caret_stands_below_its_place_behind_wide_and_hidden_characters() -> None:
    found = refusal("SELECT '\u6771', 'a\tb' FROM FROM")
    assert found.line[: found.line.index("FROM FROM") + 5].endswith("FROM ")
    assert width(found.line[: found.line.rindex("FROM")]) == len(found.caret) - 1


def test_a_long_line_is_cut_around_the_place() -> None:
    found = refusal(f"SELECT {'1, ' * 1000} FROM FROM {', 1' * 1000}")
    assert width(found.line) <= 100
    assert found.line[0] == found.line[-1] == "\N{HORIZONTAL ELLIPSIS}"
    assert found.line[len(found.caret) - 1 :].startswith("FROM")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("-- nothing", "holds no statement"),
        ("\\d orders", "psql"),
        ("BEGIN; DROP TABLE a; COMMIT", "statement 1 controls"),
        (EF_SCRIPT, "line 1, column 1: statement 1 controls the transaction; leave START TRANSACTION out: "),
        (EF_SCRIPT, "leave out COMMIT in statement 4 as well"),
        (DUMP, "line 2, column 1: \\restrict is a command of psql"),
        ("DROP TABLE \u202ea", "U+202E"),
        ("SELECT 1;" * 201, "at most 200"),
        ("SELECT '\\'", "line 1"),
        ("SELECT (", "syntax error at end of input"),
    ],
)
def test_what_cannot_be_approved_is_told_at_once(text: str, says: str) -> None:
    found = refusal(text)
    assert found.message.startswith("-f x.sql: ")
    assert says in found.message
    assert "spec.sql" not in found.message


def test_what_the_parser_quotes_stays_in_the_message() -> None:
    assert refusal("SELECT ::int").message == '-f x.sql: line 1, column 8: syntax error at or near "::"'


@given(st.text(max_size=80))
def test_any_text_is_understood_or_refused_in_one_line_without_hidden_characters(text: str) -> None:
    try:
        understood("--sql", text)
    except Unfit as error:
        assert all(c.isprintable() for c in error.refusal.line + error.refusal.caret)


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1025])
def test_a_reason_is_needed_and_bounded(reason: str) -> None:
    with pytest.raises(Misused, match=r"^--reason: "):
        check_reason(reason)


@pytest.mark.parametrize("person", ["", "Jane Doe", "x" * 257, "a\x1bb"])
def test_a_name_that_no_record_can_hold_is_told(person: str) -> None:
    with pytest.raises(Refused, match="log in under another name"):
        check_person(person)
    check_person("system:serviceaccount:team:jane")


def test_what_is_created_is_what_was_asked_for() -> None:
    body = ddl_approval(
        "team", "", "acme", sql="DROP TABLE a", reason="CHG-1", requested_by="jane@example.com", session=True,
        valid_for=HOUR, lock_timeout=5 * SECOND, statement_timeout=10 * MINUTE,
    )  # fmt: skip
    assert body["metadata"] == {"namespace": "team", "generateName": "acme-"}
    assert body["spec"] == {
        "tenantRef": {"name": "acme"},
        "sql": "DROP TABLE a",
        "reason": "CHG-1",
        "requestedBy": "jane@example.com",
        "execution": "Session",
        "validFor": "1h",
        "lockTimeout": "5s",
        "statementTimeout": "10m",
    }
    assert DDLApproval.parse({**body, "metadata": {"name": "a"}}).dump()["spec"] == body["spec"]


def test_the_same_text_under_way_is_found_and_an_ended_one_is_not() -> None:
    sha256 = plan("DROP TABLE a").sha256
    pending = {"phase": "Pending", "sha256": sha256}
    others = [
        approval("one", status=pending),
        approval("ended", status={**pending, "phase": "Failed"}),
        approval("theirs", tenantRef={"name": "other"}, status=pending),
        approval("another", status={**pending, "sha256": "0" * 64}),
    ]
    assert same_text(others, "acme", sha256) == ["one"]
