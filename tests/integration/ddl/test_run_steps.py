"""``vaultbrix ddl run`` of texts that cannot run in one transaction: each statement once, whenever it is killed."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.database import Database, directory
from tests.harness.ddl_job import Job, end, job
from tests.harness.shell import wait_for

from vaultbrix.ddl.gate import passes
from vaultbrix.ddl.plan import plan

numbers = itertools.count(1)

TEXT = (
    "INSERT INTO counted DEFAULT VALUES;\nCREATE INDEX CONCURRENTLY by_v ON victim(v);\n"
    "ALTER TABLE victim DROP COLUMN id;\nDROP INDEX CONCURRENTLY by_v"
)


@pytest.fixture
def place() -> Iterator[Path]:
    with directory() as path:
        yield path


@pytest.fixture
def role(database: Database) -> str:
    """A tenant with a table to count runs in and one to change."""
    role = database.tenant(f"s{next(numbers)}")
    with database.login(role) as session:
        session.execute("CREATE TABLE counted(at timestamptz DEFAULT clock_timestamp())")
        session.execute("CREATE TABLE victim(id int, v text)")
        session.execute("INSERT INTO victim VALUES (1, 'a'), (2, 'a')")
    return role


def steps(database: Database, made: Job) -> dict[int, bool]:
    found: dict[int, bool] = database.admin(passes.steps, made.pass_id)
    return found


def test_each_statement_runs_once_as_the_tenant_and_has_its_own_row(database: Database, role: str, place: Path) -> None:
    made = job(database, role, place, TEXT)
    code, process = made.run()
    assert (code, made.termination.read_text()) == (0, ""), process.text()
    assert steps(database, made) == dict.fromkeys((1, 2, 3, 4), True)
    assert made.run()[0] == 0
    assert (made.count(), made.columns()) == (1, ["v"])
    assert not database.admin(passes.committed, made.pass_id)


def test_what_ran_before_a_failure_stays_and_is_told(database: Database, role: str, place: Path) -> None:
    text = "INSERT INTO counted DEFAULT VALUES;\nCREATE UNIQUE INDEX CONCURRENTLY u ON victim(v);\nDROP TABLE victim"
    made = job(database, role, place, text)
    assert made.run()[0] == 3
    assert (made.error()["sqlstate"], made.error()["statement"]) == ("23505", 2)
    assert steps(database, made) == {1: True, 2: False}
    assert (made.count(), made.columns()) == (1, ["id", "v"])
    invalid = "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass"
    assert database.postgres.query(invalid, [f"{role}.u"]) == [(False,)]
    assert made.run()[0] == 3
    assert (made.error()["sqlstate"], made.error()["statement"]) == ("", 2)
    assert made.count() == 1


def test_killed_in_a_statement_that_can_be_rolled_back_it_goes_on_there(
    database: Database, role: str, place: Path
) -> None:
    made = job(database, role, place, TEXT)
    with database.postgres.connect() as holder:
        # Of the index's building: the ALTER after it waits for a reader.
        holder.execute("BEGIN")
        holder.execute(f"SELECT 1 FROM {role}.victim".encode())
        process = made.start()
        blocked = "wait_event_type = 'Lock' AND query LIKE 'ALTER%%'"
        wait_for("the ALTER waits", lambda: made.sessions(blocked), tell=process.text)
        process.kill()
        holder.execute("ROLLBACK")
    wait_for("its session is gone", lambda: not made.sessions())
    assert steps(database, made) == {1: True, 2: True}
    assert made.run()[0] == 0
    assert (made.count(), made.columns()) == (1, ["v"])


@pytest.mark.parametrize("end_of", ["process", "server"])
def test_killed_in_a_statement_that_cannot_be_rolled_back_it_is_not_run_again(
    database: Database, role: str, place: Path, end_of: str
) -> None:
    made = job(database, role, place, TEXT)
    holder = database.postgres.connect()
    holder.execute("BEGIN")
    # CREATE INDEX CONCURRENTLY waits for whoever writes the table.
    holder.execute(f"INSERT INTO {role}.victim VALUES (3, 'b')".encode())
    process = made.start()
    wait_for("it builds", lambda: made.sessions("wait_event_type = 'Lock'"), tell=process.text)
    if end_of == "process":
        process.kill()
        holder.close()
        wait_for("its session is gone", lambda: not made.sessions())
    else:
        database.postgres.crash()
        database.postgres.start()
        assert end(process) == 1
    assert made.run()[0] == 3
    assert (made.error()["sqlstate"], made.error()["statement"]) == ("", 2)
    assert steps(database, made) == {1: True, 2: False}
    assert (made.count(), made.columns()) == (1, ["id", "v"])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("DROP INDEX CONCURRENTLY by_v", {"by_v"}),
        ("REINDEX TABLE CONCURRENTLY victim", {"by_v_ccnew"}),
        ("REINDEX INDEX CONCURRENTLY by_v", {"by_v_ccnew"}),
        ("CREATE INDEX CONCURRENTLY other ON victim(v)", {"other"}),
    ],
)
def test_one_that_is_ended_in_the_middle_leaves_what_is_said_of_it(
    database: Database, role: str, place: Path, text: str, left: set[str]
) -> None:
    with database.login(role) as session:
        session.execute("CREATE INDEX by_v ON victim(v)")
    made = job(database, role, place, text)
    with database.postgres.connect() as holder:
        holder.execute("BEGIN")
        holder.execute(f"INSERT INTO {role}.victim VALUES (3, 'b')".encode())
        process = made.start()
        wait_for("it waits for the writer", lambda: made.sessions("wait_event_type = 'Lock'"), tell=process.text)
        database.postgres.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [made.login]
        )
        end(process)
        holder.execute("ROLLBACK")
    invalid = (
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class c ON c.oid = indrelid"
        " WHERE NOT indisvalid AND relnamespace = %s::regnamespace"
    )
    found = {str(row[0]).removeprefix(f"{role}.") for row in database.postgres.query(invalid, [role])}
    assert found == left
    (said,) = plan(text).left
    assert all(name.removesuffix("_ccnew") in said or "indexes of victim" in said for name in left)
    assert made.run()[0] == 3
    assert (made.error()["sqlstate"], made.error()["statement"]) == ("", 1)


def test_postgresql_that_restarts_in_the_middle_of_a_transaction_leaves_nothing_and_it_runs_once(
    database: Database, role: str, place: Path
) -> None:
    made = job(database, role, place)
    holder = database.postgres.connect()
    holder.execute("BEGIN")
    holder.execute(f"LOCK TABLE {role}.victim".encode())
    process = made.start()
    wait_for("it waits for the lock", lambda: made.sessions("wait_event_type = 'Lock'"), tell=process.text)
    database.postgres.crash()
    database.postgres.start()
    assert end(process) == 1
    assert (made.count(), made.columns()) == (0, ["id", "v"])
    assert made.run()[0] == 0
    assert (made.count(), made.columns()) == (1, ["id"])


def test_a_statement_that_changes_the_role_changes_it_for_itself_only(
    database: Database, role: str, place: Path
) -> None:
    with database.login(role) as session:
        session.execute("CREATE FUNCTION resets() RETURNS void LANGUAGE plpgsql AS 'BEGIN RESET ROLE; END'")
    made = job(database, role, place, f"SELECT {role}.resets();\nCREATE TABLE {role}.made(id int);\nVACUUM {role}.made")
    code, process = made.run()
    assert code == 0, process.text()
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = %s::regclass"
    assert database.postgres.query(owner, [f"{role}.made"]) == [(role,)]
