"""The shipper against its raw input: every line of the log is stored once, whatever is killed meanwhile."""

import json
import random
import time

import pytest
from tests.harness.database import PASSWORD
from tests.harness.processes import Process
from tests.harness.shipping import Shipping, shipping

ROLE = "tenant_audit"


def raw(parts: Shipping) -> list[tuple[str, int, str, int]]:
    """Every line of the log: file, byte offset, session and number within it."""
    lines = []
    for path in sorted(parts.postgres.logs.glob("*.json")):
        position = 0
        for line in path.read_bytes().splitlines(keepends=True):
            entry = json.loads(line)
            lines.append((path.name, position, entry["session_id"], entry["line_num"]))
            position += len(line)
    return lines


def stored(parts: Shipping) -> list[tuple[str, int, str, int]]:
    return [tuple(row) for row in parts.store.query("SELECT file, position, session_id, line_num FROM audit.record")]


def assert_complete(parts: Shipping) -> None:
    parts.settle()
    before = raw(parts)
    found = stored(parts)
    assert len(found) == len(set(found)), "duplicates"
    assert set(before) - set(found) == set(), "lost"
    assert parts.store.query("SELECT * FROM audit.gap") == []
    assert parts.store.query("SELECT * FROM audit.hole") == []
    assert parts.store.query("SELECT * FROM audit.quarantine") == []


def kill_at_random(parts: Shipping, times: int) -> None:
    """SIGKILL the shipper so often while sessions work and the log changes files."""
    load = Process(
        ["pgbench", "-n", "-c2", "-T600", "-f", str(parts.path / "load.sql")],
        parts.path / "pgbench.log",
        env={
            "PGHOST": "127.0.0.1",
            "PGPORT": str(parts.postgres.port),
            "PGUSER": ROLE,
            "PGPASSWORD": PASSWORD,
            "PGDATABASE": "postgres",
        },
    )
    (parts.path / "load.sql").write_text(
        "SELECT 'a,b';\nSELECT \"x\"\nFROM (SELECT 1 AS x) y;\nSELECT pg_sleep(0.002);\n"
    )
    seed = random.randrange(2**32)
    print("seed", seed)
    pick = random.Random(seed)
    load.start()
    try:
        for number in range(times):
            time.sleep(pick.uniform(0.3, 1.2))
            if number % 2:
                parts.postgres.query("SELECT pg_rotate_logfile()")
            parts.shipper.kill()
            parts.shipper.start()
    finally:
        load.stop()
    assert "failed" not in parts.shipper.text()


@pytest.mark.parametrize("times", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_a_killed_shipper_loses_and_repeats_nothing(times: int) -> None:
    with shipping() as parts:
        parts.database.tenant("audit")
        kill_at_random(parts, times)
        assert_complete(parts)
        assert parts.store.query("SELECT count(*) > 1 FROM (SELECT DISTINCT file FROM audit.record) f") == [(True,)]


def test_nothing_is_lost_while_the_store_is_away_or_a_second_shipper_runs() -> None:
    with shipping() as parts:
        parts.database.tenant("audit")
        second = parts.another("second")
        second.start()
        try:
            for away in (True, False):
                if away:
                    parts.store.stop()
                with parts.database.login(ROLE) as connection:
                    for number in range(300):
                        connection.execute(f"SELECT {number}")
                if away:
                    parts.postgres.query("SELECT pg_rotate_logfile()")
                    parts.store.postgres.start()
            assert_complete(parts)
        finally:
            second.stop()
        assert "Traceback" not in parts.shipper.text() + second.text()
        rows = parts.store.query("SELECT count(*) FROM audit.statement WHERE role = %s", [ROLE])
        assert rows == [(600,)]
