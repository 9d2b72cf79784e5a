"""What an approver is told of a statement. What a server really does is in tests/integration/ddl."""

import pytest
from tests.harness.classified_statements import CASES

from vaultbrix.api.ddlapproval import Danger, StatementSummary
from vaultbrix.ddl.parse import text as limits
from vaultbrix.ddl.parse.runs import COMMENT_STARTS
from vaultbrix.ddl.plan import RejectedText, plan


def only(sql: str, schema: str | None = None) -> StatementSummary:
    (found,) = plan(sql, schema=schema).statements
    return found


def notes(sql: str, schema: str | None = None) -> str:
    return "\n".join(only(sql, schema).notes)


def refusal(sql: str) -> str:
    with pytest.raises(RejectedText) as caught:
        plan(sql)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sql", "objects"),
    [
        ("DROP TABLE a, s.b", ["a", "s.b"]),
        ('DROP TABLE "A b", s."select"', ['"A b"', 's."select"']),
        ("ALTER TABLE s.a DROP COLUMN b", ["s.a"]),
        ("ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES s.b", ["a", "s.b"]),
        ("DROP FUNCTION s.f(int, text[]), g", ["s.f(integer, text[])", "g"]),
        ("DROP OPERATOR s.+ (int, NONE)", ["s.+(integer, none)"]),
        ("DROP TRIGGER x ON s.a", ["s.a", "x ON s.a"]),
        ("ALTER TRIGGER x ON a RENAME TO y", ["a", "x ON a"]),
        ("DROP CAST (int AS s.t)", ["(integer AS s.t)"]),
        ("DROP OPERATOR CLASS s.o USING btree", ["s.o USING btree"]),
        ("DROP SCHEMA a, b", ["a", "b"]),
        ("ALTER SCHEMA a RENAME TO b", ["a"]),
        ("CREATE INDEX i ON s.a(x)", ["s.a", "i"]),
        ("CREATE INDEX ON a(x)", ["a"]),
        ("COMMENT ON COLUMN s.a.b IS 'x'", ["s.a.b"]),
        ("COMMENT ON CONSTRAINT c ON DOMAIN s.d IS 'x'", ["s.d", "c ON s.d"]),
        ("ALTER TYPE s.t ADD VALUE 'x'", ["s.t"]),
        ("CALL s.p(1)", ["s.p"]),
        ("GRANT SELECT ON a, s.b TO x", ["a", "s.b"]),
        ("WITH a AS (SELECT 1) DELETE FROM a", ["a"]),
        ("WITH a AS (SELECT 1) SELECT * FROM a, s.a, b", ["s.a", "b"]),
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", ["a"]),
        ("WITH RECURSIVE a AS (SELECT 1 UNION SELECT * FROM a) SELECT * FROM a", []),
    ],
)
def test_what_a_statement_names_is_listed_as_it_is_written(sql: str, objects: list[str]) -> None:
    assert only(sql).objects == objects


def test_a_long_list_of_objects_says_how_long_it_is() -> None:
    found = only(f"DROP TABLE {', '.join(f't{n}' for n in range(900))}").objects
    assert len(found) == 32
    assert found[-1] == "… and 869 more"
    assert len(only(f'DROP TABLE "{"ü" * 300}"."{"x" * 63}"').objects[0]) <= 255


@pytest.mark.parametrize(
    ("danger", "sql"),
    [
        (Danger.NONE, "CREATE TABLE a(x int)"),
        (Danger.NONE, "ALTER TABLE a ADD COLUMN x int, ALTER y SET NOT NULL"),
        (Danger.INDEX, "DROP INDEX i"),
        (Danger.CONSTRAINT, "ALTER TABLE a DROP CONSTRAINT c"),
        (Danger.CODE, "DROP VIEW v"),
        (Danger.DATA, "TRUNCATE a"),
        (Danger.DATA, "ALTER TABLE a ALTER x TYPE int"),
        (Danger.COLUMN, "ALTER TABLE a DROP COLUMN x"),
        (Danger.TABLE, "DROP TABLE a"),
        (Danger.TABLE, "DROP FUNCTION f() CASCADE"),
        (Danger.UNKNOWN, "DO $$ BEGIN NULL; END $$"),
        (Danger.UNKNOWN, "DROP ROLE x"),
        (Danger.COLUMN, "ALTER TABLE a ADD COLUMN x int, DROP CONSTRAINT c, DROP COLUMN y, ALTER z DROP DEFAULT"),
        (Danger.DATA, "WITH x AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM x"),
        (Danger.NONE, "EXPLAIN DELETE FROM a"),
        (Danger.DATA, "EXPLAIN (ANALYZE) DELETE FROM a"),
        (Danger.DATA, "PREPARE p AS DELETE FROM a"),
        (Danger.UNKNOWN, "EXECUTE p"),
        (Danger.UNKNOWN, "SELECT cleanup()"),
        (Danger.NONE, "SELECT count(*), now(), lower(x) FROM a"),
        (Danger.UNKNOWN, "SELECT s.lower(x) FROM a"),
        (Danger.UNKNOWN, "SELECT x OPERATOR(s.+) y FROM a"),
        (Danger.UNKNOWN, "SELECT json_value(x, '$.a') FROM a"),
    ],
)
def test_the_danger_is_the_worst_of_all_that_a_statement_does(danger: Danger, sql: str) -> None:
    assert only(sql).danger is danger


