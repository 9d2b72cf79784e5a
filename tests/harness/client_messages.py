"""What clients send, and what the record must say of it: the statement as sent, and ``ok`` or how it failed."""

from collections.abc import Callable
from typing import Any

import psycopg
from tests.harness.database import send
from tests.harness.postgres import VERSION

Work = Callable[[psycopg.Connection], object]
Expected = list[tuple[str, str]]

# pgAudit tells of each statement in a message by its own text since PostgreSQL 17, and by the whole message's before.
WHOLE_MESSAGES = int(VERSION) < 17

SETUP = (
    "CREATE TABLE t(id int PRIMARY KEY, v text)",
    "CREATE TABLE trail(id int)",
    "CREATE TABLE later(id int, CONSTRAINT once UNIQUE(id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE noisy(id int)",
    "CREATE TABLE kept(id int)",
    "CREATE TABLE child(id int REFERENCES t ON DELETE CASCADE)",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO trail VALUES (1); INSERT INTO trail VALUES (1); RETURN new; END $$",
    "CREATE CONSTRAINT TRIGGER note AFTER INSERT ON noisy DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION note()",
    "CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()",
    'CREATE FUNCTION peek(int) RETURNS int IMMUTABLE LANGUAGE plpgsql SET search_path = "$user" AS'
    " $$ BEGIN PERFORM 1 FROM trail; RETURN $1; END $$",
    "CREATE TABLE wide(a int, b int)",
    "CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO trail VALUES (9); RETURN 1; END $$",
    "CREATE FUNCTION sly(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
    " $$ DECLARE x int; BEGIN x := writes(); RETURN x; END $$",
    "CREATE PROCEDURE halves() LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO trail VALUES (1); COMMIT; PERFORM peek(1); COMMIT; END $$",
)


def simple(*messages: str) -> Work:
    """Messages of the simple protocol, whatever becomes of each."""

    def work(connection: psycopg.Connection) -> None:
        for message in messages:
            send(connection, message)

    return work


def extended(*statements: tuple[str, list[Any]], prepare: bool = False) -> Work:
    """Statements of the extended protocol, whatever becomes of each."""

    def work(connection: psycopg.Connection) -> None:
        for text, parameters in statements:
            try:
                connection.execute(text, parameters, prepare=prepare)
            except psycopg.Error:
                pass

    return work


def pipeline(connection: psycopg.Connection) -> None:
    with connection.pipeline():
        connection.execute("SELECT %s::int", [1])
        connection.execute("INSERT INTO trail VALUES (%s)", [2])
        connection.execute("SELECT 1/%s::int", [0])


def cursor(connection: psycopg.Connection) -> None:
    with connection.transaction(), connection.cursor("c") as named:
        named.execute("SELECT * FROM generate_series(1, 9)")
        named.fetchmany(3)
        named.fetchmany(3)


def copy(table: str) -> Work:
    """Two rows into a table."""

    def work(connection: psycopg.Connection) -> None:
        with connection.cursor().copy(f"COPY {table} FROM STDIN".encode()) as rows:
            rows.write_row((1,))
            rows.write_row((2,))

    return work


def own(message: str, *statements: str) -> list[str]:
    """The texts that the record has of the statements in a message."""
    return [message if WHOLE_MESSAGES else statement for statement in statements]


THREE = "SELECT 1; INSERT INTO trail VALUES (3); SELECT ';'"
EMPTIED = "DELETE FROM trail; COMMIT; SELECT 1/0"
UNPARSED = "INSERT INTO trail VALUES (1); INSERT INTO trail VALUES (nope)"
OTHER_FAILED = "INSERT INTO trail VALUES (1); SELECT nope"
LAST_FAILED = "SELECT 1; INSERT INTO t SELECT 7 FROM generate_series(1, 2)"
NOISY_TWICE = "INSERT INTO noisy VALUES (3); INSERT INTO noisy VALUES (4)"
CAUGHT = "DO $$ BEGIN BEGIN PERFORM 1/0; EXCEPTION WHEN OTHERS THEN INSERT INTO trail VALUES (1); END; END $$"
DROPPING = "DO $$ BEGIN DROP TABLE kept; END $$"
COMMITTING = "DO $$ BEGIN INSERT INTO trail VALUES (1); COMMIT; PERFORM peek(1); PERFORM 1/0; END $$"

