"""What the gate costs, by kind of statement and number of the tenant's tables; with and without it in turn, in one run.

``make bench-ddl`` prints a table and merges ``gate`` into tests/bench/results/ddl.json, and as ``gate_noise`` how far
two sides are apart that are the same. Both sides are one session on one server, whose event triggers are switched off
and on between short blocks: two servers differ by the places of their files alone.
"""

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from tests.harness.bench import results
from tests.harness.database import Database, send
from tests.harness.database import running as database_running

from vaultbrix.ddl.gate import policy

pytestmark = pytest.mark.timeout(900)

SIZES = (10, 1_000, 3_000, 10_000)
NOISE_AT = 1_000
# Blocks of each side, and statements of a block; those before them are not counted, since they load what was switched.
# Short ones, since a disturbance lasts longer than a block: it then meets both sides.
BLOCKS = 100
STATEMENTS = 2
UNCOUNTED = 1
# So many times as many blocks of what the gate does not see: it is soon over, so what disturbs counts for more.
OFTENER = {"INSERT": 3, "UPDATE": 3}
EVENT_TRIGGERS = ("vaultbrix_start", "vaultbrix_drop", "vaultbrix_end")

numbers = itertools.count(1)

# A statement that is timed, what comes before it and after it in the same session, untimed; {n} is a number of its own,
# {work} a table of the side's own.
KINDS: dict[str, tuple[str, str, str]] = {
    "CREATE TABLE": ("", "CREATE TABLE new{n}(id int PRIMARY KEY, v text)", ""),
    "CREATE INDEX": ("CREATE TABLE new{n}(id int)", "CREATE INDEX ON new{n}(id)", ""),
    "CREATE OR REPLACE VIEW": ("", "CREATE OR REPLACE VIEW look AS SELECT {n} AS n", ""),
    "CREATE TEMP TABLE": ("", "CREATE TEMP TABLE own{n}(id int)", "DROP TABLE own{n}"),
    "GRANT": ("", "GRANT SELECT ON {work} TO vaultbrix_jobs", "REVOKE SELECT ON {work} FROM vaultbrix_jobs"),
    "INSERT": ("", "INSERT INTO {work} VALUES ({n}, 'x')", ""),
    "UPDATE": ("", "UPDATE {work} SET v = 'y' WHERE id = 1", ""),
    "ALTER TABLE ADD COLUMN (policy)": ("CREATE TABLE new{n}(id int)", "ALTER TABLE new{n} ADD COLUMN w int", ""),
    "ALTER TABLE ADD FOREIGN KEY (policy)": (
        "CREATE TABLE new{n}(id int)",
        "ALTER TABLE new{n} ADD FOREIGN KEY (id) REFERENCES {work}",
        "ALTER TABLE new{n} DROP CONSTRAINT new{n}_id_fkey",
    ),
    "DROP TABLE (refused)": ("CREATE TABLE new{n}(id int)", "DROP TABLE new{n}", ""),
}


