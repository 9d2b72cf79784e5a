"""An archive is checked by whoever has the public keys: no store, no login."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.archived_store import ArchivedStore, archived_store, day_of, statement
from tests.harness.processes import VAULTBRIX
from tests.harness.sealed_store import write

DAYS = OLD, MIDDLE, YESTERDAY = day_of(3), day_of(2), day_of(1)


@pytest.fixture(scope="module")
def exported() -> Iterator[ArchivedStore]:
    with archived_store() as found:
        main = found.server("main")
        for day in DAYS:
            main.write(f"{day}", statement(day, 2, f"SELECT '{day}'"))
            found.settle()
        main.write("today", statement(day_of(0), 2, "SELECT 'today'"))
        found.settle()
        for day in DAYS:
            found.export(day)
        yield found


def verify(
    found: ArchivedStore, tmp_path: Path, *more: str | Path, url: str | Path = ""
) -> subprocess.CompletedProcess[str]:
    keys = write(tmp_path / "signing.pub", found.store.public_key)
    exporters = write(tmp_path / "export.pub", found.public)
    command = ["audit", "verify", "--keys", keys, "--export-keys", exporters, "--archive", url or found.url, *more]
    return subprocess.run([*VAULTBRIX, *map(str, command)], capture_output=True, text=True, check=False)


def test_an_untouched_archive_holds(exported: ArchivedStore, tmp_path: Path) -> None:
    done = verify(exported, tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all seals hold"), done


@pytest.mark.parametrize("what", ["byte", "file", "set", "signature"])
def test_tampering_is_found_and_the_place_named(exported: ArchivedStore, tmp_path: Path, what: str) -> None:
    copy = Path(shutil.copytree(exported.url, tmp_path / "copy"))
    folder = copy / f"day={YESTERDAY}" / "set=1"
    record = next(folder.glob("record*.parquet"))
    if what == "byte":
        content = bytearray(record.read_bytes())
        content[len(content) // 2] ^= 1
        record.write_bytes(content)
    elif what == "file":
        record.unlink()
    elif what == "signature":
        (folder / "manifest.sig").write_bytes(bytes(64))
    else:
        (folder / "manifest.json").unlink()
    done = verify(exported, tmp_path, url=copy)
    assert done.returncode == 1, done
    assert f"day={YESTERDAY}" in done.stdout.splitlines()[-1], done
    assert done.stdout.splitlines()[-1].startswith("first bad: ")


def test_a_bad_call_names_option_and_remedy(exported: ArchivedStore, tmp_path: Path) -> None:
    for more, url, code, message in (
        (("--day", "2026-12-01"), "", 2, "--archive: stands alone"),
        ((), "ftp://x/y", 2, "--archive: ftp: is not known"),
        ((), str(tmp_path / "none"), 1, "--archive: there is nothing at"),
    ):
        done = verify(exported, tmp_path, *more, url=url)
        assert (done.returncode, f"error: {message}" in done.stderr) == (code, True), done
