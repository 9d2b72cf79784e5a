"""The oracle of the campaigns sees each kind of damage to a store, and none where there is none."""

from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import pytest
from tests.harness import audit_oracle
from tests.harness.audit_oracle import Verdict, Version, judge
from tests.harness.audit_store import Store
from tests.harness.database import directory
from tests.harness.written_log import Log, line

SERVER = "oracle"
SEEN = ("lost", "duplicate", "changed", "bad_batches", "wrong_holes")


@pytest.fixture(scope="module")
def log(store: Store) -> Iterator[Log]:
    """A log of which everything is stored."""
    with directory() as path:
        log = Log(path / "log", store, SERVER)
        try:
            log.shipper.start()
            payload = 'AUDIT: SESSION,1,1,READ,SELECT,,,"SELECT ""x,"",\n\t\\ 1",<none>'
            log.write("1", line("a", 1) + line(payload, 2, func_name="log_audit_event") + b"no json\n")
            log.write("2", line("b", 3) + line("c", 4))
            log.await_messages("a", None, "b", "c")
            yield log
        finally:
            log.shipper.stop()


def verdict(log: Log, damage: LiteralString = "SELECT 1") -> Verdict:
    """What the oracle says of the store with that done to it; undone afterwards."""
    files = [Version(path.name, path) for path in sorted(log.path.glob("*.json"))]
    with log.store.open(options=audit_oracle.SETTINGS) as connection, connection.transaction(force_rollback=True):
        connection.execute(damage)
        return judge(connection, SERVER, files, log.store.public_key)


def test_nothing_is_wrong_with_a_store_as_the_shipper_left_it(log: Log) -> None:
    found = verdict(log)
    assert found.clean and (found.events, found.quarantined) == (5, 1), found


@pytest.mark.parametrize(
    ("damage", "seen"),
    {
        "UPDATE audit.record SET statement = 'SELECT 2' WHERE kind = 'statement'": {"changed": 1, "bad_batches": 1},
        "UPDATE audit.record SET pid = 7 WHERE message = 'a'": {"changed": 1, "bad_batches": 1},
        "UPDATE audit.quarantine SET line = 'other'": {"changed": 1, "bad_batches": 1},
        "DELETE FROM audit.record WHERE message = 'a'": {"lost": 1, "bad_batches": 1},
        "DELETE FROM audit.record WHERE message = 'b'": {"lost": 1, "bad_batches": 1},
        "INSERT INTO audit.record SELECT * FROM audit.record WHERE message = 'a'": {"duplicate": 1, "bad_batches": 1},
        "UPDATE audit.record SET position = 1 WHERE message = 'a'": {"changed": 1, "bad_batches": 1},
        "UPDATE audit.batch SET signature = set_byte(signature, 5, 0) WHERE batch = 1": {"bad_batches": 1},
        "UPDATE audit.part SET root = set_byte(root, 5, 0) WHERE batch = 1": {"bad_batches": 1},
        "DELETE FROM audit.batch WHERE batch = 1": {"bad_batches": 2},
        "UPDATE audit.record SET salt = NULL WHERE message = 'a'": {"bad_batches": 1},
        "UPDATE audit.record SET batch = NULL WHERE message = 'a'": {"bad_batches": 2},
    }.items(),
)
def test_damage_is_seen(log: Log, damage: LiteralString, seen: dict[str, int]) -> None:
    found = verdict(log, damage)
    assert {name: getattr(found, name) for name in SEEN if getattr(found, name)} == seen, found


def test_a_line_that_is_not_stored_is_lost(log: Log, tmp_path: Path) -> None:
    more = tmp_path / "3.json"
    more.write_bytes(line("d", 5))
    with log.store.open(options=audit_oracle.SETTINGS) as connection:
        files = [*(Version(path.name, path) for path in log.path.glob("*.json")), Version(more.name, more)]
        assert judge(connection, SERVER, files, log.store.public_key).lost == 1


def test_seals_of_an_unknown_key_are_bad(log: Log) -> None:
    with log.store.open(options=audit_oracle.SETTINGS) as connection:
        assert judge(connection, SERVER, [], "").bad_batches > 0