ADDITIVE = [
    "ALTER TABLE a ADD COLUMN x int",
    "ALTER TABLE a ADD COLUMN x text NOT NULL DEFAULT 'y' CHECK (x <> '') UNIQUE",
    "ALTER TABLE a ADD COLUMN x timestamptz DEFAULT now()",
    "ALTER TABLE a ADD CONSTRAINT c CHECK (x > 0) NOT VALID",
    "ALTER TABLE a ADD UNIQUE (x), ADD PRIMARY KEY (y), ADD EXCLUDE USING gist (z WITH &&)",
    "ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b",
    "ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b ON DELETE RESTRICT ON UPDATE CASCADE",
    "ALTER TABLE a VALIDATE CONSTRAINT c",
    "ALTER TABLE a ALTER x SET NOT NULL, ALTER y SET DEFAULT 1, ALTER z DROP DEFAULT",
    "ALTER TYPE t ADD VALUE 'x' AFTER 'y'",
    "CREATE INDEX i ON a(x)",
    "DELETE FROM a",
]

MORE = [
    "ALTER TABLE a ADD COLUMN x serial",
    "ALTER TABLE a ADD COLUMN x int GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE a ADD COLUMN x int GENERATED ALWAYS AS (y) STORED",
    "ALTER TABLE a ADD COLUMN x uuid DEFAULT gen_random_uuid()",
    "ALTER TABLE a ADD COLUMN x uuid DEFAULT mine()",
    "ALTER TABLE a ADD COLUMN x mine",
    "ALTER TABLE a ADD COLUMN x int REFERENCES b ON DELETE CASCADE",
    "ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b ON DELETE SET NULL",
    "ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b ON DELETE SET DEFAULT",
    "ALTER TABLE a ADD COLUMN x int, DROP COLUMN y",
    "ALTER TABLE a ADD COLUMN x int, OWNER TO z",
    "ALTER TABLE a ALTER x DROP NOT NULL",
    "ALTER TABLE a ALTER x TYPE bigint",
    "ALTER TABLE a RENAME TO b",
    "ALTER TABLE a ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE a ATTACH PARTITION b DEFAULT",
    "ALTER TABLE a SET (fillfactor = 70)",
    "ALTER VIEW a ALTER x SET DEFAULT 1",
    "ALTER FOREIGN TABLE a ADD COLUMN x int",
    "ALTER TYPE t ADD ATTRIBUTE x int",
    "ALTER TYPE t RENAME VALUE 'x' TO 'y'",
    "ALTER DOMAIN d SET DEFAULT 1",
    "DROP TABLE a",
    "TRUNCATE a",
]


def test_additive_is_what_the_policy_lets_through_and_nothing_else() -> None:
    assert [sql for sql in ADDITIVE if not plan(sql).additive] == []
    assert [sql for sql in MORE if plan(sql).additive] == []
    assert plan(";".join(ADDITIVE)).additive
    assert not plan(";".join([*ADDITIVE, MORE[0]])).additive


def test_what_is_additive_and_gated_loses_and_rewrites_nothing() -> None:
    for case in CASES:
        found = only(case.sql.replace("{role}", "tenant_a"))
        if found.gated and found.additive:
            assert found.danger in (Danger.NONE, Danger.CODE), case
            assert not found.rewrites, case


