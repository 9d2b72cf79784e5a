"""What a tool builds anew and the policy names is swapped, emptied and dropped without an approval."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from tests.harness.database import Database

from vaultbrix.ddl.gate import passes, policy
from vaultbrix.ddl.gate.patterns import relation_pattern
from vaultbrix.ddl.plan import plan

numbers = itertools.count(1)
# As dbt 1.10 sends it: each statement begins with a comment.
COMMENT = '/* {"app": "dbt", "node_id": "model.p.daily"} */\n'
FIRST_RUN = (
    "BEGIN",
    'create table "postgres"."{role}"."daily__dbt_tmp" as (select 1 as id)',
    'alter table "postgres"."{role}"."daily__dbt_tmp" rename to "daily"',
    "COMMIT",
    'drop table if exists "postgres"."{role}"."daily__dbt_backup" cascade',
)
NEXT_RUN = (
    *FIRST_RUN[:2],
    'alter table "postgres"."{role}"."daily" rename to "daily__dbt_backup"',
    *FIRST_RUN[2:],
)
FREE = (
    "ALTER TABLE daily RENAME TO daily_2",
    "DROP TABLE daily",
    "DROP TABLE daily, daily_b CASCADE",
    "DROP TABLE IF EXISTS nope, daily",
    "DO $$ BEGIN DROP TABLE daily; END $$",
    "TRUNCATE daily",
    "TRUNCATE daily, daily_b RESTART IDENTITY CASCADE",
    "DROP VIEW daily_v",
    "ALTER VIEW daily_v RENAME TO daily_w",
    "ALTER TABLE daily_v RENAME TO daily_w",
    "DROP MATERIALIZED VIEW daily_m",
    "ALTER MATERIALIZED VIEW daily_m RENAME TO daily_n",
    "DROP TABLE daily_p",
    "ALTER TABLE daily_p RENAME TO daily_q",
    "DROP TABLE daily_p1",
    "TRUNCATE daily_p",
)
REFUSED = {
    "DROP TABLE daily, orders": "it would lose table {role}.orders",
    "DROP TABLE orders": "it would lose table {role}.orders",
    "DROP TABLE daily_b CASCADE": "it would lose view {role}.report",
    "ALTER TABLE daily RENAME TO nightly": "it would alter table {role}.daily",
    "ALTER TABLE orders RENAME TO daily_o": "it would alter table {role}.orders",
    "ALTER TABLE daily DROP COLUMN v": "it would lose table column {role}.daily.v",
    "TRUNCATE daily, orders": "it would empty table",
}


@pytest.fixture
def role(database: Database) -> str:
    role = database.tenant(f"b{next(numbers)}")
    with database.login(role) as connection:
        for statement in (
            "CREATE TABLE orders(id int)",
            "CREATE TABLE daily(id serial PRIMARY KEY, v text DEFAULT 'x' CHECK (v <> ''))",
            "CREATE INDEX ON daily(v)",
            "CREATE POLICY p ON daily USING (true)",
            "CREATE TABLE daily_b(id int GENERATED ALWAYS AS IDENTITY)",
            "CREATE VIEW daily_v AS SELECT 1 AS id",
            "CREATE MATERIALIZED VIEW daily_m AS SELECT 1 AS id",
            "CREATE TABLE daily_p(id int) PARTITION BY LIST (id)",
            "CREATE TABLE daily_p1 PARTITION OF daily_p FOR VALUES IN (1)",
        ):
            connection.execute(statement.encode())
    name_rebuildable(database, role, "daily*")
    return role


def name_rebuildable(database: Database, role: str, *patterns: str) -> None:
    database.admin(policy.set_rebuildable, role, frozenset(relation_pattern(text, role) for text in patterns))


@pytest.fixture
def session(database: Database, role: str) -> Iterator[psycopg.Connection]:
    with database.login(role) as connection:
        yield connection


@pytest.mark.parametrize("statement", FREE)
def test_what_the_policy_names_is_swapped_emptied_and_dropped(session: psycopg.Connection, statement: str) -> None:
    session.execute(statement.encode())


@pytest.mark.parametrize("statement", REFUSED)
def test_nothing_else_goes_with_it(session: psycopg.Connection, role: str, statement: str) -> None:
    session.execute("CREATE VIEW report AS SELECT id FROM daily_b")
    with pytest.raises(psycopg.Error) as refusal:
        session.execute(statement.encode())
    assert refusal.value.sqlstate == "VBX01"
    assert REFUSED[statement].replace("{role}", role) in str(refusal.value.diag.message_detail)


@pytest.mark.parametrize("statement", FREE)
def test_without_the_policy_it_takes_an_approval(
    database: Database, role: str, session: psycopg.Connection, statement: str
) -> None:
    name_rebuildable(database, role)
    with pytest.raises(psycopg.Error) as refusal:
        session.execute(statement.encode())
    assert refusal.value.sqlstate == "VBX01"


def test_dbt_builds_its_tables_again_and_again(session: psycopg.Connection, role: str) -> None:
    session.execute("DROP TABLE daily")
    for statements in (FIRST_RUN, NEXT_RUN, NEXT_RUN):
        for text in statements:
            session.execute((COMMENT + text).replace("{role}", role).encode())
        assert session.execute("SELECT * FROM daily").fetchall() == [(1,)]
    found = session.execute("SELECT relname FROM pg_class WHERE relname ~ 'dbt' AND relkind = 'r'").fetchall()
    assert found == []


def test_a_step_of_an_approved_text_has_its_place_all_the_same(
    database: Database, session: psycopg.Connection, role: str
) -> None:
    text = "DROP TABLE daily; DROP TABLE orders; DROP TABLE daily_b"
    database.admin(
        passes.issue_pass, pass_id=str(uuid4()), role=role, login=role, approved_by="pat",
        expires_at=datetime.now(UTC) + timedelta(hours=1), plan=plan(text),
    )  # type: ignore[arg-type]  # fmt: skip
    for statement in text.split("; "):
        session.execute(statement.encode())


def test_relations_of_another_schema_are_named_with_it(database: Database, role: str) -> None:
    with database.postgres.connect() as admin:
        admin.execute(f"CREATE SCHEMA {role}_stage AUTHORIZATION {role}".encode())
    name_rebuildable(database, role, f"{role}_stage.*")
    with database.login(role) as session:
        session.execute(f"CREATE TABLE {role}_stage.any(id int)".encode())
        session.execute(f"DROP TABLE {role}_stage.any".encode())
        with pytest.raises(psycopg.Error, match="DROP TABLE requires"):
            session.execute("DROP TABLE daily")