class Sides:
    """One session of a tenant, whose statements run with the gate or without it."""

    def __init__(self, database: Database) -> None:
        self.role = database.tenant("bench")
        self.database, self.session = database, database.login(self.role)
        self._admin = database.postgres.connect()
        # Before all others, so that they hardly count; the two take turns, so it is one processor that they take.
        for process in (0, self.session.info.backend_pid):
            os.setpriority(os.PRIO_PROCESS, process, -20)
        database.admin(policy.set_policy, self.role, additive=True)
        for work in ("work_on", "work_off"):
            send(self.session, f"CREATE TABLE {work}(id int PRIMARY KEY, v text); INSERT INTO {work} VALUES (1, 'x')")
        self._admin.execute(f"DROP TRIGGER vaultbrix_truncate_guard ON {self.role}.work_off".encode())
        self._tables = 0

    def close(self) -> None:
        """End both sessions."""
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        self.session.close()
        self._admin.close()

    def grow(self, tables: int) -> None:
        """Have so many tables beside the two that statements are about, all with what the gate puts on a table."""
        self.switch(enabled=True)
        for first in range(self._tables, tables, 100):
            many = range(first, min(first + 100, tables))
            send(self.session, ";".join(f"CREATE TABLE t{n}(id int PRIMARY KEY, v text)" for n in many))
        self._tables = tables
        self._admin.execute("VACUUM ANALYZE")

    def switch(self, *, enabled: bool) -> None:
        """The event triggers on or off, as only a superuser can."""
        how = "ENABLE ALWAYS" if enabled else "DISABLE"
        send(self._admin, ";".join(f"ALTER EVENT TRIGGER {name} {how}" for name in EVENT_TRIGGERS))

    def tidy(self) -> None:
        """Drop what a kind left, so that the next one has as many tables."""
        left = self._admin.execute(
            "SELECT format('%%I.%%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname = %s AND tablename LIKE 'new%%'",
            [self.role],
        ).fetchall()
        if left:
            self._admin.execute(f"DROP TABLE {', '.join(name for (name,) in left)}".encode())
        self._admin.execute("VACUUM pg_class, pg_attribute, pg_type, pg_depend, pg_index, pg_constraint, pg_trigger")

    def compare(self, kind: str, *, gate: bool) -> tuple[list[float], list[float]]:
        """Milliseconds of each statement on either side, in order: on, off; without ``gate`` both are off."""
        times: dict[bool, list[float]] = {True: [], False: []}
        for block in range(BLOCKS * 2 * OFTENER.get(kind, 1)):
            # On, off, off, on, ...: what grows or shrinks meanwhile does so for both.
            side = block % 4 in (0, 3)
            self.switch(enabled=side and gate)
            for counted in range(-UNCOUNTED, STATEMENTS):
                taken = self._time(kind, next(numbers), "work_on" if side else "work_off")
                if counted >= 0:
                    times[side].append(taken * 1000)
        self.tidy()
        return sorted(times[True]), sorted(times[False])

    def _time(self, kind: str, number: int, work: str) -> float:
        """Seconds of one statement, as one message."""
        before, statement, after = (text.replace("{n}", str(number)).replace("{work}", work) for text in KINDS[kind])
        if before:
            send(self.session, before)
        begun = time.perf_counter()
        result = send(self.session, statement)
        taken = time.perf_counter() - begun
        state = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
        assert state in (("", "VBX01") if "refused" in kind else ("",)), (statement, result.error_message)
        if after:
            send(self.session, after)
        return taken


@pytest.fixture(scope="module")
def sides() -> Iterator[Sides]:
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(database_running({"autovacuum": "off"}, in_memory=True))
        yield stack.enter_context(contextlib.closing(Sides(database)))


def p99(times: list[float]) -> float:
    return times[int(len(times) * 0.99) - 1]


def test_what_the_gate_costs(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    figures: dict[str, Any] = {}
    noise: dict[str, float] = {}
    say: Callable[..., None] = print
    with capsys.disabled():
        heads = "".join(f"{head:>10}" for head in ("off p50", "on p50", "off p99", "on p99"))
        say(f"\n{'statement':<38}{'tables':>7}{heads}{'ratio':>8}  (ms)")
        for tables in SIZES:
            sides.grow(tables)
            for kind in KINDS:
                on, off = sides.compare(kind, gate=True)
                p50 = statistics.median(on), statistics.median(off)
                figures.setdefault(kind, {})[str(tables)] = {
                    "on_p50_ms": round(p50[0], 3), "off_p50_ms": round(p50[1], 3),
                    "on_p99_ms": round(p99(on), 3), "off_p99_ms": round(p99(off), 3),
                    "ratio": round(p50[0] / p50[1], 3),
                }  # fmt: skip
                row = "".join(f"{value:>10.3f}" for value in (p50[1], p50[0], p99(off), p99(on)))
                say(f"{kind:<38}{tables:>7}{row}{p50[0] / p50[1]:>8.2f}")
            if tables == NOISE_AT:
                for kind in KINDS:
                    one, other = (statistics.median(side) for side in sides.compare(kind, gate=False))
                    noise[kind] = round(one / other, 3)
        say(f"gate off on both sides, {NOISE_AT} tables: ratios {min(noise.values()):.2f} to {max(noise.values()):.2f}")
    results.keep("ddl", {"gate": figures, "gate_noise": {"tables": NOISE_AT, "ratios": noise}})
