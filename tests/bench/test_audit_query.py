"""How long a question takes, in a store of ten million records over ten days; and what each index costs to write.

``make bench`` prints the tables and merges ``query`` and ``indexes`` into tests/bench/results/audit.json. The
number of records is VAULTBRIX_BENCH_RECORDS.
"""

import os
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from tests.harness.audit_store import DATABASE, Store
from tests.harness.bench import results
from tests.harness.bench.records import fill, midnight
from tests.harness.database import directory, free_port

from vaultbrix.audit import stats
from vaultbrix.audit.query import Filter, latest

RECORDS = int(os.environ.get("VAULTBRIX_BENCH_RECORDS", "10000000"))
DAYS = 10
TRIES = 5
# Slower questions are asked once.
SLOW_SECONDS = 5.0
WRITTEN = 200_000

pytestmark = pytest.mark.timeout(7200)


@pytest.fixture(scope="module")
def connection() -> Iterator[psycopg.Connection]:
    """The owner of a store that is filled."""
    with directory() as path:
        store = Store(path / "store", port=free_port())
        try:
            store.start()
            with psycopg.connect(
                host=str(store.postgres.socket),
                port=store.postgres.port,
                user="postgres",
                dbname=DATABASE,
                autocommit=True,
            ) as owner:
                owner.execute("SET synchronous_commit = off")
                fill(owner, midnight(datetime.now(UTC)) - timedelta(days=DAYS), DAYS, RECORDS)
                owner.execute("VACUUM ANALYZE audit.record")
                yield owner
        finally:
            store.stop()


def questions(connection: psycopg.Connection, end: datetime) -> dict[str, dict[str, Any]]:
    """By what people ask, with values that occur."""
    row = connection.execute(
        "SELECT tenant, person, ground, host(address), object_name FROM audit.record WHERE at >= %s AND at < %s"
        " AND tenant = 'team-3/t3' AND kind = 'statement' AND object_name IS NOT NULL LIMIT 1",
        [end - timedelta(hours=12), end - timedelta(hours=11)],
    ).fetchone()
    assert row is not None
    tenant, person, ground, address, name = row
    return {
        "nothing": {},
        "tenant (5 %)": {"tenants": (tenant,)},
        "tenant (0.25 %)": {"tenants": ("team-23/t143",)},
        "person": {"person": person},
        "person without records": {"person": "nobody@example.com"},
        "rule": {"authorization": ground},
        "address": {"address": address},
        "CIDR": {"address": "203.0.1.0/24"},
        "object": {"object": name},
        "object, name alone": {"object": name.split(".")[1]},
        "class READ": {"class_": "READ"},
        "class DDL": {"class_": "DDL"},
        "command GRANT": {"command": "GRANT"},
        "command that nobody sent": {"command": "VACUUM"},
        "outcome refused": {"outcome": "refused"},
        "outcome error": {"outcome": "error"},
        "tenant and outcome": {"tenants": ("team-23/t143",), "outcome": "error"},
        "text (0.3 %)": {"text": "create index"},
        "text that occurs nowhere": {"text": "no such words"},
    }


def test_how_long_questions_take(connection: psycopg.Connection, capsys: pytest.CaptureFixture[str]) -> None:
    end = midnight(datetime.now(UTC))
    figures: dict[str, Any] = {"records": RECORDS}
    with capsys.disabled():
        heads = f"{'time':>6}{'rows':>6}{'first ms':>10}{'p50 ms':>10}{'store CPU ms':>14}"
        print(f"\n{'latest 200 by':<28}{heads}   {RECORDS:,} records")
        for days in (1, DAYS):
            for name, fields in questions(connection, end).items():
                taken: list[float] = []
                rows: list[Any] = []
                used = seconds(connection.info.backend_pid)
                while len(taken) < TRIES and (not taken or taken[0] < SLOW_SECONDS):
                    begun = time.perf_counter()
                    rows = latest(connection, Filter(end - timedelta(days=days), end, **fields), 200)
                    taken.append(time.perf_counter() - begun)
                first, p50 = taken[0] * 1000, statistics.median(taken) * 1000
                cpu = (seconds(connection.info.backend_pid) - used) / len(taken) * 1000
                figures.setdefault(name, {})[f"{days}d"] = {
                    "first_ms": round(first, 1), "p50_ms": round(p50, 1), "cpu_ms": round(cpu, 1),
                }  # fmt: skip
                print(f"{name:<28}{days:>5}d{len(rows):>6}{first:>10.1f}{p50:>10.1f}{cpu:>14.1f}")
        begun = time.perf_counter()
        found = stats.gather(connection, end - timedelta(days=1), end, lambda done: None, now=datetime.now(UTC))
        taken_ms = (time.perf_counter() - begun) * 1000
        print(f"{'stats':<28}{1:>5}d{len(found.counts):>6}{taken_ms:>10.1f}")
        figures["stats"] = {"1d": {"first_ms": round(taken_ms, 1)}}
    results.keep("audit", {"query": figures})


def seconds(pid: int) -> float:
    """Of the processor, that a process has used; other work on the machine does not count."""
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_what_an_index_costs_to_write(connection: psycopg.Connection, capsys: pytest.CaptureFixture[str]) -> None:
    definitions = connection.execute(
        "SELECT c.relname, regexp_replace(pg_get_indexdef(c.oid), '^.* USING ', 'USING ') FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 'audit.record'::regclass ORDER BY c.relname"
    ).fetchall()
    considered = [("text (trigrams), not there", "USING gin (statement gin_trgm_ops) WHERE kind = 'statement'")]
    connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    cases = [("none", []), *[(name, [text]) for name, text in [*definitions, *considered]]]
    cases.append(("all that are there", [text for _, text in definitions]))
    figures = {}
    start = midnight(datetime.now(UTC)) - timedelta(days=1)
    with capsys.disabled():
        print(f"\n{'index':<44}{'µs a row':>10}{'bytes a row':>13}")
        for name, indexes in cases:
            connection.execute("DROP TABLE IF EXISTS public.written")
            connection.execute("CREATE UNLOGGED TABLE public.written (LIKE audit.record)")
            for index in indexes:
                connection.execute(f"CREATE INDEX ON public.written {index}".encode())
            before = seconds(connection.info.backend_pid)
            connection.execute(
                "INSERT INTO public.written SELECT * FROM audit.record WHERE at >= %s ORDER BY at LIMIT %s",
                [start, WRITTEN],
            )
            cost = (seconds(connection.info.backend_pid) - before) / WRITTEN * 1e6
            row = connection.execute("SELECT pg_indexes_size('public.written')").fetchone()
            size = row[0] / WRITTEN if row else 0
            figures[name] = {"us": round(cost, 2), "bytes": round(size, 1)}
            print(f"{name:<44}{cost:>10.2f}{size:>13.1f}")
    connection.execute("DROP TABLE public.written")
    results.keep("audit", {"indexes": figures})
