"""Retention drops whole partitions once they are due, never one that is not, and leaves what proves that."""

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.retention_store import RetentionStore, ago, name, running, settled, today
from tests.harness.sealed_store import check
from tests.harness.shell import wait_for

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.fixture(scope="module")
def kept() -> Iterator[RetentionStore]:
    with running() as past:
        yield past


@pytest.fixture
def past(kept: RetentionStore) -> Iterator[RetentionStore]:
    with settled(kept) as past:
        yield past


def test_exactly_what_is_due_is_dropped_and_proofs_stay(past: RetentionStore) -> None:
    past.write(ago(40), ago(40), ago(31), ago(30), ago(29))
    past.stored()
    parts = past.store.query("SELECT * FROM audit.part ORDER BY server, batch, part")
    assert f"due: {name(ago(31))}" in past.retention("apply", "--dry-run")
    assert ago(31) in past.days()
    said = past.retention("apply")
    assert f"dropped {name(ago(40))}" in said
    assert "2 rows" in said
    assert past.days() & {ago(n) for n in range(20, 60)} == {ago(30), ago(29)}
    assert name(ago(40)).rsplit("_", 1)[0] not in past.tables()
    (tombstone,) = past.tombstones(ago(40))
    assert (tombstone["version"], tombstone["part"], tombstone["rows"]) == (1, f"record {ago(40)} 30", 2)
    assert set(parts) <= set(past.store.query("SELECT * FROM audit.part"))
    past.stored()
    assert check(past.store).findings == []
    assert past.retention("apply") == "nothing is due\n"


def test_lines_that_come_late_are_stored_and_dropped_again(past: RetentionStore) -> None:
    past.write(ago(50))
    past.stored()
    past.retention("apply")
    past.write(ago(50), ago(50))
    past.stored()
    assert ago(50) in past.days()
    assert check(past.store).findings == []
    past.retention("apply")
    first, second = past.tombstones(ago(50))
    assert (first["rows"], second["rows"]) == (1, 2)
    assert first["through"]["main"] < second["through"]["main"]


def test_a_shipper_that_stores_into_a_day_while_it_is_dropped_loses_nothing(past: RetentionStore) -> None:
    day = ago(60)
    wrote = 0
    with past.open() as manager:
        # As many more rounds as a busy machine needs until they have met a few times.
        for round_ in range(3000):
            if round_ >= 150 and len(past.tombstones(day)) > 3:
                break
            past.write(*[day] * 3)
            wrote += 3
            if round_ == 0:
                past.stored()
            time.sleep(0.02)
            # The shipper may hold the day for longer than they wait, as operator and command line know.
            with contextlib.suppress(psycopg.errors.LockNotAvailable):
                try:
                    manager.execute("SELECT audit.drop_partition(%s)", [name(day)])
                except psycopg.errors.RaiseException as error:
                    assert "there is no partition" in str(error)
                if round_ % 10 == 0:
                    manager.execute("SELECT audit.drop_empty_days(5)")
    past.stored()
    dropped = sum(detail["rows"] for detail in past.tombstones(day))
    ((held,),) = past.store.query("SELECT count(*) FROM audit.record WHERE (at AT TIME ZONE 'UTC')::date = %s", [day])
    assert dropped + held == wrote
    assert len(past.tombstones(day)) > 3
    assert "audit store" not in past.shipper.text().replace("connected to the audit store", "")


def test_a_query_holds_its_partition_and_nobody_else(past: RetentionStore) -> None:
    past.write(ago(45))
    past.stored()
    with past.store.open() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM audit.record")
        command = [*VAULTBRIX, "audit", "retention", "apply"]
        applying = Process(command, past.path / "apply.log", env=past.login)
        applying.start()
        past.write(today(), ago(45))
        past.stored()
        assert past.store.query("SELECT count(*) > 0 FROM audit.record") == [(True,)]
        wait_for("it has given up", lambda: not applying.running, patience=60)
        assert applying.stop() == 1
        assert f"held by a query: {name(ago(45))}" in applying.text()
        assert reader.execute("SELECT count(*) > 0 FROM audit.record").fetchone() == (True,)
        reader.execute("ROLLBACK")
    assert f"dropped {name(ago(45))}" in past.retention("apply")


