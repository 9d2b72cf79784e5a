"""Which statements an approved text may hold, and which of them the gate will see."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pglast.parser import ParseError, scan
from tests.harness.classified_statements import CASES

from vaultbrix.ddl.parse.text import as_ascii
from vaultbrix.ddl.plan import RejectedText, digest, plan

GATED = [
    "DROP TABLE a CASCADE",
    "DROP SCHEMA s",
    "DROP INDEX i",
    "DROP FUNCTION f(int)",
    "DROP OWNED BY x",
    "TRUNCATE a, b",
    "ALTER TABLE a ADD COLUMN y int",
    "ALTER TABLE a RENAME TO b",
    "ALTER TABLE a SET SCHEMA s",
    "ALTER TABLE a OWNER TO x",
    "ALTER TYPE e ADD VALUE 'x'",
    "ALTER SEQUENCE s RESTART",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO x",
    "CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING",
    "SECURITY LABEL ON TABLE a IS 'x'",
]

FREE = [
    "SELECT 1",
    "SELECT 1 INTO a",
    "INSERT INTO a VALUES (1)",
    "UPDATE a SET x = 1",
    "DELETE FROM a",
    "CREATE TABLE a(x int)",
    "CREATE TABLE a AS SELECT 1",
    "CREATE INDEX i ON a(x)",
    "CREATE OR REPLACE VIEW v AS SELECT 1",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE e AS ENUM ('x')",
    "COMMENT ON TABLE a IS 'x'",
    "GRANT SELECT ON a TO x",
    "REVOKE SELECT ON a FROM x",
    "REFRESH MATERIALIZED VIEW m",
    "SET search_path = x",
    "SET CONSTRAINTS ALL DEFERRED",
    "DO $$ BEGIN NULL; END $$",
    "REINDEX TABLE a",
]


@pytest.mark.parametrize("text", GATED)
def test_destructive_ddl_asks_for_a_pass(text: str) -> None:
    assert plan(text).gated == [1]


@pytest.mark.parametrize("text", FREE)
def test_what_the_gate_lets_through_asks_for_none(text: str) -> None:
    assert plan(text).gated == []


@pytest.mark.parametrize(
    "text",
    [
        "BEGIN",
        "START TRANSACTION",
        "COMMIT",
        "END",
        "ROLLBACK",
        "COMMIT AND CHAIN",
        "SAVEPOINT x",
        "ROLLBACK TO x",
        "RELEASE x",
        "PREPARE TRANSACTION 'x'",
    ],
)
def test_a_text_cannot_leave_its_transaction(text: str) -> None:
    for whole in (text, f"SELECT 1; {text}", f"{text}; DROP TABLE a"):
        with pytest.raises(RejectedText, match="controls the transaction"):
            plan(whole)


@pytest.mark.parametrize(
    "text",
    [
        "SET ROLE x",
        "SET LOCAL ROLE x",
        "SET ROLE NONE",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION x",
        "SET SESSION AUTHORIZATION DEFAULT",
        "RESET SESSION AUTHORIZATION",
        "SET role = 'x'",
        "SET \"role\" TO 'x'",
    ],
)
def test_a_text_cannot_become_another_role(text: str) -> None:
    with pytest.raises(RejectedText, match="statement 2 changes the role"):
        plan(f"SELECT 1; {text}")


@pytest.mark.parametrize("text", ["COPY a FROM STDIN", "COPY a TO '/tmp/x'", "COPY (SELECT 1) TO PROGRAM 'sh'"])
def test_copy_is_refused(text: str) -> None:
    with pytest.raises(RejectedText, match="COPY"):
        plan(text)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE INDEX CONCURRENTLY i ON a(x)",
        "DROP INDEX CONCURRENTLY i",
        "REINDEX TABLE CONCURRENTLY a",
        "REINDEX (CONCURRENTLY) TABLE a",
        "REINDEX SCHEMA s",
        "ALTER TABLE a DETACH PARTITION b CONCURRENTLY",
        "VACUUM a",
        "VACUUM (ANALYZE) a",
    ],
)
def test_what_cannot_run_in_a_transaction_is_accepted_and_says_so(text: str) -> None:
    found = plan(f"DROP TABLE z; {text}")
    assert [s.transactional for s in found.statements] == [True, False]
    assert not found.transactional


@pytest.mark.parametrize(
    "text",
    [
        "CREATE DATABASE d",
        "DROP DATABASE d",
        "ALTER DATABASE d SET work_mem = '1GB'",
        "CREATE TABLESPACE s LOCATION '/x'",
        "DROP TABLESPACE s",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "REINDEX DATABASE d",
        "REINDEX SYSTEM d",
        "CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION f()",
        "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
        "LOAD 'x'",
    ],
)
def test_what_no_tenant_can_run_is_refused_before_anybody_approves_it(text: str) -> None:
    with pytest.raises(RejectedText, match=r"line 1, column 11: statement 2 .*no tenant can run it"):
        plan(f"SELECT 1; {text}")


@pytest.mark.parametrize("text", ["VACUUM", "VACUUM FULL", "ANALYZE", "CLUSTER"])
def test_what_means_the_tables_of_all_tenants_is_refused(text: str) -> None:
    with pytest.raises(RejectedText, match="names no table"):
        plan(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT set_config('role', 'x', false)",
        "SELECT pg_catalog.set_config('ROLE', 'x', false)",
        "WITH a AS (SELECT set_config('session_authorization', 'x', true)) SELECT 1",
        "DISCARD ALL",
    ],
)
def test_a_text_cannot_become_another_role_on_a_side_way(text: str) -> None:
    with pytest.raises(RejectedText, match="changes the role"):
        plan(text)


@pytest.mark.parametrize(
    "text",
    [
        "SET standard_conforming_strings = off",
        "SET LOCAL standard_conforming_strings TO 'off'",
        "RESET standard_conforming_strings",
        "SELECT set_config('standard_conforming_strings', 'off', false)",
    ],
)
def test_a_text_cannot_change_how_it_is_read(text: str) -> None:
    with pytest.raises(RejectedText, match="standard_conforming_strings"):
        plan(text)


def test_what_pg_dump_writes_at_the_top_of_a_file_is_fine() -> None:
    assert plan("SET standard_conforming_strings = on; SELECT pg_catalog.set_config('search_path', '', false);")


def test_analyze_runs_in_a_transaction() -> None:
    assert plan("ANALYZE a").texts == ("ANALYZE a",)


STATEMENTS = st.sampled_from(
    [
        "DROP TABLE a",
        'ALTER TABLE "tü;b" DROP COLUMN "x--y"',
        "TRUNCATE c /* hängt; dran */",
        "SELECT 'a;b', $$;ü--$$, E'\\\\;'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END",
        "CREATE FUNCTION g() RETURNS text LANGUAGE sql AS $body$ SELECT '😀'; $body$",
        "COMMENT ON TABLE a IS '日本語 /* no comment'",
        "SELECT 1 -- ; nicht hier\n + 1",
        "DO $$ BEGIN DELETE FROM a; END $$",
    ]
)
SEPARATORS = st.sampled_from(
    [";", "; ", ";\n", " ;;\n\n", ";\n-- ü😀 ; DROP TABLE z\n", "; /* é ; /* nested */ */ ", ";\t\r\n"]
)
HEADS = st.sampled_from(["", "\n ", "-- ü\n", "/* 😀 */ ", ";;", ";-- é\n;"])


@given(HEADS, st.lists(st.tuples(STATEMENTS, SEPARATORS), min_size=1, max_size=7))
def test_a_text_is_split_where_postgresql_splits_it_and_every_run_is_known(
    head: str, parts: list[tuple[str, str]]
) -> None:
    text = head + "".join(statement + separator for statement, separator in parts)
    found = plan(text)
    assert list(found.texts) == [statement for statement, _ in parts]
    known = {(run.first, run.last, run.sha256) for run in found.runs}
    expected, possible = {(1, len(parts), digest(text))}, {(1, len(parts), digest(text))}
    places, before = [], len(head)
    for statement, separator in parts:
        places.append((before, before + len(statement)))
        before += len(statement) + len(separator)
    for first, (start, _) in enumerate(places):
        gap = places[first - 1][1] if first else 0
        for last in range(first, len(parts)):
            stop = places[last][1]
            expected.add((first + 1, last + 1, digest(text[start:stop])))
            # A client may send some of the comments that stand between it and the statement before.
            possible |= {(first + 1, last + 1, digest(text[cut:stop])) for cut in range(gap, start + 1)}
    assert expected <= known <= possible


@given(st.text(max_size=60) | st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_is_planned_or_refused_with_a_reason_and_nothing_else(text: str) -> None:
    try:
        assert plan(text).statements
    except RejectedText as error:
        assert str(error)


@given(st.data())
def test_statements_with_words_cut_doubled_or_exchanged_are_planned_or_refused(data: st.DataObject) -> None:
    words = data.draw(st.sampled_from(CASES)).sql.split()
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(words) - 1))
        other = data.draw(st.sampled_from(CASES)).sql.split()
        words[at : at + data.draw(st.integers(0, 2))] = other[: data.draw(st.integers(1, 3))]
    try:
        found = plan(" ".join(words), schema="tenant_a")
    except RejectedText as error:
        assert str(error)
        return
    assert all(s.tag and s.sql for s in found.statements)


LETTERS = st.sampled_from("éü😀日 \n'\"$;-/*\\&xXbBeEnNuUz01._aAt+:()")


@given(st.lists(LETTERS, max_size=24).map("".join))
@example("SELECT é'a\\'")
@example("SELECT 0é1, $1é, 1eé")
def test_characters_beyond_ascii_are_cut_as_postgresql_cuts_them(text: str) -> None:
    if "$" in text and not text.isascii():
        text = text.replace("$", "")
    try:
        real = [(t.name, t.start, t.end) for t in scan(text)]
    except ParseError:
        with pytest.raises(ParseError):
            scan(as_ascii(text))
    else:
        cut = [(t.name, t.start, t.end) for t in scan(as_ascii(text))]
        assert [t[1:] for t in cut] == [t[1:] for t in real]
        assert [t for t in cut if t[0].endswith("CONST")] == [t for t in real if t[0].endswith("CONST")]


@pytest.mark.parametrize("prefix", ["é", "日本", "eé", "ü_x"])
def test_a_backslash_behind_a_name_beyond_ascii_is_found(prefix: str) -> None:
    with pytest.raises(RejectedText, match="backslash"):
        plan(f"SELECT {prefix}'a\\' /* ' ; DROP TABLE b; -- */")
