import hashlib

import pytest

from vaultbrix.api.ddlapproval import MAX_SQL_BYTES, MAX_STATEMENTS
from vaultbrix.ddl.plan import Plan, RejectedText, digest, normalise, plan

FOREIGN = '-- ü😀 zuerst\nDROP TABLE "tü"; /* é */ ALTER TABLE b DROP COLUMN "日本"; -- ende ü\nTRUNCATE c'


def shas(text: str) -> set[tuple[int, int, bytes]]:
    return {(run.first, run.last, run.sha256) for run in plan(text).runs}


def sha(text: str) -> bytes:
    """As ``vaultbrix.norm`` and sha256 in the gate, spelled out anew."""
    text = text.replace("\r\n", "\n")
    return hashlib.sha256(text.strip(" ;\t\n\r\f").encode("utf-8")).digest()


def refusal(text: str) -> RejectedText:
    with pytest.raises(RejectedText) as caught:
        plan(text)
    return caught.value


def test_each_statement_is_cut_from_the_approved_bytes() -> None:
    assert plan(FOREIGN).texts == ('DROP TABLE "tü"', 'ALTER TABLE b DROP COLUMN "日本"', "TRUNCATE c")


def test_each_statement_is_shown_at_the_line_where_it_begins() -> None:
    text = "\r\n-- first\r\nDROP TABLE a;\r\n\r\n/* then\r\n */ DROP TABLE\r\n b; DROP TABLE c"
    assert [s.line for s in plan(text).statements] == [3, 6, 7]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ALTER TABLE s.parts DETACH PARTITION \"P old\" CONCURRENTLY",
         ('partition "P old"', "pending detach", 'ALTER TABLE s.parts DETACH PARTITION "P old" FINALIZE')),
        ("CREATE INDEX CONCURRENTLY i ON t(v)", ("index i", "INVALID")),
        ("CREATE INDEX CONCURRENTLY ON s.t(v)", ("index of s.t", "INVALID")),
        ("DROP INDEX CONCURRENTLY s.i", ("index s.i", "INVALID")),
        ("REINDEX TABLE CONCURRENTLY t", ("indexes of t", "_ccnew")),
        ("REINDEX INDEX CONCURRENTLY i", ("index i", "_ccnew")),
        ("REINDEX SCHEMA CONCURRENTLY s", ("the schema", "_ccnew")),
    ],
)  # fmt: skip
def test_what_a_statement_leaves_when_it_is_cut_short_is_named(text: str, parts: tuple[str, ...]) -> None:
    (left,) = plan(text).left
    for part in parts:
        assert part in left


def test_what_cannot_be_cut_in_half_leaves_nothing() -> None:
    assert set(plan("VACUUM t; DROP INDEX i; ALTER TABLE parts DETACH PARTITION p; CREATE TABLE a()").left) == {""}


def test_positions_tags_and_gating_are_those_of_the_statements() -> None:
    found = [(s.position, s.tag, s.gated) for s in plan("CREATE TABLE a(x int); DROP TABLE b;;TRUNCATE c").statements]
    assert found == [(1, "CREATE TABLE", False), (2, "DROP TABLE", True), (3, "TRUNCATE TABLE", True)]
    assert plan("CREATE TABLE a(x int); DROP TABLE b;;TRUNCATE c").gated == [2, 3]


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (1, 1, 'DROP TABLE "tü"'),
        (1, 1, '  DROP TABLE "tü";\n'),
        (1, 2, 'DROP TABLE "tü"; /* é */ ALTER TABLE b DROP COLUMN "日本";'),
        (2, 3, 'ALTER TABLE b DROP COLUMN "日本"; -- ende ü\nTRUNCATE c'),
        (3, 3, "TRUNCATE c;"),
        (1, 3, FOREIGN),
        (1, 3, FOREIGN.removeprefix("-- ü😀 zuerst\n")),
        (1, 3, FOREIGN.replace("\n", "\r\n")),
    ],
)
def test_every_message_that_a_client_makes_of_the_text_is_known_to_the_gate(
    first: int, last: int, message: str
) -> None:
    assert (first, last, sha(message)) in shas(FOREIGN)


def test_nothing_but_contiguous_runs_is_known_to_the_gate() -> None:
    known = {s for _, _, s in shas("DROP TABLE a; DROP TABLE b; DROP TABLE c")}
    assert len(known) == 6
    for message in ("DROP TABLE a; DROP TABLE c", "DROP TABLE b; DROP TABLE a", "drop table a", "DROP  TABLE a"):
        assert sha(message) not in known
    assert sha("DROP TABLE a CASCADE") not in known


def test_a_line_end_inside_is_not_folded_away() -> None:
    assert sha("SELECT 1; -- x DROP TABLE a") not in {s for _, _, s in shas("SELECT 1; -- x\nDROP TABLE a")}


def test_the_sha256_shown_is_that_of_the_whole_text() -> None:
    assert plan(FOREIGN).sha256 == sha(FOREIGN).hex() == digest(FOREIGN).hex()


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [
        ("  a ", "a"),
        (";;a;\n;", "a"),
        ("\t\r\n\fa\f", "a"),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\rb"),
        ("a  b", "a  b"),
        ("\u00a0a\u00a0", "\u00a0a\u00a0"),
        ("\va\v", "\va\v"),
        (";", ""),
        ("", ""),
    ],
)
def test_normalising_trims_what_the_gate_trims_and_nothing_else(text: str, trimmed: str) -> None:
    assert normalise(text) == trimmed