CASES: dict[str, tuple[Work, Expected]] = {
    "one": (simple("SELECT 1"), [("SELECT 1", "ok")]),
    "three in a message": (
        simple(THREE),
        [(text, "ok") for text in own(THREE, "SELECT 1", "INSERT INTO trail VALUES (3)", "SELECT ';'")],
    ),
    "committed before the error": (
        simple(EMPTIED),
        [*((text, "ok") for text in own(EMPTIED, "DELETE FROM trail", "COMMIT")), (EMPTIED, "error 22012")],
    ),
    "second does not parse": (
        simple(UNPARSED),
        [*((text, "ok") for text in own(UNPARSED, "INSERT INTO trail VALUES (1)")), (UNPARSED, "error 42703")],
    ),
    "second of another kind fails": (
        simple(OTHER_FAILED),
        [*((text, "ok") for text in own(OTHER_FAILED, "INSERT INTO trail VALUES (1)")), (OTHER_FAILED, "error 42703")],
    ),
    "second fails as it runs": (
        simple(LAST_FAILED),
        [*((text, "ok") for text in own(LAST_FAILED, "SELECT 1")), (LAST_FAILED, "error 23505")],
    ),
    "does not parse": (simple("SELEC 1", "SELECT 1"), [("SELEC 1", "error 42601"), ("SELECT 1", "ok")]),
    "not permitted": (
        simple("SELECT * FROM vaultbrix.tenant"),
        [("SELECT * FROM vaultbrix.tenant", "error 42501")],
    ),
    "fails as it is planned": (simple("SELECT 1/0"), [("SELECT 1/0", "error 22012")]),
    "empty": (simple(";", "", "-- nothing", "SELECT 1"), [("SELECT 1", "ok")]),
    "function": (simple("SELECT writes()"), [("SELECT writes()", "ok")]),
    "trigger": (simple("INSERT INTO t VALUES (100)"), [("INSERT INTO t VALUES (100)", "ok")]),
    "foreign key": (
        simple("INSERT INTO t VALUES (101)", "INSERT INTO child VALUES (101)", "DELETE FROM t WHERE id = 101"),
        [
            ("INSERT INTO t VALUES (101)", "ok"),
            ("INSERT INTO child VALUES (101)", "ok"),
            ("DELETE FROM t WHERE id = 101", "ok"),
        ],
    ),
    "deferred trigger at commit": (
        simple("BEGIN", "INSERT INTO noisy VALUES (1)", "COMMIT"),
        [("BEGIN", "ok"), ("INSERT INTO noisy VALUES (1)", "ok"), ("COMMIT", "ok")],
    ),
    "deferred constraint": (
        simple("INSERT INTO later VALUES (1), (1)", "BEGIN", "INSERT INTO later VALUES (2), (2)", "COMMIT"),
        [
            ("INSERT INTO later VALUES (1), (1)", "error 23505"),
            ("BEGIN", "ok"),
            ("INSERT INTO later VALUES (2), (2)", "ok"),
            ("COMMIT", "error 23505"),
        ],
    ),
    "deferred constraint, extended": (
        extended(("INSERT INTO later VALUES (%s), (1)", [1]), ("SELECT %s::int", [1])),
        [("INSERT INTO later VALUES ($1), (1)", "error 23505"), ("SELECT $1::int", "ok")],
    ),
    "do": (simple("DO $$ BEGIN PERFORM peek(1); END $$"), [("DO $$ BEGIN PERFORM peek(1); END $$", "ok")]),
    "do with a caught error": (simple(CAUGHT), [(CAUGHT, "ok")]),
    "do that commits and fails": (simple(COMMITTING), [(COMMITTING, "error 22012")]),
    "do that does not compile": (simple("DO $$ BEGIN no; END $$"), [("DO $$ BEGIN no; END $$", "error 42601")]),
    "do that drops": (simple(DROPPING), [(DROPPING, "refused VBX01")]),
    "drop": (
        simple("DROP TABLE kept", "TRUNCATE trail"),
        [("DROP TABLE kept", "refused VBX01"), ("TRUNCATE trail", "refused VBX01")],
    ),
    "procedure": (simple("CALL halves()"), [("CALL halves()", "ok")]),
    "ddl that runs functions": (
        simple(
            "CREATE INDEX ON t(peek(id))",
            "CREATE MATERIALIZED VIEW m AS SELECT peek(1)",
            "REFRESH MATERIALIZED VIEW m",
        ),
        [
            ("CREATE INDEX ON t(peek(id))", "ok"),
            ("CREATE MATERIALIZED VIEW m AS SELECT peek(1)", "ok"),
            ("REFRESH MATERIALIZED VIEW m", "ok"),
        ],
    ),
    "table of several objects": (
        simple("CREATE TABLE many(id serial PRIMARY KEY, x int UNIQUE)", "GRANT SELECT ON many TO PUBLIC"),
        [
            ("CREATE TABLE many(id serial PRIMARY KEY, x int UNIQUE)", "ok"),
            ("GRANT SELECT ON many TO PUBLIC", "ok"),
        ],
    ),
    "failed transaction": (
        simple("BEGIN", "SELECT nope", "SELECT 1", "ROLLBACK", "SELECT 2"),
        [
            ("BEGIN", "ok"),
            ("SELECT nope", "error 42703"),
            ("SELECT 1", "error 25P02"),
            ("ROLLBACK", "ok"),
            ("SELECT 2", "ok"),
        ],
    ),
    "savepoint": (
        simple("BEGIN", "SAVEPOINT a", "SELECT 1/0", "ROLLBACK TO a", "SELECT 1", "COMMIT"),
        [
            ("BEGIN", "ok"),
            ("SAVEPOINT a", "ok"),
            ("SELECT 1/0", "error 22012"),
            ("ROLLBACK", "ok"),
            ("SELECT 1", "ok"),
            ("COMMIT", "ok"),
        ],
    ),
    "prepared in SQL": (
        simple(
            "PREPARE p AS SELECT 1/id FROM t WHERE id <> $1",
            "EXECUTE p(0)",
            "INSERT INTO t VALUES (0)",
            "EXECUTE p(1)",
        ),
        [
            ("PREPARE p AS SELECT 1/id FROM t WHERE id <> $1", "ok"),
            ("EXECUTE p(0)", "ok"),
            ("INSERT INTO t VALUES (0)", "ok"),
            ("EXECUTE p(1)", "error 22012"),
        ],
    ),
    "extended": (
        extended(("SELECT %s::int", [1]), ("INSERT INTO trail VALUES (%s)", [1]), ("SELECT 1/%s::int", [0])),
        [("SELECT $1::int", "ok"), ("INSERT INTO trail VALUES ($1)", "ok"), ("SELECT 1/$1::int", "error 22012")],
    ),
    "extended, fails": (
        extended(("INSERT INTO t VALUES (%s)", [100]), ("SELECT nope, %s", [1]), ("DROP TABLE kept", [])),
        [
            ("INSERT INTO t VALUES ($1)", "error 23505"),
            ("SELECT nope, $1", "error 42703"),
            ("DROP TABLE kept", "refused VBX01"),
        ],
    ),
    "prepared by the client": (
        extended(*[("SELECT %s::int", [n]) for n in range(3)], prepare=True),
        [("SELECT $1::int", "ok")] * 3,
    ),
    "pipeline": (
        pipeline,
        [("SELECT $1::int", "ok"), ("INSERT INTO trail VALUES ($1)", "ok"), ("SELECT 1/$1::int", "error 22012")],
    ),
    "cursor": (
        cursor,
        [
            ("BEGIN", "ok"),
            ('DECLARE "c" CURSOR FOR SELECT * FROM generate_series(1, 9)', "ok"),
            *[('FETCH FORWARD 3 FROM "c"', "ok")] * 2,
            ('CLOSE "c"', "ok"),
            ("COMMIT", "ok"),
        ],
    ),
    "copy": (copy("trail"), [("COPY trail FROM STDIN", "ok")]),
    "cancelled": (
        simple("SET statement_timeout = 50", "SELECT pg_sleep(60)", "RESET statement_timeout"),
        [
            ("SET statement_timeout = 50", "ok"),
            ("SELECT pg_sleep(60)", "cancelled 57014"),
            ("RESET statement_timeout", "ok"),
        ],
    ),
}  # fmt: skip