def test_a_kill_in_the_middle_leaves_each_partition_either_whole_or_told(past: RetentionStore) -> None:
    days = [ago(n) for n in range(100, 130)]
    past.write(*days)
    past.stored()
    before = {day: len(past.tombstones(day)) for day in days}
    applying = Process([*VAULTBRIX, "audit", "retention", "apply"], past.path / "killed.log", env=past.login)
    applying.start()
    wait_for("it has begun", lambda: len(past.days() & set(days)) < len(days), pause=0.005)
    applying.kill()
    for day in days:
        assert (day in past.days()) == (len(past.tombstones(day)) == before[day])
    past.stored()
    assert check(past.store).findings == []
    past.retention("apply")
    assert past.days() & set(days) == set()


def test_a_clock_that_stepped_forward_drops_nothing(past: RetentionStore) -> None:
    assert FAKETIME, "libfaketime is missing; run: make setup"
    past.write(ago(10))
    past.stored()
    before = past.days()
    clock = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+25d", "PGSSLMODE": "require", "PGSSLROOTCERT": ""}
    said = past.retention("apply", env=clock)
    assert f"not yet: {name(ago(10))}" in said
    assert "dropped" not in said
    assert past.days() == before
    with past.open() as link, pytest.raises(psycopg.errors.RaiseException, match="is kept until"):
        link.execute("SELECT audit.drop_partition(%s)", [name(ago(10))])


def test_the_stores_own_clock_alone_drops_nothing(past: RetentionStore) -> None:
    with past.store.open() as owner:
        owner.execute("BEGIN")
        # As if the newest record were of long ago, which a clock that stepped forward looks like.
        owner.execute(
            "CREATE OR REPLACE FUNCTION audit.newest_day() RETURNS date LANGUAGE sql AS $$ SELECT date '2000-01-01' $$"
        )
        (leaf, *_) = sorted(table for table in past.tables() if table.endswith("_30"))
        with pytest.raises(psycopg.errors.RaiseException, match="is kept until"):
            owner.execute("SELECT audit.drop_partition(%s)", [leaf])
        owner.execute("ROLLBACK")


def test_a_day_from_before_partitions_were_divided_goes_after_its_longest_keep(past: RetentionStore) -> None:
    old, young = ago(402), ago(60)
    for day in (old, young):
        table = f"record_{day:%Y%m%d}"
        past.store.query(  # type: ignore[call-overload]
            f"CREATE TABLE audit.{table} PARTITION OF audit.record"
            f" FOR VALUES FROM ('{day} 00:00:00+00') TO ('{day + timedelta(days=1)} 00:00:00+00')"
        ) if table not in past.tables() else None
        past.store.query(
            "INSERT INTO audit.record(server, at, session_id, line_num, kind, tag, file, position)"
            " VALUES ('main', %s::date + interval '12 hours', 'old', 1, 'other', '', '', 0)", [day],
        )  # fmt: skip
    assert f"dropped record_{old:%Y%m%d}" in past.retention("apply")
    assert past.tombstones(old)[-1] == {"version": 1, "part": f"record {old}", "rows": 1, "through": {}}
    assert f"record_{young:%Y%m%d}" in past.tables()


def test_a_table_that_somebody_attached_is_left_alone(past: RetentionStore) -> None:
    past.store.query(
        "CREATE TABLE audit.mine PARTITION OF audit.record FOR VALUES FROM ('2001-01-01') TO ('2001-01-02')"
    )
    try:
        assert past.retention("apply") == "nothing is due\n"
        with past.open() as link, pytest.raises(psycopg.errors.RaiseException, match="there is no partition mine"):
            link.execute("SELECT audit.drop_partition('mine')")
    finally:
        past.store.query("DROP TABLE audit.mine")


def test_quarantined_lines_are_erased_after_the_longest_policy(past: RetentionStore) -> None:
    with (past.logs / "1.json").open("ab") as file:
        file.write(b"what a tenant sent\n")
    past.stored()
    past.retention("apply")
    assert past.store.query("SELECT line FROM audit.quarantine") == [(b"what a tenant sent",)]
    past.store.query("UPDATE audit.quarantine SET found_at = found_at - interval '31 days'")
    assert "erased: 1 quarantined line\n" in past.retention("apply")
    assert past.store.query("SELECT line, reason <> '' FROM audit.quarantine") == [(b"", True)]
