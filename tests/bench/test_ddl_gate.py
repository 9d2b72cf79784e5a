"""What the gate costs, by kind of statement and number of the tenant's tables; with and without it in turn, in one run.

``make bench-ddl`` prints a table and merges ``gate`` into tests/bench/results/ddl.json. Both databases have the same
settings and the same tables; only in one are event triggers and guards switched off.
"""

import contextlib
import itertools
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

SIZES = (10, 1_000, 3_000)
TRIES = 100

numbers = itertools.count(1)

# A statement that is timed, what comes before it and after it in the same session, untimed; {n} is a number of its own.
KINDS: dict[str, tuple[str, str, str]] = {
    "CREATE TABLE": ("", "CREATE TABLE new{n}(id int PRIMARY KEY, v text)", ""),
    "CREATE INDEX": ("CREATE TABLE new{n}(id int)", "CREATE INDEX ON new{n}(id)", ""),
    "CREATE OR REPLACE VIEW": ("", "CREATE OR REPLACE VIEW look AS SELECT {n} AS n", ""),
    "CREATE TEMP TABLE": ("", "CREATE TEMP TABLE own{n}(id int)", "DROP TABLE own{n}"),
    "GRANT": ("", "GRANT SELECT ON work TO vaultbrix_jobs", "REVOKE SELECT ON work FROM vaultbrix_jobs"),
    "INSERT": ("", "INSERT INTO work VALUES ({n}, 'x')", ""),
    "UPDATE": ("", "UPDATE work SET v = 'y' WHERE id = 1", ""),
    "ALTER TABLE ADD COLUMN (policy)": ("CREATE TABLE new{n}(id int)", "ALTER TABLE new{n} ADD COLUMN w int", ""),
    "ALTER TABLE ADD FOREIGN KEY (policy)": (
        "CREATE TABLE new{n}(id int)",
        "ALTER TABLE new{n} ADD FOREIGN KEY (id) REFERENCES work",
        "ALTER TABLE new{n} DROP CONSTRAINT new{n}_id_fkey",
    ),
    "DROP TABLE (refused)": ("CREATE TABLE new{n}(id int)", "DROP TABLE new{n}", ""),
}


class Side:
    """One of the two databases with a tenant of that many tables."""

    def __init__(self, database: Database, tables: int) -> None:
        role = database.tenant(f"b{tables}")
        self.session = database.login(role)
        send(self.session, "CREATE TABLE work(id int PRIMARY KEY, v text); INSERT INTO work VALUES (1, 'x')")
        for first in range(0, tables, 100):
            many = range(first, min(first + 100, tables))
            send(self.session, ";".join(f"CREATE TABLE t{n}(id int PRIMARY KEY, v text)" for n in many))
        database.admin(policy.set_policy, role, additive=True)
        database.postgres.query("VACUUM ANALYZE")

    def time(self, kind: str, number: int) -> float:
        """Seconds of one statement, as one message."""
        before, statement, after = (text.replace("{n}", str(number)) for text in KINDS[kind])
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
def databases() -> Iterator[tuple[Database, Database]]:
    with contextlib.ExitStack() as stack:
        on, off = (stack.enter_context(database_running({"autovacuum": "off"})) for _ in range(2))
        off.set_gate(enabled=False)
        yield on, off


def test_what_the_gate_costs(databases: tuple[Database, Database], capsys: pytest.CaptureFixture[str]) -> None:
    figures: dict[str, Any] = {}
    say: Callable[..., None] = print
    with capsys.disabled():
        heads = "".join(f"{head:>10}" for head in ("off p50", "on p50", "off p99", "on p99"))
        say(f"\n{'statement':<38}{'tables':>7}{heads}{'ratio':>8}  (ms)")
        for tables in SIZES:
            on, off = (Side(database, tables) for database in databases)
            for kind in KINDS:
                times: dict[Side, list[float]] = {on: [], off: []}
                for number in itertools.islice(numbers, TRIES + 10):
                    # In turn, and the first of each round in turn too, so that what disturbs disturbs both.
                    for side in (on, off) if number % 2 else (off, on):
                        times[side].append(side.time(kind, number) * 1000)
                with_gate, without = sorted(times[on][10:]), sorted(times[off][10:])
                p50 = statistics.median(with_gate), statistics.median(without)
                p99 = with_gate[int(len(with_gate) * 0.99) - 1], without[int(len(without) * 0.99) - 1]
                figures.setdefault(kind, {})[str(tables)] = {
                    "on_p50_ms": round(p50[0], 3), "off_p50_ms": round(p50[1], 3),
                    "on_p99_ms": round(p99[0], 3), "off_p99_ms": round(p99[1], 3), "ratio": round(p50[0] / p50[1], 3),
                }  # fmt: skip
                row = "".join(f"{value:>10.3f}" for value in (p50[1], p50[0], p99[1], p99[0]))
                say(f"{kind:<38}{tables:>7}{row}{p50[0] / p50[1]:>8.2f}")
            on.session.close()
            off.session.close()
    results.keep("ddl", {"gate": figures})
