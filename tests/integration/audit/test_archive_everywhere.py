"""Store and archive answer as one record: what retention has dropped is told as before, and nothing twice."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.harness.archived_store import HOSTILE, ArchivedStore, archived_store, day_of, line, statement
from tests.harness.processes import VAULTBRIX
from tests.harness.shell import run

from vaultbrix.audit import query, rows, seal
from vaultbrix.audit.archive.cold import open_archive
from vaultbrix.audit.archive.everywhere import Everywhere
from vaultbrix.audit.archive.export import ExportError
from vaultbrix.audit.archive.place import Place
from vaultbrix.audit.query import Filter

DAYS = [day_of(n) for n in range(6, 0, -1)]
DROPPED = (DAYS[0], DAYS[2], DAYS[3])
START = datetime.combine(DAYS[0], datetime.min.time(), UTC)
ALL = Filter(START, START + timedelta(days=30))
MOST = 1_000_000
LAST_SECOND = 24 * 3600 - 1

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found() -> Iterator[ArchivedStore]:
    with archived_store() as running:
        running.store.query("UPDATE audit.retention SET days = 1, archive = true")
        main = running.server("main")
        for number, day in enumerate(DAYS):
            # Each ends with a statement that has its end on the next day.
            begun, ended = statement(day, LAST_SECOND, f"SELECT 'long {number}'", session="long")
            begun["message"] = begun["message"].replace(f"SESSION,{LAST_SECOND},", f"SESSION,{number + 1},")
            main.write(
                f"{day}",
                [
                    *itertools.chain.from_iterable(
                        statement(day, n, f"SELECT {n}, '{HOSTILE}'", session=f"{day}") for n in range(2, 30, 2)
                    ),
                    {**begun, "line_num": 2 * number + 1},
                    {**ended, "line_num": 2 * number + 2},
                    line(day, 80_000, session="e", line_num=number + 1, error_severity="ERROR", state_code="42601",
                         message="syntax error", statement="SELEC", ps="PARSE", func_name="scanner_yyerror"),
                ],
            )  # fmt: skip
        main.write(f"{day_of(0)}", [line(day_of(0), 1)])
        running.settle()
        for day in DAYS:
            assert not running.export(day).why
        yield running


def ask(found: ArchivedStore, wanted: Filter, limit: int = MOST, *, archive: bool = True) -> Rows:
    with found.store.open(options=rows.SETTINGS) as connection:
        if archive:
            opened = open_archive(Place(found.url), seal.public_keys(found.public.encode()))
            told = Everywhere(opened).latest(connection, wanted, limit)
        else:
            told = query.latest(connection, wanted, limit)
    return [{**row, "address": row["address"] and str(row["address"])} for row in told]


def test_what_was_dropped_is_told_as_before_and_once(found: ArchivedStore) -> None:
    before = ask(found, ALL, archive=False)
    assert len(before) == len(DAYS) * 16
    assert ask(found, ALL) == before
    with found.store.open() as owner:
        for day in DROPPED:
            owner.execute("SELECT audit.drop_partition(%s)", [f"record_{day:%Y%m%d}_1"])
    assert len(ask(found, ALL, archive=False)) < len(before)
    assert ask(found, ALL) == before
    for limit in (1, 20, 40):
        assert ask(found, ALL, limit) == before[-limit:]
    middle = before[len(before) // 2]["at"]
    assert ask(found, replace(ALL, since=middle)) == [row for row in before if row["at"] >= middle]
    assert ask(found, replace(ALL, until=middle)) == [row for row in before if row["at"] < middle]
    assert ask(found, replace(ALL, text="long 2")) == [row for row in before if "long 2" in row["statement"]]
    late = statement(DAYS[0], 500, "SELECT 'late'", session="late")
    found.servers["main"].write("late", late)
    found.settle()
    told = ask(found, ALL)
    assert [row for row in told if row["session_id"] != "late"] == before
    assert [(row["statement"], row["outcome"]) for row in told if row["session_id"] == "late"] == [
        ("SELECT 'late'", "ok")
    ]


def test_the_command_asks_both_for_those_who_may_see_all(found: ArchivedStore) -> None:
    (found.path / "export.pub").write_text(found.public)
    command = [*VAULTBRIX, "audit", "query", "--since", f"{DAYS[0]}", f"--archive={found.url}", "--output=json"]
    keys = f"--archive-keys={found.path / 'export.pub'}"
    reader = found.store.environment(found.store.reader)
    done = run(*command, keys, "--limit=0", env=reader)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["line_num"] for row in told] == [row["line_num"] for row in ask(found, ALL)]
    newest = run(*command, keys, "--limit=3", env=reader).stdout.splitlines()
    assert [json.loads(line) for line in newest] == told[-3:]
    for more, env, expected in (
        ([], reader, "error: --archive: needs --archive-keys"),
        ([keys], found.store.environment(found.store.login("own", "audit_tenant")), "error: --archive: holds every"),
        (
            [f"--archive-keys={write(found, 'other.pub', seal.new_key()[1])}"],
            reader,
            "error: archive: signed with a key",
        ),
        ([keys, "--archive=s3://"], reader, "error: URL: no bucket is named"),
    ):
        failed = run(*command, *more, env=env, check=False)
        assert (failed.returncode in (1, 2), failed.stderr.startswith(expected) or failed.stderr) == (True, True)
        assert failed.stdout == ""


def write(found: ArchivedStore, name: str, content: str) -> str:
    (found.path / name).write_text(content)
    return str(found.path / name)


def test_a_day_that_was_dropped_before_its_export_is_exported_from_what_came_late() -> None:
    with archived_store() as found:
        found.store.query("UPDATE audit.retention SET days = 1")
        main = found.server("main")
        main.write("1", [*statement(DAYS[0], 2, "SELECT 'dropped'"), line(day_of(0), 1)])
        found.settle()
        found.store.query("SELECT audit.drop_partition(%s)", [f"record_{DAYS[0]:%Y%m%d}_1"])
        main.write("2", statement(DAYS[0], 4, "SELECT 'late'"))
        found.settle()
        assert found.export(DAYS[0]).rows == 2
        report = found.check(DAYS[0])
        assert (report.findings, report.rows) == ([], 2)
        with pytest.raises(ExportError, match="has dropped what the archive holds"):
            found.export(DAYS[0], again=True)
