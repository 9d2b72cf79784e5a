"""What is exported of the store proves itself without it, and nothing is signed that is not as it was sealed."""

import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.harness.archived_store import HOSTILE, ArchivedStore, archived_store, day_of, line, statement
from tests.harness.shell import wait_for

from vaultbrix.audit import seal
from vaultbrix.audit.archive import manifest as manifests
from vaultbrix.audit.archive import plan, store
from vaultbrix.audit.archive.check import check_days, hash_of
from vaultbrix.audit.archive.export import ExportError
from vaultbrix.audit.archive.place import Place

Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
OLD = day_of(3)
YESTERDAY = day_of(1)
TODAY = day_of(0)
LATER = datetime.now(UTC) + timedelta(days=2)


@pytest.fixture(scope="module")
def running() -> Iterator[ArchivedStore]:
    with archived_store() as found:
        main = found.server("main")
        for day in (OLD, YESTERDAY):
            main.write(f"{day}", [line(day, 1, message="connection received: host=x", func_name="BackendInitialize")])
            for number in range(2, 40, 2):
                main.write(f"{day}", statement(day, number, f"SELECT {number}, '{HOSTILE}'"))
                # A batch of its own.
                found.settle()
        main.write(f"{TODAY}", statement(TODAY, 2, "SELECT 'today'"))
        found.settle()
        yield found


@pytest.fixture
def found(running: ArchivedStore, tmp_path: Path) -> ArchivedStore:
    """With an empty archive and keys as they were."""
    running.settle()
    return dataclasses.replace(running, url=str(tmp_path / "archive"), store=copy.copy(running.store))


def rows(found: ArchivedStore, name: str) -> list[dict[str, object]]:
    files = sorted(Path(found.url).glob(f"*/*/{name}*.parquet"))
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


def test_a_past_day_is_exported_with_every_value_and_proves_itself(found: ArchivedStore) -> None:
    done = found.export(YESTERDAY)
    assert (done.why, done.rows > 0) == ("", True)
    report = found.check(YESTERDAY)
    assert report.findings == []
    columns = "session_id, line_num, kind, host(address), statement, message, duration_ms, at, batch, leaf_index, leaf"
    stored = found.store.query(
        f"SELECT {columns} FROM audit.record WHERE at >= %s AND at < %s ORDER BY line_num", [YESTERDAY, TODAY]
    )  # type: ignore[arg-type]
    names = [name.replace("host(", "").rstrip(")") for name in columns.split(", ")]
    archived = sorted((tuple(row[name] for name in names) for row in rows(found, "record")), key=lambda row: row[1])
    assert archived == stored


def folder(found: ArchivedStore, number: int = 1, day: object = YESTERDAY) -> Path:
    return Path(found.url) / f"day={day}" / f"set={number}"


def rewrite(path: Path, change: Change) -> None:
    """Write a Parquet file anew with other rows, as someone would who holds the files."""
    table = pq.read_table(path, partitioning=None)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), path)


def resign(found: ArchivedStore, key: str) -> None:
    """Give the manifest the files that are there now, signed with a key."""
    signer = seal.Signer(key.encode())
    said = manifests.decode((folder(found) / "manifest.json").read_bytes())
    files = []
    for file in said.files:
        with (folder(found) / file.name).open("rb") as opened:
            size, hashed = hash_of(opened)
        files.append(msgspec.structs.replace(file, bytes=size, sha256=hashed))
    content = msgspec.structs.replace(said, files=tuple(files), signer=signer.identity.hex()).encode()
    (folder(found) / "manifest.json").write_bytes(content)
    (folder(found) / "manifest.sig").write_bytes(signer.sign_content(content))


def first(path: Path, pattern: str) -> Path:
    return sorted(path.glob(pattern))[0]


