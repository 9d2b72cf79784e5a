"""A tenant that floods the log: nobody else's record suffers, nothing dies, and what is lost is told."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.harness.audit_store import Store
from tests.harness.database import Database, directory, free_port
from tests.harness.shell import wait_for
from tests.harness.shipping import Shipping
from tests.harness.small_disk import disks

from vaultbrix.audit.flow.flow_file import read_flow
from vaultbrix.ddl.gate import schema

# So much is on the log's disk, and so much of it each line of the flood takes.
MEBIBYTES = 64
LINE = 20_000_000
FLOOD = f"DO $$ BEGIN FOR i IN 1..2 LOOP RAISE LOG '%', repeat('x', {LINE}); END LOOP; END $$"


@pytest.fixture
def flooded() -> Iterator[Shipping]:
    with directory() as path, disks(path, logs=MEBIBYTES) as mounted, contextlib.ExitStack() as stack:
        logs = mounted["logs"].path / "log"
        database = Database(path, {"log_directory": str(logs)})
        logs.mkdir()
        shutil.chown(logs, "postgres", "postgres")
        database.postgres.logs = logs
        parts = Shipping(path, database, Store(path / "store", port=free_port()))
        stack.callback(database.postgres.stop)
        database.postgres.start()
        database.admin(schema.install)
        stack.callback(parts.store.stop)
        parts.store.start()
        stack.callback(parts.shipper.stop)
        parts.shipper.start()
        yield parts


def test_a_flood_is_told_and_neither_fills_the_record_with_holes_nor_hides_its_neighbour(
    flooded: Shipping,
) -> None:
    parts = flooded
    loud, quiet = parts.database.tenant("loud"), parts.database.tenant("quiet")
    neighbour, flood = parts.database.login(quiet), parts.database.login(loud)
    pids = [connection.info.backend_pid for connection in (neighbour, flood)]
    sent = 0
    with contextlib.suppress(psycopg.Error):
        for _ in range(3):
            flood.execute(FLOOD)
            neighbour.execute(f"SELECT {sent}")
            sent += 1
    assert sent == 3, "PostgreSQL goes on, whether it can log or not"
    wait_for(
        "flow.json names the session",
        lambda: [
            found.bytes
            for found in read_flow(parts.path / "shipper.json").loud
            if (found.pid, found.role) == (pids[1], loud) and found.bytes > LINE
        ],
        patience=240,
        tell=parts.shipper.text,
    )
    ((started,),) = parts.postgres.query(
        "SELECT date_trunc('second', backend_start) FROM pg_stat_activity WHERE pid = %s", [pids[1]]
    )
    named = {found.pid: found.started_at for found in read_flow(parts.path / "shipper.json").loud}
    assert named[pids[1]] == started
    # What the disk had no room for is gone; there is room again, and both go on.
    for path in sorted(parts.postgres.logs.glob("*.json"))[:-1]:
        wait_for("it is stored", lambda name=path.name: stored(parts, name) is not None, patience=240)
    for connection in (neighbour, flood):
        connection.execute("SELECT 'after'")
        connection.close()
    for role in (quiet, loud):
        wait_for("its end is stored", lambda role=role: ended(parts, role), patience=300, tell=parts.shipper.text)
    texts = [
        text
        for (text,) in parts.store.query(
            "SELECT statement FROM audit.record WHERE role = %s AND kind = 'statement' ORDER BY line_num", [quiet]
        )
    ]
    lost = [account(parts, pid) for pid in pids]
    assert texts == [*(f"SELECT {number}" for number in range(sent)), "SELECT 'after'"] or lost[0]
    assert parts.shipper.running
    assert "Traceback" not in parts.shipper.text()


def account(parts: Shipping, pid: int) -> int:
    """How many lines of a session are told as lost; each of its lines is stored, or told."""
    ((session, lines, highest),) = parts.store.query(
        "SELECT min(session_id), count(*), max(line_num) FROM audit.record WHERE pid = %s", [pid]
    )
    ((lost,),) = parts.store.query(
        "SELECT coalesce(sum(last_line - first_line + 1), 0) FROM audit.hole WHERE session_id = %s", [session]
    )
    assert lines + lost == highest
    return int(lost)


def stored(parts: Shipping, name: str) -> int | None:
    rows = parts.store.query("SELECT position FROM audit.logfile WHERE server = 'main' AND file = %s", [name])
    return rows[0][0] if rows else None


def ended(parts: Shipping, role: str) -> bool:
    return bool(parts.store.query("SELECT 1 FROM audit.record WHERE role = %s AND kind = 'disconnection'", [role]))


def test_log_settings_that_a_session_may_change_are_those_that_are_documented(flooded: Shipping) -> None:
    parts = flooded
    parts.database.tenant("settings")
    found = parts.postgres.query(
        "SELECT name FROM pg_settings WHERE context = 'user' AND (name ~ '^(log_|debug_p|trace_)') ORDER BY 1"
    )
    documented = (Path(__file__).parents[3] / "docs/audit-operations.md").read_text()
    assert found
    assert [name for (name,) in found if f"`{name}`" not in documented] == []
