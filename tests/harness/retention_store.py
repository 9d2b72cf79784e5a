"""A store with records of long ago: a shipper whose log the test writes, and a manager of retention."""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from tests.harness.audit_store import Store
from tests.harness.database import directory, free_port
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.sealed_store import check
from tests.harness.shell import run, wait_for


class RetentionStore:
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


@contextlib.contextmanager
def running() -> Iterator[RetentionStore]:
    """All of it, stopped afterwards."""
    with directory() as path:
        past = RetentionStore(path)
        try:
            past.start()
            yield past
        finally:
            past.stop()


@contextlib.contextmanager
def settled(past: RetentionStore) -> Iterator[RetentionStore]:
    """With a record of today, so that the time is known, and nothing that is due; all seals hold afterwards."""
    if not past.shipper.running:
        past.shipper.start()
    past.write(today())
    past.stored()
    past.retention("apply")
    yield past
    past.stored()
    assert check(past.store).findings == []


def today() -> date:
    return datetime.now(UTC).date()


def ago(days: int) -> date:
    return today() - timedelta(days=days)


def name(day: date, keep: int = 30) -> str:
    return f"record_{day:%Y%m%d}_{keep}"