def without_row(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[:3] + rows[4:]


def other_person(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows[-1]["person"] = "mallory"
    return rows


def row_twice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*rows, rows[-1]]


@pytest.mark.parametrize("change", [without_row, other_person, row_twice])
def test_whoever_holds_the_export_key_still_cannot_change_rows(found: ArchivedStore, change: Change) -> None:
    found.export(YESTERDAY)
    path = first(folder(found), "record-*")
    batches = {row["batch"] for row in pq.read_table(path, partitioning=None).to_pylist()}
    rewrite(path, change)
    resign(found, found.key)
    finding = found.check(YESTERDAY).findings[0]
    assert finding.server == "main"
    assert finding.batch in batches
    assert finding.part == f"record {YESTERDAY} 400"


def test_a_flipped_byte_names_its_file(found: ArchivedStore) -> None:
    found.export(YESTERDAY)
    for path in sorted(folder(found).glob("*.parquet")):
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        assert found.check(YESTERDAY).findings[0].file == path.name
        path.write_bytes(content)
    assert found.check(YESTERDAY).findings == []


def test_a_file_that_is_missing_is_named(found: ArchivedStore) -> None:
    found.export(YESTERDAY)
    path = first(folder(found), "record-*")
    path.unlink()
    assert next((f.file, f.what) for f in found.check(YESTERDAY).findings) == (path.name, "the file is missing")


@pytest.mark.parametrize("name", ["batch.parquet", "part.parquet"])
def test_a_batch_that_is_taken_out_is_missed(found: ArchivedStore, name: str) -> None:
    found.export(YESTERDAY)
    rewrite(folder(found) / name, lambda rows: rows[1:])
    resign(found, found.key)
    assert found.check(YESTERDAY).findings


def test_another_key_is_refused_for_manifest_and_batches(found: ArchivedStore) -> None:
    found.export(YESTERDAY)
    other, public = seal.new_key()
    good = found.public
    resign(found, other)
    assert "not among the public keys" in found.check(YESTERDAY).findings[0].what
    found.public = public
    assert found.check(YESTERDAY).findings == []
    found.store.public_key = good
    assert "not signed by a known shipper's key" in found.check(YESTERDAY).findings[0].what


def test_a_changed_manifest_is_refused(found: ArchivedStore) -> None:
    found.export(YESTERDAY)
    path = folder(found) / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"complete":true', b'"complete":false'))
    assert found.check(YESTERDAY).findings[0].file == "manifest.json"


def test_a_day_waits_for_its_end_and_for_every_server_but_those_that_are_named() -> None:
    with archived_store() as found:
        found.server("main").write("1", [line(YESTERDAY, 1), line(TODAY, 1)])
        late = found.server("late")
        late.write("1", [line(YESTERDAY, 2)])
        found.settle()
        assert found.export(TODAY).why == "not yet: it is not over yet (UTC)"
        assert found.export(YESTERDAY).why == "not yet: no record after it is stored yet from late"
        assert found.export(YESTERDAY, unawaited=frozenset({"late"})).why == ""
        report = found.check(YESTERDAY)
        assert report.findings == []
        assert report.manifest
        assert {name: span.complete for name, span in report.manifest.servers.items()} == {"main": True, "late": False}
        late.write("1", [line(YESTERDAY, 3), line(TODAY, 3)])
        found.settle()
        assert found.export(YESTERDAY).number == 2


def test_repeating_changes_nothing_and_late_lines_make_a_supplement(found: ArchivedStore) -> None:
    done = found.export(YESTERDAY)
    before = {path: path.read_bytes() for path in Path(found.url).rglob("*.*")}
    assert found.export(YESTERDAY).why == "exported already"
    assert {path: path.read_bytes() for path in Path(found.url).rglob("*.*")} == before
    found.servers["main"].write("3", statement(YESTERDAY, 60, "SELECT 'late'"))
    found.settle()
    assert found.store.query("SELECT audit.archived(%s, 400)", [YESTERDAY]) == [(False,)]
    late = found.export(YESTERDAY)
    assert (late.number, found.check(YESTERDAY, 2).findings) == (2, [])
    assert found.store.query("SELECT audit.archived(%s, 400)", [YESTERDAY]) == [(True,)]
    numbers = [row["line_num"] for row in rows(found, "record")]
    assert sorted(numbers) == [
        n
        for (n,) in found.store.query(
            "SELECT line_num FROM audit.record WHERE at >= %s AND at < %s ORDER BY 1", [YESTERDAY, TODAY]
        )
    ]
    noted = found.store.query(
        "SELECT detail->>'manifest_sha256', actor FROM audit.event WHERE kind = 'exported' AND detail->>'url' = %s"
        " ORDER BY id",
        [found.url],
    )
    assert noted == [(done.manifest, "postgres"), (late.manifest, "postgres")]


def test_gaps_quarantine_and_events_are_exported_with_the_day_they_were_sealed_on(found: ArchivedStore) -> None:
    found.export(YESTERDAY)
    (found.servers["main"].logs / f"{OLD}.json").write_bytes(b"no json\n")
    wait_for("the gap is stored", lambda: found.store.query("SELECT 1 FROM audit.gap"))
    found.settle()
    names = ("gap", "quarantine", "event")
    stored = [found.store.query(f"SELECT count(*) FROM audit.{name}")[0][0] for name in names]  # type: ignore[arg-type]
    found.export(TODAY, now=LATER, unawaited=frozenset({"main"}))
    assert found.check(TODAY).findings == []
    assert [len(rows(found, name)) for name in names] == stored
    assert all(stored)
    rewrite(folder(found, 1, TODAY) / "event.parquet", lambda rows: [{**rows[0], "actor": "nobody"}, *rows[1:]])
    assert {finding.part for finding in found.check(TODAY).findings} == {"", "event"}


def test_days_follow_each_other_without_a_hole(found: ArchivedStore) -> None:
    found.export(YESTERDAY)
    found.export(TODAY, now=LATER, unawaited=frozenset({"main"}))
    reports = [found.check(YESTERDAY), found.check(TODAY)]
    assert check_days(reports) == []


def test_what_is_not_as_it_was_sealed_is_not_signed(found: ArchivedStore) -> None:
    change = "UPDATE audit.record SET person = %s WHERE line_num = 4 AND at < %s"
    found.store.query(change, ["mallory", YESTERDAY])
    with pytest.raises(ExportError, match=r"not as it was sealed: .* a row was changed"):
        found.export(OLD)
    assert not list(Path(found.url).rglob("manifest.json"))
    assert found.store.query("SELECT 1 FROM audit.export WHERE day = %s", [OLD]) == []
    found.store.query(change, ["", YESTERDAY])
    assert found.export(OLD).why == ""


def test_a_row_that_is_erased_keeps_its_leaf_and_is_named(found: ArchivedStore) -> None:
    found.export(YESTERDAY)
    ((batch, index),) = found.store.query(
        "UPDATE audit.record SET statement = NULL, salt = NULL, redaction = 1"
        " WHERE line_num = 4 AND at >= %s AND at < %s RETURNING batch, leaf_index",
        [YESTERDAY, TODAY],
    )
    done = found.export(YESTERDAY, again=True)
    report = found.check(YESTERDAY, done.number)
    assert report.findings == []
    assert report.redacted == {("main", batch, f"record {YESTERDAY} 400", index)}
    assert [path.name for path in (Path(found.url) / f"day={YESTERDAY}").iterdir()] == ["set=2"]
    assert "SELECT 4, " not in str(rows(found, "record"))


def test_exporting_again_does_not_take_away_what_the_store_holds_no_more(found: ArchivedStore) -> None:
    found.export(OLD)
    found.store.query(f"DROP TABLE audit.record_{OLD:%Y%m%d}_400")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="has dropped what the archive holds"):
        found.export(OLD, again=True)
    assert found.check(OLD).findings == []


