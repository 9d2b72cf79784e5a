"""Retention drops whole partitions once they are due, never one that is not, and leaves what proves that."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import run, wait_for
from tests.harness.store import Store
from tests.integration.database import directory, free_port
from tests.integration.sealed import check

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


class Past:
    """A store, a shipper, and a log whose lines can be of any day; they are kept for 30 days."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path / "store", port=free_port())
        self.logs = path / "log"
        self.logs.mkdir()
        self.shipper = Process(
            [
                *VAULTBRIX,
                "audit",
                "ship",
                "--server=main",
                f"--log-directory={self.logs}",
                f"--grants={path / 'grants'}",
                f"--store={self.store.secret}",
            ],
            path / "shipper.log",
        )
        self.written = 0

    def start(self) -> None:
        self.store.start()
        self.login = self.store.environment(self.store.login("manager", "audit_manage"))
        self.retention("set", "--days=30")
        self.shipper.start()

    def stop(self) -> None:
        self.shipper.stop()
        self.store.stop()

    def write(self, *days: date) -> None:
        """A line for each day, without waiting for the shipper."""
        with (self.logs / "1.json").open("ab") as file:
            for day in days:
                self.written += 1
                entry = {
                    "timestamp": f"{day} 12:00:00.000 UTC", "session_id": "6b0.1", "line_num": self.written,
                    "error_severity": "LOG", "message": f"line {self.written}",
                }  # fmt: skip
                file.write(json.dumps(entry).encode() + b"\n")

    def stored(self) -> None:
        """Wait until all lines are stored, and all events sealed."""
        size = (self.logs / "1.json").stat().st_size
        wait_for(
            "all is stored",
            lambda: self.store.query(
                "SELECT max(position), (SELECT count(*) FROM audit.event WHERE batch IS NULL) FROM audit.logfile"
            ) == [(size, 0)],
            patience=60, tell=self.shipper.text,
        )  # fmt: skip

    def retention(self, *arguments: str, check: bool = True, env: dict[str, str] | None = None) -> str:
        """Run the command as the manager; returns what it printed."""
        environment = {**self.login, "PYTHONPATH": "operator", **(env or {})}
        done = run(*VAULTBRIX, "audit", "retention", *arguments, env=environment, check=check)
        return done.stdout + done.stderr

    def open(self) -> psycopg.Connection:
        """A session of the manager."""
        options = {key.removeprefix("PG").lower(): value for key, value in self.login.items()}
        options["dbname"] = options.pop("database")
        return psycopg.connect(autocommit=True, **options)  # type: ignore[arg-type]

    def days(self) -> set[date]:
        """Days that have a partition with records in it."""
        return {row[0] for row in self.store.query("SELECT DISTINCT (at AT TIME ZONE 'UTC')::date FROM audit.record")}

    def tables(self) -> set[str]:
        """Every partition that there is."""
        found = "SELECT relid::text FROM pg_partition_tree('audit.record') WHERE level > 0"
        return {row[0].removeprefix("audit.") for row in self.store.query(found)}

    def tombstones(self, day: date) -> list[dict[str, Any]]:
        """What events say of a day."""
        found = self.store.query(
            "SELECT detail FROM audit.event WHERE kind = 'expired' AND detail->>'part' ^@ %s ORDER BY id",
            [f"record {day}"],
        )
        return [row[0] for row in found]


@pytest.fixture(scope="module")
def running() -> Iterator[Past]:
    with directory() as path:
        past = Past(path)
        try:
            past.start()
            yield past
        finally:
            past.stop()


@pytest.fixture
def past(running: Past) -> Iterator[Past]:
    """With a record of today, so that the store's time is known, and nothing that is due."""
    if not running.shipper.running:
        running.shipper.start()
    running.write(today())
    running.stored()
    running.retention("apply")
    yield running
    running.stored()
    assert check(running.store).findings == []


def today() -> date:
    return datetime.now(UTC).date()


