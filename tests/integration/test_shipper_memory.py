"""A shipper's memory is bounded, whatever the records and however long the store is away."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.shell import wait_for
from tests.harness.store import Store
from tests.integration.database import directory, free_port
from tests.integration.test_log_damage import Log, line

MIB = 1024 * 1024
MOST = 150 * MIB


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with directory() as path:
        store = Store(path / "store", port=free_port())
        try:
            store.start()
            yield store
        finally:
            store.stop()


def peak(log: Log) -> int:
    """Most bytes that the shipper's process ever held."""
    with Path(f"/proc/{log.shipper.pid}/status").open() as status:
        (found,) = (row.split()[1] for row in status if row.startswith("VmHWM:"))
    return int(found) * 1024


def statement(size: int, number: int) -> bytes:
    """A line of pgAudit's with a statement of so many bytes, of the kind that has to be quoted and escaped."""
    text = ("SELECT \"a\", 'b'\n" * (size // 16 + 1))[:size]
    payload = f'AUDIT: SESSION,1,1,READ,SELECT,,,"{text.replace(chr(34), chr(34) * 2)}",<not logged>'
    return line(payload, number, func_name="log_audit_event", ps="SELECT", session_id="6b0.2")


@pytest.mark.parametrize(
    ("size", "count"),
    [(400, 100_000), (16 * 1024, 2000), (64 * 1024, 500), (MIB, 30), (20 * MIB, 3)],
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
            held = peak(log)
        finally:
            log.shipper.stop()
        print(json.dumps({"bytes": size, "records": count, "peak_mib": round(held / MIB, 1)}))
        assert held <= MOST
        assert log.gaps() == log.quarantine() == []


def test_a_line_that_is_longer_than_memory_allows_is_a_gap_with_its_beginning(store: Store) -> None:
    with directory() as path:
        log = Log(path / "log", store, "far too long")
        long = statement(60 * MIB, 2)
        log.write("1", line("a") + long + line("b", 3))
        log.shipper.start()
        try:
            wait_for("what follows is stored", lambda: len(log.messages()) == 2, patience=60, tell=log.shipper.text)
            held = peak(log)
        finally:
            log.shipper.stop()
        assert held <= MOST
        assert log.quarantine() == [("1.json", len(line("a")), long[: 64 * 1024])]
        told = f"of a line of {len(long) - 1} bytes, the first 65536 are in quarantine"
        assert log.gaps() == [("1.json", len(line("a")), told)]


def test_while_the_store_is_away_nothing_piles_up(store: Store) -> None:
    with directory() as path:
        log = Log(path / "log", store, "away")
        log.write("1", line("a"))
        log.shipper.start()
        try:
            log.await_messages("a")
            store.stop()
            for block in range(0, 200_000, 2000):
                log.write("2", b"".join(statement(400, block + number) for number in range(1, 2001)))
            wait_for("the shipper has noticed", lambda: "audit store" in log.shipper.text())
            away = peak(log)
            store.postgres.start()
            wait_for(
                "all is stored",
                lambda: log.store.query("SELECT count(*) FROM audit.record WHERE server = 'away'") == [(200_001,)],
                patience=300, pause=0.5, tell=log.shipper.text,
            )  # fmt: skip
            after = peak(log)
        finally:
            log.shipper.stop()
        print(json.dumps({"away_mib": round(away / MIB, 1), "caught_up_mib": round(after / MIB, 1)}))
        assert after <= MOST