# More than what was sent may be in the record where a message's own text is not certain, but never less.
HIDING: dict[str, tuple[Work, Expected]] = {
    "copy, deferred trigger": (copy("noisy"), [("COPY noisy FROM STDIN", "ok")]),
    "deferred trigger": (simple("INSERT INTO noisy VALUES (1)"), [("INSERT INTO noisy VALUES (1)", "ok")]),
    "deferred triggers of two": (
        simple(NOISY_TWICE),
        [(text, "ok") for text in own(NOISY_TWICE, *NOISY_TWICE.split("; "))],
    ),
    "planned": (simple("SELECT peek(1)"), [("SELECT peek(1)", "ok")]),
    "planned, fails": (
        simple("SELECT peek(1), 1/id FROM t WHERE id = 0", "SELECT peek(1), 1/0"),
        [("SELECT peek(1), 1/id FROM t WHERE id = 0", "error 22012"), ("SELECT peek(1), 1/0", "error 22012")],
    ),
    "planned, writes": (
        simple("INSERT INTO trail VALUES (sly(1))", "INSERT INTO nope VALUES (sly(1))"),
        [("INSERT INTO trail VALUES (sly(1))", "ok"), ("INSERT INTO nope VALUES (sly(1))", "error 42P01")],
    ),
    "planned, extended": (
        extended(("INSERT INTO wide VALUES (sly(1), %s)", [1])),
        [("INSERT INTO wide VALUES (sly(1), $1)", "ok")],
    ),
}