def ago(days: int) -> date:
    return today() - timedelta(days=days)


def name(day: date, keep: int = 30) -> str:
    return f"record_{day:%Y%m%d}_{keep}"


def test_exactly_what_is_due_is_dropped_and_proofs_stay(past: Past) -> None:
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


def test_lines_that_come_late_are_stored_and_dropped_again(past: Past) -> None:
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


def test_a_shipper_that_stores_into_a_day_while_it_is_dropped_loses_nothing(past: Past) -> None:
    day = ago(60)
    wrote = 0
    with past.open() as manager:
        for round_ in range(150):
            past.write(*[day] * 3)
            wrote += 3
            if round_ == 0:
                past.stored()
            time.sleep(0.02)
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


def test_a_query_holds_its_partition_and_nobody_else(past: Past) -> None:
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


def test_a_kill_in_the_middle_leaves_each_partition_either_whole_or_told(past: Past) -> None:
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


def test_a_clock_that_stepped_forward_drops_nothing(past: Past) -> None:
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


def test_the_stores_own_clock_alone_drops_nothing(past: Past) -> None:
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


def test_a_policy_holds_for_what_is_stored_from_then_on(past: Past) -> None:
    past.write(ago(8))
    past.stored()
    said = past.retention("set", "--days=5")
    try:
        assert "5 days hold for records that are stored from half a minute on" in said
        assert "any" in past.retention("show")
        past.retention("apply")
        assert ago(8) in past.days()
        past.shipper.stop()
        past.shipper.start()
        past.write(ago(8))
        past.stored()
        assert f"dropped {name(ago(8), 5)}" in past.retention("apply")
        assert past.store.query(
            "SELECT count(*) FROM audit.record WHERE (at AT TIME ZONE 'UTC')::date = %s", [ago(8)]
        ) == [(1,)]
    finally:
        past.retention("set", "--days=30")
        past.shipper.stop()
        past.shipper.start()


def test_every_change_of_a_policy_is_on_record_with_the_old_days_and_the_new(past: Past) -> None:
    scope = ("--tenant=team/a", "--class=READ")
    past.retention("set", "--days=90", *scope)
    past.retention("set", "--days=90", *scope)
    past.retention("set", "--days=60", *scope)
    past.retention("remove", *scope)
    found = past.store.query(
        "SELECT actor, detail->>'old', detail->>'new' FROM audit.event WHERE kind = 'retention'"
        " AND detail->>'tenant' = 'team/a' AND detail->>'class' = 'READ' ORDER BY id"
    )
    assert found == [("manager", None, "90"), ("manager", "90", "60"), ("manager", "60", None)]


def test_the_archive_comes_first_where_a_policy_says_so(past: Past) -> None:
    past.write(ago(35))
    past.stored()
    past.retention("set", "--days=30", "--archive-first")
    try:
        said = past.retention("apply", check=False)
        assert f"not in the archive: {name(ago(35))}" in said
        with past.open() as link, pytest.raises(psycopg.errors.RaiseException, match="is not in the archive"):
            link.execute("SELECT audit.drop_partition(%s)", [name(ago(35))])
        upto = {"main": past.store.query("SELECT max(batch) FROM audit.batch")[0][0]}
        exported = "SELECT audit.exported(%s, '{30}', %s, sha256('manifest'), '{}')"
        past.store.query(exported, [ago(35), json.dumps(upto)])
        past.write(ago(35))
        past.stored()
        assert "not in the archive" in past.retention("apply", check=False)
        upto = {"main": past.store.query("SELECT max(batch) FROM audit.batch")[0][0]}
        past.store.query(exported.replace("manifest", "later"), [ago(35), json.dumps(upto)])
        assert f"dropped {name(ago(35))}" in past.retention("apply")
    finally:
        past.retention("set", "--days=30")


