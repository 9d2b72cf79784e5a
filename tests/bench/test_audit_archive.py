"""The archive beside the store: size, speed of export and check, memory, and questions hot and cold."""

import asyncio
import itertools
import json
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.harness.archived_store import ArchivedStore, archived_store
from tests.harness.audit_store import DATABASE
from tests.harness.bench import records
from tests.harness.processes import VAULTBRIX

from vaultbrix.audit import query, rows, seal
from vaultbrix.audit.archive import cold
from vaultbrix.audit.archive.check import check_archive
from vaultbrix.audit.archive.manifest import NAME, SIGNATURE_NAME
from vaultbrix.audit.archive.place import Place
from vaultbrix.audit.query import Filter
from vaultbrix.audit.shipping import sealing
from vaultbrix.audit.shipping import store as audit_store

pytestmark = pytest.mark.timeout(3600)
COUNT = int(os.environ.get("VAULTBRIX_BENCH_RECORDS", "10000000"))
BATCH = 8192
START = records.midnight(datetime.now(UTC)) - timedelta(days=2)


async def fill(found: ArchivedStore) -> None:
    """A day of sealed records, and one of the next day."""
    signer = seal.Signer(found.store.signing_key.encode())
    made = itertools.chain(
        records._day(random.Random(0), START, COUNT), records._day(random.Random(1), START + timedelta(days=1), 20)
    )
    socket, port = str(found.store.postgres.socket), found.store.postgres.port
    async with await psycopg.AsyncConnection.connect(
        host=socket, port=port, user="postgres", dbname=DATABASE, autocommit=True
    ) as connection:
        known = audit_store.Known()
        while some := list(itertools.islice(made, BATCH)):
            content = sealing.Content([(record, rows.record_line(record)) for record in some])
            # As if they had been sealed on their day.
            sealed = sealing.seal(signer, "main", known.batch + 1, known.head, None, content, now=some[-1].at)
            await audit_store.store(connection, None, sealed)
            known = audit_store.Known(sealed.header.batch, sealed.header.head())


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock and of this process's CPU, and what came of it."""
    begun, used = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - begun, time.process_time() - used, found


@pytest.fixture(scope="module")
def found() -> Iterator[ArchivedStore]:
    with archived_store() as running:
        asyncio.run(fill(running))
        running.store.query("ANALYZE audit.record")
        yield running


def test_archive(found: ArchivedStore) -> None:
    day = START.date()
    (found.path / "key.pem").write_text(found.key)
    command = [*VAULTBRIX, "audit", "export", found.url, f"--key={found.path / 'key.pem'}", f"--day={day}"]
    environment = {**os.environ, **found.store.environment(found.store.login("exporter", "audit_export"))}
    begun = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, environment)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - begun
    assert status == 0
    (size, heap), = found.store.query(
        "SELECT sum(pg_total_relation_size(relid)), sum(pg_table_size(relid)) FROM pg_partition_tree(to_regclass(%s))",
        [f"audit.record_{day:%Y%m%d}"],
    )  # fmt: skip
    parquet = sum(path.stat().st_size for path in Path(found.url).rglob("record-*.parquet"))
    results: dict[str, Any] = {
        "records": COUNT,
        "export_records_per_second": round(COUNT / seconds),
        "export_records_per_cpu_second": round(COUNT / (usage.ru_utime + usage.ru_stime)),
        "export_rss_mib": usage.ru_maxrss // 1024,
        "table_bytes_per_record": round(int(heap) / COUNT),
        "table_with_indexes_bytes_per_record": round(int(size) / COUNT),
        "parquet_bytes_per_record": round(parquet / COUNT, 1),
        "table_to_parquet": round(int(heap) / parquet, 1),
        "table_with_indexes_to_parquet": round(int(size) / parquet, 1),
    }
    place, folder = Place(found.url), f"day={day}/set=1"
    keys = {
        "exporters": seal.public_keys(found.public.encode()),
        "shippers": seal.public_keys(found.store.public_key.encode()),
    }
    checking, used, report = timed(
        lambda: check_archive(
            place.read(f"{folder}/{NAME}"),
            place.read(f"{folder}/{SIGNATURE_NAME}"),
            lambda name: place.open(f"{folder}/{name}"),
            **keys,
        )
    )
    assert report.findings == []
    results["check_records_per_second"] = round(report.rows / checking)
    results["check_records_per_cpu_second"] = round(report.rows / used)
    results["peak_rss_mib_of_check"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for name, value in results.items():
        print(f"{name:40} {value:>12}", flush=True)
    archive = cold.open_archive(place, keys["exporters"])
    whole = Filter(START, START + timedelta(days=1))
    some = query.latest(found.store.open(options=rows.SETTINGS), whole, 1)[0]
    print(f"\n{'question':24} {'hot ms':>8} {'cold ms':>8} {'cold CPU ms':>12}")
    for name, change in {
        "latest 200": {},
        "tenant": {"tenants": (some["tenant"],)},
        "person": {"person": some["person"]},
        "address": {"address": "203.0.1.0/28"},
        "rule": {"authorization": some["ground"]},
        "object": {"object": some["object_name"] or "tenant_t1.table1"},
        "class": {"class_": "DDL"},
        "refused": {"outcome": "refused"},
        "text": {"text": "item LIKE 'a%'"},
    }.items():
        asked = replace(whole, **change)  # type: ignore[arg-type]
        with found.store.open(options=rows.SETTINGS) as link:
            hot_seconds, _, hot = timed(lambda: query.latest(link, asked, 200))  # noqa: B023
        cold_seconds, cold_used, told = timed(lambda: cold.latest(archive, asked, [day], 200))  # noqa: B023
        assert [row["line_num"] for row in told] == [row["line_num"] for row in hot]
        results[f"query {name}"] = {
            "hot_ms": round(hot_seconds * 1000, 1),
            "cold_ms": round(cold_seconds * 1000),
            "cold_cpu_ms": round(cold_used * 1000),
        }
        print(f"{name:24} {hot_seconds * 1000:8.1f} {cold_seconds * 1000:8.0f} {cold_used * 1000:12.0f}", flush=True)
    target = Path(__file__).parent / "results" / "audit-archive.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n")
