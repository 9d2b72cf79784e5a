"""The gate by effect: what loses nothing of before is free, and is a step of an approved text all the same."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from tests.harness.database import Database, send

from vaultbrix.ddl.gate import passes, schema
from vaultbrix.ddl.plan import plan

numbers = itertools.count(1)
GONE = (
    "DROP INDEX IF EXISTS nope",
    "DROP TABLE IF EXISTS nope CASCADE",
    "DROP FUNCTION IF EXISTS nope(int)",
    "DROP TRIGGER IF EXISTS nope ON u",
    "DROP TRIGGER IF EXISTS nope ON nowhere",
    "DROP POLICY IF EXISTS nope ON u",
    "DROP RULE IF EXISTS nope ON u",
    "DROP TYPE IF EXISTS nope",
    "DROP SEQUENCE IF EXISTS nope",
    "DROP VIEW IF EXISTS nope",
    "DROP MATERIALIZED VIEW IF EXISTS nope",
    "DROP DOMAIN IF EXISTS nope",
    "DROP STATISTICS IF EXISTS nope",
    "DROP AGGREGATE IF EXISTS nope(int)",
    "DROP PROCEDURE IF EXISTS nope(int)",
    "DROP EXTENSION IF EXISTS nope",
    "DROP SCHEMA IF EXISTS nope",
    "ALTER TABLE IF EXISTS nope ADD COLUMN x int",
    "ALTER TABLE IF EXISTS nope RENAME TO other",
    "ALTER VIEW IF EXISTS nope RENAME TO other",
    "ALTER SEQUENCE IF EXISTS nope RESTART",
    "ALTER INDEX IF EXISTS nope RENAME TO other",
    "ALTER TABLE u DROP COLUMN IF EXISTS nope",
    "ALTER TABLE u DROP CONSTRAINT IF EXISTS nope, DROP COLUMN IF EXISTS nope",
    "ALTER TABLE u ADD COLUMN IF NOT EXISTS name text",
    "ALTER TABLE u ALTER COLUMN name DROP DEFAULT",
    "DO $$ BEGIN ALTER TABLE u DROP COLUMN IF EXISTS nope; END $$",
    "ALTER TABLE u VALIDATE CONSTRAINT valid",
    "DO $$ BEGIN DROP TABLE IF EXISTS nope; ALTER TABLE IF EXISTS nope ADD COLUMN x int; END $$",
)
# As they are sent one by one in a session; a table of the same name lasts.
TEMPORARY = (
    'DROP TABLE IF EXISTS "#Tableau_1_Connect"',
    'DROP TABLE IF EXISTS pg_temp."#Tableau_1_Connect"',
    'CREATE LOCAL TEMPORARY TABLE "#Tableau_1_Connect"(id serial, at timestamptz DEFAULT now())'
    " ON COMMIT PRESERVE ROWS",
    'INSERT INTO "#Tableau_1_Connect" VALUES (1)',
    'CREATE INDEX ON "#Tableau_1_Connect"(id)',
    'ALTER TABLE "#Tableau_1_Connect" ADD COLUMN x int',
    'ALTER TABLE "#Tableau_1_Connect" ALTER COLUMN at DROP DEFAULT',
    'TRUNCATE "#Tableau_1_Connect"',
    'DROP TABLE "#Tableau_1_Connect"',
    'DROP TABLE IF EXISTS "#Tableau_1_Connect"',
    "CREATE TEMP TABLE u(id int)",
    "ALTER TABLE u RENAME TO v",
    "DROP TABLE v",
)
MADE = (
    "CREATE TABLE made(id serial PRIMARY KEY, a text DEFAULT 'x' CHECK (a <> ''), r int REFERENCES u)",
    "CREATE INDEX made_i ON made(a)",
    "CREATE VIEW made_v AS SELECT id FROM made",
    "CREATE POLICY made_p ON made USING (true)",
    "CREATE TYPE made_e AS ENUM ('a')",
    "CREATE FUNCTION made_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$",
    "CREATE TRIGGER made_t BEFORE INSERT ON made FOR EACH ROW EXECUTE FUNCTION made_f()",
    "CREATE RULE made_r AS ON DELETE TO made DO INSTEAD NOTHING",
    "ALTER TABLE made ADD COLUMN z bigint, ALTER COLUMN a TYPE varchar, DROP COLUMN r",
    "ALTER TABLE made ADD FOREIGN KEY (id) REFERENCES u ON DELETE CASCADE",
    "ALTER TYPE made_e RENAME TO made_n",
    "ALTER INDEX made_i RENAME TO made_j",
    "ALTER SEQUENCE made_id_seq RESTART WITH 5",
    "ALTER TRIGGER made_t ON made RENAME TO made_s",
    "ALTER POLICY made_p ON made USING (false)",
    "ALTER TABLE made DISABLE TRIGGER USER",
    "ALTER VIEW made_v RENAME TO made_w",
    "INSERT INTO u VALUES (5)",
    "INSERT INTO made(a) VALUES ('y')",
    "TRUNCATE made",
    "DROP TRIGGER made_s ON made",
    "DROP INDEX made_j",
    "CREATE INDEX on_u ON u(username)",
    "DROP INDEX on_u",
    "ALTER TABLE made RENAME TO made_2",
    "DROP TABLE made_2 CASCADE",
    "DROP FUNCTION made_f()",
    "DROP TYPE made_n",
)


@pytest.fixture
def role(database: Database) -> str:
    role = database.tenant(f"e{next(numbers)}")
    with database.login(role) as connection:
        connection.execute(
            "CREATE TABLE u(id int PRIMARY KEY CONSTRAINT valid CHECK (id > 0), username text, name text, email text)"
        )
        connection.execute("CREATE TABLE orders(id int, total int, legacy text)")
    return role


@pytest.fixture
def session(database: Database, role: str) -> Iterator[psycopg.Connection]:
    with database.login(role) as connection:
        yield connection


def approve(database: Database, role: str, text: str, **more: object) -> str:
    pass_id, expires = str(uuid4()), datetime.now(UTC) + timedelta(hours=1)
    database.admin(
        passes.issue_pass, pass_id=pass_id, role=role, login=role, approved_by="pat", expires_at=expires,
        plan=plan(text), **more,
    )  # type: ignore[arg-type]  # fmt: skip
    return pass_id


def code(session: psycopg.Connection, message: str) -> str:
    result = send(session, message)
    return (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()


def detail(session: psycopg.Connection, message: str) -> str:
    result = send(session, message)
    return (result.error_field(psycopg.pq.DiagnosticField.MESSAGE_DETAIL) or b"").decode()


@pytest.mark.parametrize("statement", GONE)
def test_what_is_not_there_may_be_dropped_and_altered(session: psycopg.Connection, statement: str) -> None:
    assert code(session, statement) == ""
    assert code(session, statement) == ""


@pytest.mark.parametrize("additive", [False, True])
def test_temporary_tables_are_free_at_any_point_of_a_session(
    database: Database, role: str, session: psycopg.Connection, additive: bool
) -> None:
    if additive:
        database.postgres.query("INSERT INTO vaultbrix.additive_role VALUES (%s)", [role])
    for statement in TEMPORARY:
        assert code(session, statement) == "", statement
    assert code(session, f"CREATE TEMP TABLE u(id int); DROP TABLE {role}.u") == "VBX01"


def test_what_a_transaction_made_is_its_own(database: Database, role: str, session: psycopg.Connection) -> None:
    before = database.postgres.query(
        "SELECT oid FROM pg_class WHERE relnamespace = %s::regnamespace ORDER BY 1", [role]
    )
    assert code(session, "BEGIN") == ""
    for statement in MADE:
        assert code(session, statement) == "", statement
    assert code(session, "COMMIT") == ""
    after = database.postgres.query("SELECT oid FROM pg_class WHERE relnamespace = %s::regnamespace ORDER BY 1", [role])
    assert after == before
    assert code(session, "BEGIN; CREATE TABLE kept(id int); ALTER TABLE kept DISABLE TRIGGER ALL; COMMIT") == ""
    assert code(session, "TRUNCATE kept") == "VBX01", "it has its guard"
    assert code(session, "DROP TABLE kept") == "VBX01", "it was there before this transaction"


def test_the_operators_look_forgets_what_ended_transactions_made(
    database: Database, session: psycopg.Connection
) -> None:
    assert code(session, "CREATE TABLE made(id int)") == ""
    database.admin(schema.tidy)
    assert database.postgres.query("SELECT FROM vaultbrix.made") == []


@pytest.mark.parametrize("first", ["DROP INDEX IF EXISTS u_username_idx", *GONE[2:8]])
@pytest.mark.parametrize("cut", [(0, 1, 2, 3), (0, 2, 3), (0,)], ids=["each alone", "two in one", "as one"])
def test_a_step_that_loses_nothing_uses_its_place(
    database: Database, role: str, session: psycopg.Connection, first: str, cut: tuple[int, ...]
) -> None:
    steps = [
        first,
        "CREATE UNIQUE INDEX IF NOT EXISTS u_username_idx ON u(username)",
        "ALTER TABLE u DROP COLUMN IF EXISTS name",
        "ALTER TABLE u DROP COLUMN IF EXISTS email",
    ]
    pass_id = approve(database, role, ";\n".join(steps))
    for start, stop in itertools.pairwise((*cut, len(steps))):
        assert code(session, ";\n".join(steps[start:stop])) == ""
    use = database.admin(passes.use_of, pass_id)
    assert use is not None and use.complete
    columns = "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    assert database.postgres.query(columns, [f"{role}.u"]) == [("id",), ("username",)]


def test_temporary_steps_of_an_approved_text_hold_nobody_up(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    steps = (
        "CREATE TEMP TABLE staging AS SELECT id, max(total) AS t FROM orders GROUP BY id",
        "ALTER TABLE staging ADD COLUMN seen boolean",
        "TRUNCATE staging",
        "DROP TABLE staging",
        "ALTER TABLE orders DROP COLUMN legacy",
    )
    pass_id = approve(database, role, ";\n".join(steps))
    assert [code(session, step) for step in steps] == [""] * 5
    use = database.admin(passes.use_of, pass_id)
    assert use is not None and use.complete and use.gated == (2, 4, 5)


def test_a_step_of_before_may_still_not_be_left_out(database: Database, role: str, session: psycopg.Connection) -> None:
    steps = ("DROP TABLE IF EXISTS nope", "ALTER TABLE u DROP COLUMN name", "ALTER TABLE u DROP COLUMN email")
    approve(database, role, "; ".join(steps))
    assert code(session, steps[2]) == "VBX01"
    assert [code(session, step) for step in steps] == [""] * 3
    assert code(session, "DROP TABLE IF EXISTS nope") == "", "free, approved or not"


ADDITIONS = (
    'ALTER TABLE "order-items" ADD COLUMN note text',
    'ALTER TABLE "Order Details" ADD COLUMN note text',
    'ALTER TABLE "a.b" ADD COLUMN "Net a Payer" numeric',
    "ALTER TYPE \"ship-status\" ADD VALUE 'sent'",
    "ALTER TABLE IF EXISTS no_such_table ADD COLUMN note text",
    "BEGIN; SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE post ADD COLUMN note text; COMMIT",
)


def test_additions_to_names_of_any_shape_and_beside_set_constraints(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    for name in ("order-items", "Order Details", "a.b"):
        assert code(session, f'CREATE TABLE "{name}"(id int)') == ""
    assert code(session, "CREATE TYPE \"ship-status\" AS ENUM ('new')") == ""
    assert code(session, "CREATE TABLE post(id int REFERENCES u DEFERRABLE INITIALLY DEFERRED)") == ""
    database.postgres.query("INSERT INTO vaultbrix.additive_role VALUES (%s)", [role])
    for statement in ADDITIONS:
        assert code(session, statement) == "", statement
    assert "not merely additive: class" in detail(session, 'ALTER TABLE "order-items" RENAME TO x')


@pytest.mark.parametrize(
    ("statement", "lost"),
    [
        ("DROP TABLE orders", "it would lose table {role}.orders"),
        ("ALTER TABLE orders DROP COLUMN legacy", "it would lose table column {role}.orders.legacy"),
        ("ALTER TABLE orders RENAME TO x", "it would alter table {role}.orders"),
        ("TRUNCATE orders", "it would empty table {role}.orders"),
        ("DO $$ BEGIN DROP TABLE orders; END $$", "it would lose table {role}.orders"),
    ],
)
def test_a_refusal_names_what_would_be_lost(role: str, session: psycopg.Connection, statement: str, lost: str) -> None:
    assert lost.format(role=role) in detail(session, f"SET search_path = pg_temp, {role}; {statement}")


def test_a_materialised_view_is_refreshed_in_every_form(session: psycopg.Connection) -> None:
    statements = (
        "CREATE MATERIALIZED VIEW m AS SELECT id FROM u",
        "CREATE UNIQUE INDEX ON m(id)",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS"
        " $$ BEGIN REFRESH MATERIALIZED VIEW CONCURRENTLY m; END $$",
        "CREATE FUNCTION g() RETURNS void LANGUAGE sql AS $$ SELECT f() $$",
        "REFRESH MATERIALIZED VIEW m",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
        "SELECT f()",
        "SELECT g()",
        "DO $$ BEGIN PERFORM g(); REFRESH MATERIALIZED VIEW CONCURRENTLY m; END $$",
        "BEGIN; SAVEPOINT s; SELECT g(); RELEASE s; REFRESH MATERIALIZED VIEW CONCURRENTLY m; COMMIT",
    )
    for statement in statements:
        assert code(session, statement) == "", statement


def test_an_index_is_dropped_beside_its_readers_only_by_approval(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    """Half of it is committed before its effect is known."""
    assert code(session, "CREATE INDEX by_name ON u(name)") == ""
    assert code(session, "DROP INDEX CONCURRENTLY by_name") == "VBX01"
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass"
    assert database.postgres.query(query, [f"{role}.by_name"]) == [(True,)]
    approve(database, role, "DROP INDEX CONCURRENTLY by_name")
    assert code(session, "DROP INDEX CONCURRENTLY by_name") == ""
