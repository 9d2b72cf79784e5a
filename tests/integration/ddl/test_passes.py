"""A pass lets the approved text through: exactly that, once, in order, for its login, while it lasts."""

import itertools
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from tests.harness.database import PASSWORD, Database, send
from tests.harness.shell import run, wait_for

from vaultbrix.ddl.gate import passes
from vaultbrix.ddl.plan import plan

HOUR = timedelta(hours=1)
THREE = ("DROP TABLE one", "ALTER /* a; b */ TABLE two\n  ADD COLUMN x int", "TRUNCATE three")
TEXT = ";\n".join(THREE) + ";"

numbers = itertools.count(1)


@pytest.fixture
def role(database: Database) -> str:
    """A tenant with three tables."""
    role = database.tenant(f"p{next(numbers)}")
    with database.login(role) as connection:
        for name in ("one", "two", "three"):
            connection.execute(f"CREATE TABLE {name}(id int)".encode())
            connection.execute(f"INSERT INTO {name} VALUES (1)".encode())
    return role


@pytest.fixture
def session(database: Database, role: str) -> Iterator[psycopg.Connection]:
    with database.login(role) as connection:
        yield connection


def approve(database: Database, role: str, text: str, *, login: str = "", lasting: timedelta = HOUR) -> str:
    pass_id = str(uuid4())
    expires = datetime.now(UTC) + lasting
    database.admin(
        passes.issue_pass, pass_id=pass_id, role=role, login=login or role, approved_by="pat", expires_at=expires,
        plan=plan(text),
    )  # fmt: skip
    return pass_id