@pytest.mark.parametrize(
    ("sql", "note"),
    [
        ("DO $$ BEGIN NULL; END $$", "allowNested"),
        ("CALL public.cleanup()", "calls public.cleanup(), whose body may change after the approval"),
        ("SELECT cleanup() FROM a", "calls cleanup()"),
        ("ALTER TABLE a ADD CHECK (valid(x))", "calls valid()"),
        ("CREATE INDEX i ON a(mine(x))", "calls mine()"),
        ("SELECT setval('s', 1)", "changes what is stored"),
        ("DROP TABLE a CASCADE", "the rehearsal names it"),
        ("TRUNCATE a CASCADE", "empties every table that refers to it"),
        ("DROP TABLE IF EXISTS a", "no error says so"),
        ("GRANT SELECT ON a TO x, PUBLIC", "every role of the database"),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC", "every role of the database"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "rights of its owner"),
        ("ALTER FUNCTION f() SECURITY DEFINER", "rights of its owner"),
        ("ALTER TABLE a DISABLE ROW LEVEL SECURITY", "no longer hide rows"),
        ("ALTER TABLE a OWNER TO x", "new owner"),
        ("ALTER VIEW v OWNER TO x", "new owner"),
        ("ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b ON DELETE CASCADE", "ON DELETE CASCADE"),
        ("CREATE TABLE a(x int REFERENCES b ON DELETE SET NULL)", "ON DELETE SET NULL"),
        ("SET search_path = x", "names without a schema"),
        ("SET lock_timeout = 0", "the approval's own no longer holds"),
        ("CREATE INDEX CONCURRENTLY i ON a(x)", "INVALID"),
        ("ALTER TABLE a RENAME TO b", "old name"),
    ],
)
def test_an_approver_is_told_what_the_tree_does_not_show(sql: str, note: str) -> None:
    assert note in notes(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT g(); END",
        "CREATE VIEW v AS SELECT g()",
        "CREATE TABLE a(x int DEFAULT g())",
        "EXPLAIN SELECT g()",
        "GRANT SELECT ON a TO x",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
)
def test_what_does_not_run_now_raises_no_alarm(sql: str) -> None:
    assert notes(sql) == ""
    assert plan(sql).nested == ()


def test_statements_in_which_ddl_may_run_unseen_are_told_apart() -> None:
    found = plan("CREATE TABLE a(x int); DO $$ BEGIN END $$; SELECT f(); CALL p(); DROP TABLE a; SELECT now()")
    assert found.nested == (2, 3, 4)
    assert found.gated == [5]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE tenant_b.a",
        "DROP FUNCTION tenant_b.f()",
        "DROP SCHEMA tenant_b",
        "DROP TYPE tenant_b.t",
        "DROP TRIGGER x ON tenant_b.a",
        "SELECT tenant_b.f()",
        "SELECT * FROM tenant_b.a",
        "ALTER TABLE a ADD COLUMN x tenant_b.t",
        "ALTER TABLE a SET SCHEMA tenant_b",
        "CREATE FUNCTION tenant_b.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "COMMENT ON FUNCTION tenant_b.f() IS 'x'",
        "ALTER TYPE tenant_b.t ADD VALUE 'x'",
        "CREATE TABLE a(x int REFERENCES tenant_b.a)",
        "COMMENT ON TABLE tenant_b.a IS 'x'",
        "COMMENT ON COLUMN tenant_b.a.x IS 'x'",
        "GRANT USAGE ON SCHEMA tenant_b TO x",
        "GRANT SELECT ON ALL TABLES IN SCHEMA tenant_b TO x",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA tenant_b GRANT SELECT ON TABLES TO x",
        "ALTER SCHEMA tenant_b RENAME TO y",
        "ALTER SCHEMA tenant_b OWNER TO y",
        "ALTER TYPE tenant_b.t OWNER TO y",
        "ALTER TYPE tenant_b.t RENAME TO y",
        "REINDEX SCHEMA tenant_b",
        "TRUNCATE tenant_b.a",
    ],
)
def test_another_schema_than_the_tenants_is_named(sql: str) -> None:
    assert "names schema tenant_b, which is not the tenant's" in notes(sql, "tenant_a")
    assert "names schema" not in notes(sql.replace("tenant_b", "tenant_a"), "tenant_a")
    assert "names schema" not in notes(sql)


