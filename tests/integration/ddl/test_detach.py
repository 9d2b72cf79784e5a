"""A partition that is taken off CONCURRENTLY: cut short it loses no row, says what is left of it, and can be ended."""

from collections.abc import Iterator

import psycopg
import pytest
from tests.harness.approvals import Approval
from tests.harness.shell import wait_for
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.world import World

DETACH = "-- 2019 is in the archive\nALTER TABLE parts DETACH PARTITION p_old CONCURRENTLY;\nDROP TABLE p_old"
FINALIZE = "ALTER TABLE parts DETACH PARTITION p_old FINALIZE"
REMEDY = "ALTER TABLE parts DETACH PARTITION p_old FINALIZE ends it"


@pytest.fixture
def place(world: World) -> TenantWithTables:
    place = TenantWithTables(world)
    place.sql(
        "CREATE TABLE parts(at int) PARTITION BY RANGE (at)",
        "CREATE TABLE p_old PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE p_new PARTITION OF parts FOR VALUES FROM (10) TO (20)",
        "INSERT INTO parts SELECT n % 20 FROM generate_series(1, 40) n",
    )
    return place


@pytest.fixture
def reader(place: TenantWithTables) -> Iterator[psycopg.Connection]:
    """A session that has read the table, and is still in its transaction."""
    with place.world.postgres.connect() as connection:
        connection.execute("BEGIN")
        connection.execute(f"SELECT count(*) FROM {place.role}.parts".encode())
        yield connection


def pending(place: TenantWithTables) -> bool:
    """Whether the partition is pending detach."""
    found = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = %s::regclass"
    return place.world.postgres.query(found, [f"{place.role}.p_old"]) == [(True,)]


def rows(place: TenantWithTables, table: str) -> int:
    ((count,),) = place.world.postgres.query(f"SELECT count(*) FROM {place.role}.{table}")
    assert isinstance(count, int)
    return count


def finalized(place: TenantWithTables) -> Approval:
    """An approval of what is left, which has run."""
    made = place.submit(f"{FINALIZE}; DROP TABLE p_old")
    found = made.rehearsed()
    assert (found["possible"], found.get("error")) == (True, None)
    assert "table t.p_old" in place.plain(found["drops"])
    assert pending(place), "a rehearsal leaves it as it was"
    made.decide()
    assert made.pod().run() == 0
    made.phase("Succeeded")
    return made


@pytest.mark.parametrize(
    ("limits", "state"),
    [
        ({"statementTimeout": "3s", "lockTimeout": "1m"}, "57014"),
        ({"statementTimeout": "1m", "lockTimeout": "3s"}, "55P03"),
    ],
    ids=["statement", "lock"],
)
def test_one_that_waited_too_long_for_a_reader_names_the_partition_and_what_ends_it(
    place: TenantWithTables, reader: psycopg.Connection, limits: dict[str, str], state: str
) -> None:
    made = place.submit(DETACH, **limits)
    made.decide()
    assert made.pod().run() == 3
    status = made.phase("Failed")
    error = status["error"]
    assert (error["sqlstate"], error["statement"], error["line"], status.get("executed", 0)) == (state, 1, 2, 0)
    told = made.condition("Ready")
    assert told["reason"] == "StatementFailed"
    assert told["message"].startswith(f"statement 1, line 2: {state} ")
    for part in ("partition p_old", "pending detach", REMEDY):
        assert part in told["message"]
    assert "INVALID" not in told["message"]
    assert (rows(place, "p_old"), pending(place)) == (20, True)
    reader.execute("COMMIT")
    finalized(place)
    assert not place.there("p_old")
    assert (rows(place, "parts"), rows(place, "p_new")) == (20, 20)


def test_one_whose_pod_is_killed_is_not_run_again_and_names_the_partition_and_what_ends_it(
    place: TenantWithTables, reader: psycopg.Connection
) -> None:
    made = place.submit(DETACH, lockTimeout="1m")
    made.decide()
    made.phase("Running")
    process = made.pod().start()
    waits = "SELECT 1 FROM pg_stat_activity WHERE usename ~ '^vaultbrix_d_' AND wait_event_type = 'Lock'"
    wait_for("it waits for the reader", lambda: pending(place) and place.world.postgres.query(waits), tell=process.text)
    process.kill()
    assert made.pod("again").run() == 3
    status = made.phase("Failed")
    told = made.condition("Ready")
    assert told["reason"] == "Interrupted"
    assert told["message"].startswith("statement 1, line 2: it was begun and nobody knows")
    for part in ("nothing is run twice", "partition p_old", "pending detach", REMEDY):
        assert part in told["message"]
    assert (status["error"]["statement"], status["error"]["line"], status.get("executed", 0)) == (1, 2, 0)
    assert (rows(place, "p_old"), pending(place)) == (20, True)
    reader.execute("COMMIT")
    finalized(place)
    assert (rows(place, "parts"), place.there("p_old")) == (20, False)