def code(result: psycopg.pq.abc.PGresult) -> str:
    return (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()


def codes(session: psycopg.Connection, *messages: str) -> list[str]:
    return [code(send(session, message)) for message in messages]


def tables(database: Database, role: str) -> list[str]:
    return [
        row[0]
        for row in database.postgres.query(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = %s ORDER BY 1", [role]
        )
    ]


@pytest.mark.parametrize(
    "messages",
    [
        [TEXT],
        list(THREE),
        [";\n".join(THREE[:2]), THREE[2]],
        [THREE[0], ";\n".join(THREE[1:])],
        [text + ";\r\n" for text in THREE],
        ["BEGIN", *THREE, "COMMIT"],
    ],
    ids=["whole", "each", "two and one", "one and two", "line ends", "transaction"],
)
def test_the_text_runs_once_however_a_client_cuts_it(
    database: Database, role: str, session: psycopg.Connection, messages: list[str]
) -> None:
    assert set(codes(session, *THREE)) == {"VBX01"}
    approve(database, role, TEXT)
    assert codes(session, *messages) == [""] * len(messages)
    assert tables(database, role) == ["three", "two"]
    with database.login(role) as again:
        again.execute("CREATE TABLE one(id int)")
        database.postgres.query(f"ALTER TABLE {role}.two DROP COLUMN x")
        assert codes(again, *THREE) == ["VBX01"] * 3


def test_psql_may_run_the_approved_file_with_all_its_comments(database: Database, role: str) -> None:
    text = (
        "-- CHG-1\nDROP TABLE one; -- first\n\n"
        "/* second */\nALTER TABLE two ADD COLUMN x int;\n"
        "-- third\nTRUNCATE three;\n"
    )
    approve(database, role, text)
    url = f"host=127.0.0.1 port={database.postgres.port} dbname=postgres user={role} sslmode=require"
    environment = {"PGPASSWORD": PASSWORD}
    done = run("psql", "-X", "-v", "ON_ERROR_STOP=1", "-f", "-", url, input_text=text, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert tables(database, role) == ["three", "two"]


def test_the_order_is_part_of_the_approval(database: Database, role: str, session: psycopg.Connection) -> None:
    approve(database, role, TEXT)
    again = "CREATE TABLE one()"
    assert codes(session, THREE[1], THREE[2], THREE[0], again, THREE[0], THREE[2], THREE[1], THREE[2]) == [
        "VBX01", "VBX01", "", "", "VBX01", "VBX01", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE two",
        "DROP  TABLE one",
        "drop table one",
        "DROP TABLE one CASCADE",
        "DROP TABLE one, two",
        "SELECT 1; DROP TABLE one",
        "DROP TABLE one; SELECT 1",
        "-- approved\nDROP TABLE one",
        "DO $$ BEGIN DROP TABLE one; END $$",
        "DO $$ BEGIN EXECUTE 'DROP TABLE one'; END $$",
    ],
)
def test_another_text_is_refused(database: Database, role: str, session: psycopg.Connection, text: str) -> None:
    approve(database, role, "DROP TABLE one")
    assert codes(session, text) == ["VBX01"]
    assert tables(database, role) == ["one", "three", "two"]
    assert codes(session, "DROP TABLE one") == [""]


def test_a_comment_that_tracing_appends_makes_another_text_and_leaves_the_approval_unused(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    text = "ALTER TABLE one DROP COLUMN id"
    pass_id = approve(database, role, text)
    traced = [f"{text} /*traceparent='00-{n:032x}-{n:016x}-01'*/" for n in range(1, 4)]
    assert codes(session, *traced) == ["VBX01"] * 3
    use = database.admin(passes.use_of, pass_id)
    assert use is not None
    assert (use.next_stmt, use.complete) == (1, False)
    assert codes(session, text, text) == ["", "42703"]


def detail(session: psycopg.Connection, message: str) -> str:
    result = send(session, message)
    assert code(result) == "VBX01"
    return (result.error_field(psycopg.pq.DiagnosticField.MESSAGE_DETAIL) or b"").decode()


def test_two_approvals_of_one_text_in_one_transaction_are_two_uses_and_a_third_names_what_it_would_lose(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    for _ in range(2):
        approve(database, role, "TRUNCATE three")
    assert codes(session, "BEGIN", "TRUNCATE three", "TRUNCATE three") == [""] * 3
    assert detail(session, "TRUNCATE three").endswith(f"it would empty table {role}.three")
    assert codes(session, "ROLLBACK", "TRUNCATE three", "TRUNCATE three", "TRUNCATE three") == ["", "", "", "VBX01"]


def test_a_message_whose_first_half_is_free_names_what_the_second_would_lose_and_leaves_nothing(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    assert f"it would lose table {role}.two, " in detail(session, "CREATE TABLE made(id int); DROP TABLE two")
    assert tables(database, role) == ["one", "three", "two"]


def test_an_approved_text_that_loses_more_by_now_names_it_and_leaves_the_approval_unused(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    text, pass_id = "DROP TABLE one CASCADE", str(uuid4())
    shown = [f"table {role}.one", f"type {role}.one", f"type {role}.one[]"]
    database.admin(
        passes.issue_pass, pass_id=pass_id, role=role, login=role, approved_by="pat",
        expires_at=datetime.now(UTC) + HOUR, plan=plan(text), expect_drops=shown,
    )  # fmt: skip
    session.execute("CREATE VIEW grown AS SELECT id FROM one")
    assert "view " in (told := detail(session, text))
    assert f"{role}.grown" in told
    use = database.admin(passes.use_of, pass_id)
    assert use is not None
    assert use.next_stmt == 1
    database.postgres.query(f"DROP VIEW {role}.grown")
    assert codes(session, text) == [""]


def test_a_text_that_hides_the_change_in_a_block_is_refused_even_if_approved(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    text = "DO $$ BEGIN DROP TABLE one; END $$"
    approve(database, role, text)
    assert codes(session, text) == ["VBX01"]


def test_another_login_or_tenant_cannot_use_it(database: Database, role: str, session: psycopg.Connection) -> None:
    member, stranger = f"{role}_member", database.tenant(f"p{next(numbers)}")
    database.postgres.query(f"CREATE ROLE {member} LOGIN PASSWORD '{PASSWORD}' IN ROLE {role}")
    approve(database, role, f"DROP TABLE {role}.one")
    database.postgres.query(f"GRANT {role} TO {stranger}")
    # A tenant's role does not inherit, so PostgreSQL itself refuses before the gate has to.
    for login, state in ((member, "VBX01"), (stranger, "42501")):
        with database.login(login) as other:
            assert codes(other, f"DROP TABLE {role}.one") == [state]
            assert codes(other, f"SET ROLE {role}", f"DROP TABLE {role}.one") == ["", "VBX01"]
    database.postgres.query(f"REVOKE {role} FROM {stranger}")
    assert codes(session, f"DROP TABLE {role}.one") == [""]


def test_a_pass_of_one_tenant_opens_nothing_of_another(database: Database, role: str) -> None:
    stranger = database.tenant(f"p{next(numbers)}")
    approve(database, stranger, "DROP TABLE one", login=role)
    with database.login(role) as session:
        assert codes(session, "DROP TABLE one") == ["VBX01"]


def test_an_expired_pass_is_worth_nothing(database: Database, role: str, session: psycopg.Connection) -> None:
    approve(database, role, "DROP TABLE one", lasting=timedelta(0))
    assert codes(session, "DROP TABLE one") == ["VBX01"]


def test_expiry_looks_at_the_clock_not_at_the_transaction(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    pass_id = approve(database, role, "DROP TABLE one")
    send(session, "BEGIN")
    database.postgres.query(
        "UPDATE vaultbrix.ddl_pass SET expires_at = clock_timestamp() WHERE pass_id = %s", [pass_id]
    )
    assert codes(session, "DROP TABLE one") == ["VBX01"]


def test_a_revoked_pass_is_worth_nothing_and_stays_as_a_record(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    pass_id = approve(database, role, TEXT)
    assert codes(session, THREE[0]) == [""]
    database.admin(passes.revoke_pass, pass_id)
    assert codes(session, THREE[1]) == ["VBX01"]
    used = database.postgres.query("SELECT tag, session_role FROM vaultbrix.ddl_pass_use WHERE pass_id = %s", [pass_id])
    assert used == [("DROP TABLE", role)]


def test_issuing_it_again_does_not_give_back_what_was_used(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    pass_id = approve(database, role, "TRUNCATE one")
    assert codes(session, "TRUNCATE one") == [""]
    database.admin(
        passes.issue_pass, pass_id=pass_id, role=role, login=role, approved_by="pat",
        expires_at=datetime.now(UTC) + HOUR, plan=plan("TRUNCATE one"),
    )  # fmt: skip
    assert codes(session, "TRUNCATE one") == ["VBX01"]


@pytest.mark.parametrize("undo", [["ROLLBACK"], ["ROLLBACK TO a", "COMMIT"], ["SELECT 1/0", "COMMIT"]])
def test_a_rollback_gives_the_use_back(
    database: Database, role: str, session: psycopg.Connection, undo: list[str]
) -> None:
    approve(database, role, "DROP TABLE one")
    assert codes(session, "BEGIN", "SAVEPOINT a", "DROP TABLE one") == ["", "", ""]
    codes(session, *undo)
    assert tables(database, role) == ["one", "three", "two"]
    assert codes(session, "DROP TABLE one") == [""]
    assert tables(database, role) == ["three", "two"]


def test_two_sessions_at_once_use_it_once(database: Database, role: str, session: psycopg.Connection) -> None:
    approve(database, role, "TRUNCATE one")
    assert codes(session, "BEGIN", "TRUNCATE one") == ["", ""]
    found: list[str] = []
    with database.login(role) as second:
        thread = threading.Thread(target=lambda: found.extend(codes(second, "TRUNCATE one")))
        thread.start()
        try:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
            wait_for("the second waits", lambda: database.postgres.query(waiting, [second.info.backend_pid]))
        finally:
            codes(session, "COMMIT")
            thread.join()
    assert found == ["VBX01"]


def test_a_text_read_by_other_rules_is_not_the_approved_one(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    approve(database, role, "DROP TABLE one")
    assert codes(session, "SET standard_conforming_strings = off", "DROP TABLE one") == ["", "VBX01"]
    assert codes(session, "RESET standard_conforming_strings", "DROP TABLE one") == ["", ""]


def test_a_superuser_is_not_held_up(database: Database, role: str) -> None:
    database.postgres.query(f"ALTER TABLE {role}.one ADD COLUMN y int")
    database.postgres.query(f"TRUNCATE {role}.one")
    database.postgres.query(f"DROP TABLE {role}.one")
    assert tables(database, role) == ["three", "two"]


def test_an_approved_change_leaves_new_tables_guarded(
    database: Database, role: str, session: psycopg.Connection
) -> None:
    text = "ALTER TABLE three RENAME TO renamed"
    approve(database, role, text)
    assert codes(session, text, "TRUNCATE renamed") == ["", "VBX01"]
