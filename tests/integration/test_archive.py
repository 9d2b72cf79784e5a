"""What is exported of the store proves itself without it, and nothing is signed that is not as it was sealed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.integration.recorded import HOSTILE, Recorded, day_of, line, recorded, statement

YESTERDAY = day_of(1)
TODAY = day_of(0)
LATER = datetime.now(UTC) + timedelta(days=2)


@pytest.fixture
def found() -> Iterator[Recorded]:
    with recorded() as running:
        main = running.server("main")
        main.write("1", [line(YESTERDAY, 1, message="connection received: host=x", func_name="BackendInitialize")])
        for number in range(2, 40, 2):
            main.write("1", statement(YESTERDAY, number, f"SELECT {number}, '{HOSTILE}'"))
        main.write("1", [b"no json\n", line(YESTERDAY, 50, message=None)])
        main.write("2", statement(TODAY, 2, "SELECT 'today'"))
        running.settle()
        yield running


def rows(found: Recorded, name: str) -> list[dict[str, object]]:
    files = sorted(Path(found.url).glob(f"*/*/{name}*.parquet"))
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


def test_a_past_day_is_exported_with_every_value_and_proves_itself(found: Recorded) -> None:
    done = found.export(YESTERDAY)
    assert (done.why, done.rows > 0) == ("", True)
    report = found.check(YESTERDAY)
    assert report.findings == []
    columns = "session_id, line_num, kind, host(address), statement, message, duration_ms, at, batch, leaf_index, leaf"
    stored = found.store.query(f"SELECT {columns} FROM audit.record WHERE at < %s ORDER BY line_num", [TODAY])  # type: ignore[arg-type]
    names = [name.replace("host(", "").rstrip(")") for name in columns.split(", ")]
    archived = sorted((tuple(row[name] for name in names) for row in rows(found, "record")), key=lambda row: row[1])
    assert archived == stored