@pytest.mark.parametrize(
    ("name", "char"),
    [
        ("\u043erders", "U+043E"),
        ("order\u0455", "U+0455"),
        ('"p\u0430id"', "U+0430"),
        ("\u0441\u043e\u0440\u0435", "U+0441"),
        ("\uff4frders", "U+FF4F"),
        ("orders\u00a0", "U+00A0"),
        ("e\u0301t\u00e9", "U+0301"),
        ("\u03bfrders", "U+03BF"),
    ],
)
def test_a_name_that_reads_like_another_is_pointed_out(name: str, char: str) -> None:
    assert char in notes(f"DROP TABLE {name};")


@pytest.mark.parametrize("name", ["bestellungen", "größe", "заказы", "注文テーブル", "παραγγελίες", "ñandú", "a1_ü"])
def test_a_name_in_one_script_is_left_alone(name: str) -> None:
    assert notes(f"DROP TABLE {name}") == ""


def test_a_new_value_that_a_later_statement_uses_keeps_the_text_from_one_transaction() -> None:
    add, use = "ALTER TYPE mood ADD VALUE 'great'", "UPDATE t SET m = 'great'"
    assert [s.transactional for s in plan(f"{add}; {use}").statements] == [False, True]
    assert plan(f"{use}; {add}").transactional
    assert plan(f"{add}; UPDATE t SET m = 'ok'").transactional
    assert plan(f"CREATE TYPE mood AS ENUM ('ok'); {add}; {use}").transactional


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1;\n\\d orders", "line 2, column 1: \\d is a command of psql, not SQL"),
        ("\\connect other\nDROP TABLE a", "line 1, column 1: \\connect is a command of psql"),
        ("DROP TABLE a \\g", "line 1, column 14: \\g is a command of psql"),
        ("DROP TABLE :name", "line 1, column 12: variables are psql's"),
        ("SELECT :'name'", "line 1, column 8: variables are psql's"),
        ("SELECT 1;\nCOPY a (x) FROM stdin;\n1\t2\n\\.\n", "line 2, column 1: COPY FROM STDIN is followed by data"),
        ("COPY a FROM STDIN", "line 1, column 1: statement 1 is COPY"),
        ("SELECT 1;\n  COMMIT", "line 2, column 3: statement 2 controls the transaction"),
        ("SELECT 1;\n SELECT '\ud800'", "line 2, column 10: character U+D800 is half of a character"),
        ("SELECT 1\0", "line 1, column 9: character U+0000 is a NUL byte"),
        ("SELECT '\u00ad'", "line 1, column 9: character U+00AD is invisible"),
        ("SELECT '\ufe0f'", "U+FE0F is invisible"),
        ("SELECT '\u3164'", "U+3164 is invisible"),
        ("SELECT '\U000e0041'", "U+E0041 is invisible"),
        ("SELECT $é$ x $é$", "line 1, column 8: $é$ looks like a quote"),
        ("SELECT 1" + "+" * 2000 + "1", "line 1, column 9: more than 1000 signs"),
        ("SELECT " + "ü, " * 2400 + "'" + "ü" * 50000 + "'", "line 1, column 1: the statement holds too many"),
        ("SELECT " + "1," * 3000 + "1", "column 5007: the statement has more than 5000"),
        ("SELECT 1;" * 21000, "more than 50000 words"),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_refused_is_told_with_the_place(sql: str, message: str) -> None:
    assert message in refusal(sql)


def test_a_message_does_not_repeat_a_whole_text() -> None:
    assert len(refusal("'" + "x" * 200_000)) < 400
    assert len(refusal("SELECT " + "x" * 100_000 + " " + "y" * 100_000 + " z")) < 400


def test_comments_do_not_make_more_messages_than_are_bearable() -> None:
    one = plan("/* a */ " * 30_000 + "DROP TABLE a")
    assert len(one.runs) <= COMMENT_STARTS + 1
    many = plan(("-- a\n/* b */ " * 10 + "DROP TABLE a;\n") * 200)
    assert len(many.runs) <= 4 * 20_100 + 1


def test_a_statement_at_every_limit_is_planned() -> None:
    words = limits.MAX_TOKENS - 10
    for sql in (
        f"SELECT {'(' * (words // 2)}1{')' * (words // 2)}",
        f"SELECT {'1+' * (words // 2)}1",
        f"SELECT {'NOT ' * words}true",
        f"SELECT 1{' UNION SELECT 1' * (words // 3)}",
        f"SELECT {'(SELECT ' * (words // 3)}1{')' * (words // 3)}",
        f"SELECT 1{'::int' * (words // 2)}",
        f"SELECT {'f(' * (words // 3)}1{')' * (words // 3)}",
    ):
        assert plan(sql).statements[0].sql


