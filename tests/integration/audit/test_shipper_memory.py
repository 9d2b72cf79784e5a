"""A shipper's memory is bounded, whatever the records and however long the store is away."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from tests.harness import audit_oracle
from tests.harness.audit_oracle import Version
from tests.harness.audit_store import Store
from tests.harness.audited_load import Load
from tests.harness.database import directory
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.shipping import shipping
from tests.harness.written_log import Log, line

MIB = 1024 * 1024
MOST = 150 * MIB
AWAY_SECONDS = int(os.environ.get("VAULTBRIX_AWAY_SECONDS", "3600"))


def peak(shipper: Process) -> int:
    """Most bytes that the shipper's process ever held."""
    with Path(f"/proc/{shipper.pid}/status").open() as status:
        (found,) = (row.split()[1] for row in status if row.startswith("VmHWM:"))
    return int(found) * 1024


def statement(size: int, number: int) -> bytes:
    """A line of pgAudit's with a statement of so many bytes, of the kind that has to be quoted and escaped."""
    text = ("SELECT \"a\", 'b'\n" * (size // 16 + 1))[:size]
    payload = f'AUDIT: SESSION,1,1,READ,SELECT,,,"{text.replace(chr(34), chr(34) * 2)}",<not logged>'
    return line(payload, number, func_name="log_audit_event", ps="SELECT", session_id="6b0.2")


@pytest.mark.parametrize(
    ("size", "count"),
    [(400, 50_000), (16 * 1024, 2000), (64 * 1024, 500), (MIB, 30), (20 * MIB, 3)],
    ids=["400 B", "16 KiB", "64 KiB", "1 MiB", "20 MiB"],
)
def test_records_of_any_size_take_no_more_memory_than_a_few_of_them(store: Store, size: int, count: int) -> None:
    with directory() as path:
        log = Log(path / "log", store, f"memory {size}")
        with (log.path / "1.json").open("wb") as file:
            file.writelines(statement(size, number) for number in range(1, count + 1))
        log.shipper.start()
        try:
            found = "SELECT count(*), min(octet_length(statement)), max(octet_length(statement)) FROM audit.record"
            wait_for(
                "all is stored",
                lambda: log.store.query(f"{found} WHERE server = %s", [log.server]) == [(count, size, size)],  # type: ignore[arg-type]
                patience=300, pause=0.5, tell=log.shipper.text,
            )  # fmt: skip
            held = peak(log.shipper)
        finally:
            log.shipper.stop()
        print(json.dumps({"bytes": size, "records": count, "peak_mib": round(held / MIB, 1)}))
        assert held <= MOST
        assert log.gaps() == log.quarantine() == []


def test_a_line_that_is_longer_than_memory_allows_is_a_gap_with_beginning_end_and_hash(store: Store) -> None:
    with directory() as path:
        log = Log(path / "log", store, "far too long")
        long = statement(60 * MIB, 2)
        log.write("1", line("a") + long + line("b", 3))
        log.shipper.start()
        try:
            wait_for("what follows is stored", lambda: len(log.messages()) == 2, patience=60, tell=log.shipper.text)
            held = peak(log.shipper)
        finally:
            log.shipper.stop()
        assert held <= MOST
        end = len(line("a")) + len(long) - 1
        assert log.quarantine() == [
            ("1.json", len(line("a")), long[: 64 * 1024]),
            ("1.json", end - 64 * 1024, long[-1 - 64 * 1024 : -1]),
        ]
        told = (
            f"of a line of {len(long) - 1} bytes, the first 65536 and the last 65536 are in quarantine;"
            f" sha256 {hashlib.sha256(long[:-1]).hexdigest()}"
        )
        assert log.gaps() == [("1.json", len(line("a")), told)]


def test_while_the_store_is_away_nothing_piles_up(store: Store) -> None:
    with directory() as path:
        log = Log(path / "log", store, "away")
        log.write("1", line("a"))
        log.shipper.start()
        try:
            log.await_messages("a")
            store.stop()
            for block in range(0, 100_000, 2000):
                log.write("2", b"".join(statement(400, block + number) for number in range(1, 2001)))
            wait_for("the shipper has noticed", lambda: "audit store" in log.shipper.text())
            away = peak(log.shipper)
            store.postgres.start()
            wait_for(
                "all is stored",
                lambda: log.store.query("SELECT count(*) FROM audit.record WHERE server = 'away'") == [(100_001,)],
                patience=300, pause=0.5, tell=log.shipper.text,
            )  # fmt: skip
            after = peak(log.shipper)
        finally:
            log.shipper.stop()
        print(json.dumps({"away_mib": round(away / MIB, 1), "caught_up_mib": round(after / MIB, 1)}))
        assert after <= MOST


@pytest.mark.soak
@pytest.mark.timeout(2 * AWAY_SECONDS + 1800)
def test_an_hour_of_load_without_the_store_takes_no_memory_and_is_stored_afterwards() -> None:
    with shipping() as parts:
        load = Load(parts.database, parts.path, rate=20, rude=False)
        load.start()
        wait_for("something is stored", lambda: parts.store.query("SELECT 1 FROM audit.record LIMIT 1"))
        parts.store.stop()
        began = time.monotonic()
        while (passed := time.monotonic() - began) < AWAY_SECONDS:
            parts.postgres.query("SELECT pg_rotate_logfile()")
            waiting = sum(path.stat().st_size for path in parts.postgres.logs.glob("*.json"))
            print(
                f"{passed:6.0f} s: log {waiting / MIB:8.1f} MiB, shipper {peak(parts.shipper) / MIB:6.1f} MiB",
                flush=True,
            )
            time.sleep(min(60, AWAY_SECONDS / 10))
        away = peak(parts.shipper)
        parts.store.postgres.start()
        load.stop()
        parts.postgres.stop()
        began = time.monotonic()
        parts.settle(patience=1800)
        took, after = time.monotonic() - began, peak(parts.shipper)
        files = [Version(path.name, path) for path in sorted(parts.postgres.logs.glob("*.json"))]
        with parts.store.open(options=audit_oracle.SETTINGS) as connection:
            verdict = audit_oracle.judge(connection, "main", files, parts.store.public_key)
        figures = {"away_s": AWAY_SECONDS, "events": verdict.events, "files": len(files), "caught_up_s": round(took)}
        print(json.dumps({**figures, "away_mib": round(away / MIB, 1), "caught_up_mib": round(after / MIB, 1)}))
        assert verdict.clean and not verdict.gaps, verdict
        assert after <= MOST