def test_an_export_that_was_interrupted_is_gone_on_with(found: ArchivedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MOST_ROWS", 5)
    put, broken = Place.put, []

    def fails(place: Place, name: str, source: Path) -> None:
        if len(broken) == 3:
            raise OSError("no space left")
        broken.append(name)
        put(place, name, source)

    monkeypatch.setattr(Place, "put", fails)
    with pytest.raises(OSError, match="no space"):
        found.export(YESTERDAY)
    monkeypatch.setattr(Place, "put", put)
    assert not (folder(found) / "manifest.json").exists()
    whole, damaged, other = (folder(found) / Path(name).name for name in broken)
    kept = whole.stat().st_ino
    damaged.write_bytes(damaged.read_bytes()[:-9])
    rewrite(other, other_person)
    (folder(found) / "record-400-main-9-9.parquet.old").write_text("left")
    assert found.export(YESTERDAY).why == ""
    assert found.check(YESTERDAY).findings == []
    assert whole.stat().st_ino == kept
    assert "mallory" not in str(rows(found, "record"))
    assert not list(folder(found).glob("*.old"))


def test_an_export_waits_for_one_that_has_just_ended_and_for_no_other(found: ArchivedStore) -> None:
    with found.store.open() as second:
        first = found.store.open()
        assert store.alone(first)
        assert not store.alone(second, patience=timedelta(milliseconds=100))
        ending = threading.Timer(0.5, first.close)
        ending.start()
        assert store.alone(second)
        ending.join()
        assert second.execute("SHOW lock_timeout").fetchone() == ("0",)