# What needs a superuser, an extension or a foreign server, which the real server of the tests has not.
@pytest.mark.parametrize(
    ("sql", "tag"),
    [
        ("ALTER COLLATION c REFRESH VERSION", "ALTER COLLATION"),
        ("ALTER CONVERSION c RENAME TO d", "ALTER CONVERSION"),
        ("ALTER EXTENSION e ADD TABLE t", "ALTER EXTENSION"),
        ("ALTER EXTENSION e UPDATE", "ALTER EXTENSION"),
        ("ALTER FOREIGN DATA WRAPPER w OPTIONS (a 'b')", "ALTER FOREIGN DATA WRAPPER"),
        ("ALTER FOREIGN TABLE t DROP COLUMN x", "ALTER FOREIGN TABLE"),
        ("ALTER FUNCTION f(int) DEPENDS ON EXTENSION e", "ALTER FUNCTION"),
        ("ALTER LARGE OBJECT 5 OWNER TO x", "ALTER LARGE OBJECT"),
        ("ALTER OPERATOR + (int, int) SET (RESTRICT = NONE)", "ALTER OPERATOR"),
        ("ALTER OPERATOR CLASS o USING btree RENAME TO p", "ALTER OPERATOR CLASS"),
        ("ALTER OPERATOR FAMILY f USING btree ADD OPERATOR 1 < (int, int)", "ALTER OPERATOR FAMILY"),
        ("ALTER PUBLICATION p ADD TABLE t", "ALTER PUBLICATION"),
        ("ALTER ROLE x SET work_mem = '1MB'", "ALTER ROLE"),
        ("ALTER SERVER s OPTIONS (SET a 'b')", "ALTER SERVER"),
        ("ALTER TABLE ALL IN TABLESPACE a SET TABLESPACE b", "ALTER TABLE"),
        ("ALTER TEXT SEARCH PARSER p RENAME TO q", "ALTER TEXT SEARCH PARSER"),
        ("ALTER USER MAPPING FOR x SERVER s OPTIONS (a 'b')", "ALTER USER MAPPING"),
        ("CREATE ACCESS METHOD m TYPE TABLE HANDLER h", "CREATE ACCESS METHOD"),
        ("CREATE CAST (a AS b) WITHOUT FUNCTION", "CREATE CAST"),
        ("CREATE CONVERSION c FOR 'UTF8' TO 'LATIN1' FROM f", "CREATE CONVERSION"),
        ("CREATE EXTENSION e", "CREATE EXTENSION"),
        ("CREATE FOREIGN TABLE t (x int) SERVER s", "CREATE FOREIGN TABLE"),
        ("CREATE LANGUAGE l HANDLER h", "CREATE LANGUAGE"),
        ("CREATE OPERATOR CLASS o FOR TYPE int USING btree AS OPERATOR 1 <", "CREATE OPERATOR CLASS"),
        ("CREATE PUBLICATION p FOR ALL TABLES", "CREATE PUBLICATION"),
        ("CREATE TRANSFORM FOR a LANGUAGE b (FROM SQL WITH FUNCTION f(internal))", "CREATE TRANSFORM"),
        ("CREATE USER MAPPING FOR x SERVER s", "CREATE USER MAPPING"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("DECLARE c CURSOR FOR SELECT 1", "DECLARE CURSOR"),
        ("DROP TRANSFORM FOR int LANGUAGE sql", "DROP TRANSFORM"),
        ("DROP USER MAPPING FOR x SERVER s", "DROP USER MAPPING"),
        ("EXECUTE p(1)", "EXECUTE"),
        ("GRANT x TO y", "GRANT ROLE"),
        ("IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c", "IMPORT FOREIGN SCHEMA"),
        ("MOVE c", "MOVE"),
        ("SECURITY LABEL ON TABLE t IS 'x'", "SECURITY LABEL"),
        ("SELECT 1 UNION SELECT 2", "SELECT"),
    ],
)
def test_a_statement_that_is_rare_has_its_tag_too(sql: str, tag: str) -> None:
    assert only(sql).tag == tag
