"""Passes beyond one transaction of a Job: rehearsals, expected effects, sessions of the tenant's own, steps."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from tests.harness.database import PASSWORD, Database, send

from vaultbrix.ddl.gate import logins, passes
from vaultbrix.ddl.plan import plan

HOUR = timedelta(hours=1)
numbers = itertools.count(1)


class Place:
    """A tenant with tables, and a session of its."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.role = database.tenant(f"r{next(numbers)}")
        self.session = database.login(self.role)
        self.codes(
            "CREATE TABLE one(id int PRIMARY KEY, v text)", "CREATE INDEX by_v ON one(v)", "INSERT INTO one VALUES (1)",
            "CREATE VIEW look AS SELECT id FROM one", "CREATE TABLE two(id int)", "INSERT INTO two VALUES (1)",
            "CREATE PROCEDURE drops() LANGUAGE plpgsql AS $$ BEGIN DROP VIEW look; END $$",
        )  # fmt: skip

    def approve(self, text: str, *, login: str | None = "", lasting: timedelta = HOUR, **more: Any) -> str:
        pass_id = str(uuid4())
        self.database.admin(
            passes.issue_pass, pass_id=pass_id, role=self.role, login=self.role if login == "" else login,
            approved_by="pat", expires_at=datetime.now(UTC) + lasting, plan=plan(text), **more,
        )  # fmt: skip
        return pass_id

    def codes(self, *messages: str, session: psycopg.Connection | None = None) -> list[str]:
        results = [send(session or self.session, message) for message in messages]
        return [(r.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode() for r in results]

    def ask(self, query: str, session: psycopg.Connection | None = None) -> list[Any]:
        return [row[0] for row in (session or self.session).execute(query.encode()).fetchall()]

    def dropped(self, pass_id: str) -> list[str]:
        return [name.replace(self.role, "r") for name in self.ask(f"SELECT vaultbrix.dropped('{pass_id}')")]


@pytest.fixture
def place(database: Database) -> Iterator[Place]:
    made = Place(database)
    yield made
    made.session.close()


def test_a_rehearsal_shows_the_effect_and_cannot_be_committed(place: Place) -> None:
    text = "DROP TABLE one CASCADE;\nTRUNCATE two;\nALTER TABLE two ADD COLUMN x int"
    pass_id = place.approve(text, rehearsal=True)
    first, second, third = text.split(";\n")
    assert place.codes("BEGIN", first, second, third) == [""] * 4
    dropped = place.dropped(pass_id)
    assert {"table r.one", "view r.look", "index r.by_v", "truncate r.two"} <= set(dropped)
    assert not [name for name in dropped if "vaultbrix" in name]
    assert place.codes("COMMIT") == ["VBX04"]
    assert place.ask("SELECT id FROM one") == place.ask("SELECT id FROM two") == place.ask("SELECT id FROM look") == [1]
    assert place.dropped(pass_id) == []
    used = place.database.admin(passes.use_of, pass_id)
    assert used is not None
    assert (used.next_stmt, used.used_at, used.complete) == (1, None, False)


def test_a_rehearsal_may_be_repeated_while_it_lasts(place: Place) -> None:
    place.approve("DROP TABLE two", rehearsal=True)
    for _ in range(3):
        assert place.codes("BEGIN", "DROP TABLE two", "ROLLBACK") == ["", "", ""]


def test_the_real_run_may_drop_what_the_rehearsal_dropped_and_nothing_more(place: Place) -> None:
    text = "DROP TABLE one CASCADE"
    rehearsal = place.approve(text, rehearsal=True)
    place.codes("BEGIN", text)
    expected = place.ask(f"SELECT vaultbrix.dropped('{rehearsal}')")
    place.codes("ROLLBACK")
    place.database.admin(passes.revoke_pass, rehearsal)
    place.approve(text, expect_drops=expected)
    assert place.codes("CREATE VIEW grown AS SELECT v FROM one", text) == ["", "VBX01"]
    place.database.postgres.query(f"DROP VIEW {place.role}.grown")
    assert place.codes(text) == [""]


def test_what_is_emptied_counts_as_dropped(place: Place) -> None:
    place.approve("TRUNCATE two", expect_drops=[])
    assert place.codes("TRUNCATE two") == ["VBX01"]


def test_everything_that_one_message_drops_is_recorded(place: Place) -> None:
    text = "DROP VIEW look;\nDROP INDEX by_v;\nTRUNCATE two, one"
    pass_id = place.approve(text)
    assert place.codes("BEGIN", text) == ["", ""]
    found = place.dropped(pass_id)
    assert [name for name in found if name.split()[0] in ("view", "index", "truncate")] == [
        "view r.look", "index r.by_v", "truncate r.two", "truncate r.one",
    ]  # fmt: skip


def test_only_its_own_login_learns_what_it_dropped(place: Place, database: Database) -> None:
    pass_id = place.approve("DROP TABLE two")
    other = database.tenant(f"r{next(numbers)}")
    with database.login(other) as session:
        assert place.codes(f"SELECT vaultbrix.dropped('{pass_id}')", session=session) == ["VBX03"]


def test_a_login_asks_within_its_transaction_as_the_tenant(place: Place, database: Database) -> None:
    database.admin(
        logins.create_login, login=f"{place.role}_job", role=place.role, verifier=PASSWORD,
        valid_until=datetime.now(UTC) + HOUR,
    )  # fmt: skip
    pass_id = place.approve("DROP TABLE two", login=f"{place.role}_job", rehearsal=True)
    with database.login(f"{place.role}_job") as job:
        assert place.codes("BEGIN", f"SET LOCAL ROLE {place.role}", "DROP TABLE two", session=job) == ["", "", ""]
        assert f"table {place.role}.two" in place.ask(f"SELECT vaultbrix.dropped('{pass_id}')", session=job)
        assert place.codes("ROLLBACK", session=job) == [""]
    database.admin(logins.drop_login, f"{place.role}_job", place.role)


def test_a_pass_for_any_session_of_the_tenant_tells_how_far_it_was_used(place: Place, database: Database) -> None:
    text = "DROP VIEW look;\nSELECT 1;\nTRUNCATE two"
    pass_id = place.approve(text, login=None)

    def used() -> tuple[int, bool, bool]:
        found = database.admin(passes.use_of, pass_id)
        assert found is not None
        return found.next_stmt, found.used_at is not None, found.complete

    assert used() == (1, False, False)
    with database.login(place.role) as another:
        assert place.codes("DROP VIEW look", session=another) == [""]
    assert used() == (2, True, False)
    assert place.codes("BEGIN", "TRUNCATE two", "ROLLBACK") == ["", "", ""]
    assert used() == (2, True, False)
    assert place.codes("TRUNCATE two") == [""]
    assert used() == (4, True, True)
    assert database.admin(passes.use_of, str(uuid4())) is None


def test_what_a_procedure_drops_passes_only_when_the_approver_allows_it(place: Place) -> None:
    text = "CALL drops()"
    place.approve(text)
    assert place.codes(text) == ["VBX01"]
    place.approve(text, allow_nested=True)
    assert place.codes(text) == [""]


def step(session: psycopg.Connection, which: str, pass_id: str, position: int) -> str:
    """As the Job writes one; its answer, or the SQLSTATE of its refusal."""
    try:
        row = session.execute(f"SELECT vaultbrix.{which}_step(%s, %s)".encode(), [pass_id, position]).fetchone()
    except psycopg.Error as error:
        return error.sqlstate or ""
    return str(row[0]) if row else ""


def test_a_step_is_run_once_whatever_happens_between(place: Place, database: Database) -> None:
    pass_id = place.approve("SELECT 1")
    with database.login(place.role) as session:
        assert step(session, "begin", pass_id, 2) == "run"
        assert step(session, "begin", pass_id, 2) == "unknown"
        assert database.admin(passes.steps, pass_id) == {2: False}
        step(session, "end", pass_id, 2)
        assert step(session, "begin", pass_id, 2) == "done"
        assert step(session, "end", pass_id, 2) == "VBX03"
    assert database.admin(passes.steps, pass_id) == {2: True}


def test_a_step_that_is_begun_by_two_is_run_by_one(place: Place, database: Database) -> None:
    pass_id = place.approve("SELECT 1")
    with database.login(place.role) as first, database.login(place.role) as second:
        first.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        first.execute("SELECT 1 FROM one")
        assert step(second, "begin", pass_id, 1) == "run"
        assert step(first, "begin", pass_id, 1) in ("40001", "unknown")


def test_a_pass_that_has_ended_begins_no_step_and_still_tells_of_those_begun(place: Place, database: Database) -> None:
    pass_id = place.approve("SELECT 1")
    with database.login(place.role) as session:
        assert step(session, "begin", pass_id, 1) == "run"
        database.admin(passes.revoke_pass, pass_id)
        assert step(session, "begin", pass_id, 1) == "unknown"
        assert step(session, "begin", pass_id, 2) == "VBX03"
        assert step(session, "end", pass_id, 1) == ""


def test_only_a_message_of_its_own_writes_a_step(place: Place, database: Database) -> None:
    pass_id = place.approve("SELECT 1")
    assert place.codes(f"SELECT vaultbrix.begin_step('{pass_id}', 1)") == ["VBX03"]
    assert database.admin(passes.steps, pass_id) == {}


def test_an_index_dropped_concurrently_uses_its_pass_once(place: Place) -> None:
    text = "DROP INDEX CONCURRENTLY by_v"
    pass_id = place.approve("DROP INDEX by_v")
    place.database.postgres.query(
        "UPDATE vaultbrix.ddl_pass_text SET sha256 = sha256(convert_to(%s, 'UTF8')) WHERE pass_id = %s", [text, pass_id]
    )
    assert place.codes(text, "CREATE INDEX by_v ON one(v)", text) == ["", "", "VBX01"]