@pytest.mark.parametrize("text", ["", "   ", ";;;", "-- only a comment", "/* only */ ;", "\n"])
def test_a_text_without_a_statement_is_refused(text: str) -> None:
    found = refusal(text)
    assert "holds no statement" in str(found)
    assert not found.syntax


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("DROP TABEL a", "line 1, column 6"),
        ("DROP TABLE a;\n  DROP TABEL b", "line 2, column 8"),
        ("SELECT 'unterminated", "line 1, column 8"),
        ("SELECT 1;\n/* open", "line 2, column 1"),
        ("-- ü😀\nDROP TABEL b", "line 2, column 6"),
        ("SELECT 'ü😀' AS a oops", "line 1, column 18"),
        ("SELECT 'ü😀', 'unterminated", "line 1, column 14"),
        ("SELECT '日本語日本語日本語';\n\nDROP TABEL b", "line 3, column 6"),
    ],
)
def test_a_syntax_error_is_located_for_the_eye(text: str, place: str) -> None:
    found = refusal(text)
    assert str(found).startswith(f"spec.sql {place}: ")
    assert found.syntax


@pytest.mark.parametrize(
    "char", "\u202e\u202d\u2066\u2067\u2068\u2069\u200b\u200c\u200d\u2060\ufeff\u200e\u200f\u061c\u2028"
)
def test_text_that_a_person_does_not_see_as_the_server_reads_it_is_refused(char: str) -> None:
    for text in (f"DROP TABLE a{char}", f"-- {char}\nDROP TABLE a", f"SELECT 1;\n  SELECT '{char}'"):
        assert f"U+{ord(char):04X}" in str(refusal(text))
    assert "line 2, column 11" in str(refusal(f"SELECT 1;\r\n  SELECT '{char}'"))


@pytest.mark.parametrize("char", ["\0", "\a", "\b", "\v", "\f", "\r", "\x1b", "\x7f", "\x85", "\x9b"])
def test_control_characters_are_refused(char: str) -> None:
    assert f"U+{ord(char):04X}" in str(refusal(f"DROP TABLE a; -- {char} x"))


# White space to Python, letters of a name to PostgreSQL.
@pytest.mark.parametrize("char", "\u00a0\u1680\u2000\u2003\u200a\u202f\u205f\u3000")
def test_a_blank_that_is_part_of_a_name_is_never_cut_off(char: str) -> None:
    for text in (
        f"DROP TABLE orders{char}",
        f"SELECT 1; DROP TABLE orders{char};",
        f"DROP TABLE orders{char}; SELECT 1",
    ):
        try:
            found = plan(text)
        except RejectedText:
            continue
        assert f"DROP TABLE orders{char}" in found.texts


@pytest.mark.parametrize(
    "text",
    [
        r"SELECT 'a\' /* ' ; SET standard_conforming_strings = on; DROP TABLE b; -- */",
        r"SELECT 'a\b'",
        r"SELECT N'a\b'",
        "SELECT 1;\nSELECT 'a'\n'b\\c'",
        r"COMMENT ON TABLE a IS '\'",
    ],
)
def test_a_backslash_that_two_settings_read_differently_is_refused(text: str) -> None:
    found = refusal(text)
    assert "backslash" in str(found)
    assert not found.syntax


def test_the_line_of_such_a_backslash_is_named() -> None:
    assert "line 3" in str(refusal("SELECT 'ü😀';\n\nSELECT 'a\\b'"))


@pytest.mark.parametrize(
    "text",
    [
        r"SELECT E'a\\b'",
        r"SELECT e'a\'b'",
        r"SELECT $$a\b$$",
        r'SELECT "a\b" FROM t',
        "SELECT 1 -- \\",
        "SELECT /* \\ */ 1",
    ],
)
def test_a_backslash_that_every_setting_reads_alike_is_fine(text: str) -> None:
    assert plan(text).texts == (text,)


def test_limits_hold_to_the_byte_and_to_the_statement() -> None:
    room = MAX_SQL_BYTES - len("SELECT '' ")
    assert plan(f"SELECT '{'x' * room}' ").statements
    assert "bytes" in str(refusal(f"SELECT '{'x' * (room + 1)}' "))
    assert "bytes" in str(refusal(f"SELECT '{'ü' * (room // 2 + 1)}' "))
    assert "200" in str(refusal("SELECT 1;" * (MAX_STATEMENTS + 1)))


def test_as_many_statements_as_allowed_make_all_their_runs() -> None:
    found: Plan = plan("".join(f"DROP TABLE t{n};" for n in range(MAX_STATEMENTS)))
    assert len(found.statements) == MAX_STATEMENTS
    assert len(found.runs) == MAX_STATEMENTS * (MAX_STATEMENTS + 1) // 2


def test_what_an_approver_is_shown_is_what_the_parser_read_and_fits_the_status() -> None:
    long = plan(f"/* DROP nothing, honestly */ drop table if EXISTS {', '.join(f't{n}' for n in range(900))}")
    (shown,) = long.statements
    assert shown.sql.startswith("DROP TABLE IF EXISTS t0, t1")
    assert len(shown.sql) <= 1024
    assert len(shown.tag) <= 64


def test_emptying_a_temporary_table_of_the_text_is_no_step_that_the_gate_sees() -> None:
    made = "CREATE TEMP TABLE s(); SELECT 1 AS a INTO TEMP q; CREATE TEMP TABLE r AS SELECT 1; "
    assert plan(made + "TRUNCATE s, q, r; TRUNCATE pg_temp.other; DROP TABLE s").gated == [6]
    assert plan(made + "TRUNCATE s, lasting; TRUNCATE a.s").gated == [4, 5]
    assert plan("TRUNCATE s; CREATE TEMP TABLE s()").gated == [1]