def test_a_policy_that_makes_no_sense_is_refused(past: Past) -> None:
    for arguments, said in (
        (("set", "--days=0"), "0 is not in the range"),
        (("set", "--days=36501"), "36501 is not in the range"),
        (("set", "--days=5", "--class=SELECT"), "--class: SELECT is none of READ, WRITE"),
        (("set", "--days=5", "--tenant=acme"), "--tenant: acme is not namespace/name"),
        (("remove", "--tenant=team/none"), "there is no such policy"),
    ):
        assert said in past.retention(*arguments, check=False)


def test_a_day_from_before_partitions_were_divided_goes_after_its_longest_keep(past: Past) -> None:
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


def test_a_table_that_somebody_attached_is_left_alone(past: Past) -> None:
    past.store.query(
        "CREATE TABLE audit.mine PARTITION OF audit.record FOR VALUES FROM ('2001-01-01') TO ('2001-01-02')"
    )
    try:
        assert past.retention("apply") == "nothing is due\n"
        with past.open() as link, pytest.raises(psycopg.errors.RaiseException, match="there is no partition mine"):
            link.execute("SELECT audit.drop_partition('mine')")
    finally:
        past.store.query("DROP TABLE audit.mine")


def test_quarantined_lines_are_erased_after_the_longest_policy(past: Past) -> None:
    with (past.logs / "1.json").open("ab") as file:
        file.write(b"what a tenant sent\n")
    past.stored()
    past.retention("apply")
    assert past.store.query("SELECT line FROM audit.quarantine") == [(b"what a tenant sent",)]
    past.store.query("UPDATE audit.quarantine SET found_at = found_at - interval '31 days'")
    assert "erased: 1 quarantined lines" in past.retention("apply")
    assert past.store.query("SELECT line, reason <> '' FROM audit.quarantine") == [(b"", True)]


def test_a_manager_keeps_retention_and_nothing_else(past: Past) -> None:
    forbidden = (
        "SELECT * FROM audit.record",
        "SELECT * FROM audit.quarantine",
        f"DROP TABLE audit.{name(today())}",
        f"SELECT * FROM audit.{name(today())}",
        "DELETE FROM audit.record",
        "UPDATE audit.event SET detail = '{}'",
        "INSERT INTO audit.event(kind, actor, detail) VALUES ('expired', 'me', '{}')",
        "SELECT audit.redact_person('x', 'y', true)",
        "SELECT audit.erase('record', '{}', NULL, '{}')",
        "SELECT audit.ensure_partition('2000-01-01', 1)",
        "TRUNCATE audit.retention",
        "ALTER TABLE audit.retention DISABLE TRIGGER noted",
        "SELECT audit.newest_day()",
    )
    with past.open() as link:
        for statement in forbidden:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                link.execute(statement.encode())
        for wrong in (name(today()), "record_20000101_30", "event", "record", "record_20000101_30; DROP"):
            with pytest.raises(psycopg.errors.RaiseException):
                link.execute("SELECT audit.drop_partition(%s)", [wrong])
        with link.transaction():
            link.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            with pytest.raises(psycopg.errors.RaiseException, match="read committed"), link.transaction():
                link.execute("SELECT audit.drop_partition(%s)", [name(ago(30))])
        with pytest.raises(psycopg.errors.RaiseException, match="cannot be changed"):
            link.execute("UPDATE audit.retention SET tenant = 'other'")


def test_only_a_manager_keeps_retention(past: Past) -> None:
    calls = (
        "SELECT audit.drop_partition('record_20000101_400')",
        "SELECT audit.drop_empty_days(1)",
        "SELECT audit.expire_quarantine(true)",
        "SELECT * FROM audit.kept()",
        "INSERT INTO audit.retention VALUES ('x', '', 1)",
    )
    for group in ("audit_append", "audit_read", "audit_tenant", "audit_redact"):
        for call in calls:
            with past.store.open() as link, pytest.raises(psycopg.errors.InsufficientPrivilege):
                link.execute(f"SET ROLE {group}")
                link.execute(call.encode())
