"""Which statements an approved text may hold, and which of them the gate will see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.domain.ddlplan import RejectedText, digest, plan

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
    "REINDEX TABLE a",
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
        "ALTER TABLE a DETACH PARTITION b CONCURRENTLY",
        "VACUUM a",
        "VACUUM (ANALYZE) a",
        "CREATE DATABASE d",
        "DROP DATABASE d",
        "CREATE TABLESPACE s LOCATION '/x'",
        "DROP TABLESPACE s",
    ],
)
def test_what_cannot_run_in_a_transaction_is_refused_before_anybody_approves_it(text: str) -> None:
    with pytest.raises(RejectedText, match="statement 1 cannot run inside a transaction"):
        plan(text)


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


@given(st.text(max_size=60))
def test_any_text_is_planned_or_refused_with_a_reason_and_nothing_else(text: str) -> None:
    try:
        assert plan(text).statements
    except RejectedText as error:
        assert str(error)
    except UnicodeEncodeError:
        assert any(0xD800 <= ord(c) < 0xE000 for c in text)
