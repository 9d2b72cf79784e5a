"""Asking the store: what is found, how it is shown, and that nobody reads without leaving a record of it."""

import csv
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.harness.client_messages import WHOLE_MESSAGES
from tests.harness.database import send
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import run, wait_for
from tests.harness.shipping import JANE, Shipping, shipping

from vaultbrix.ddl.gate import policy
from vaultbrix.ddl.gate.patterns import relation_pattern

ROLE = "tenant_audit"


@pytest.fixture(scope="module")
def parts() -> Iterator[Shipping]:
    with shipping() as running:
        running.database.tenant("audit")
        running.open_grants(ROLE)
        yield running


def environment(parts: Shipping) -> dict[str, str]:
    return {**parts.store.environment(parts.store.reader), "PYTHONPATH": "operator", "PYTHONUNBUFFERED": "1"}


def ask(
    parts: Shipping, *arguments: str, check: bool = True, command: str = "query"
) -> subprocess.CompletedProcess[str]:
    return run(*VAULTBRIX, "audit", command, *arguments, env=environment(parts), check=check)


def rows(parts: Shipping, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ask(parts, "--output=json", *arguments).stdout.splitlines()]


def texts(parts: Shipping, *arguments: str) -> list[str]:
    return [row["statement"] for row in rows(parts, *arguments)]


@pytest.fixture(scope="module")
def mark(parts: Shipping) -> str:
    """Part of the names of what the work of this module made."""
    name = f"m{uuid4().hex[:10]}"
    parts.session(
        ROLE,
        lambda c: [
            send(c, text)
            for text in (
                f"CREATE TABLE {name}(id int PRIMARY KEY)",
                f"INSERT INTO {name} VALUES (1), (2)",
                f"SELECT id FROM {name}",
                f"SELECT nope FROM {name}",
                f"INSERT INTO {name} VALUES (1)",
                f"DROP TABLE {name}",
                f"GRANT SELECT ON {name} TO PUBLIC",
                f"SET ROLE {ROLE} /* {name} */",
                f"SET statement_timeout = 20 /* {name} */",
                f"SELECT pg_sleep(9) /* {name} */",
                "RESET statement_timeout",
            )
        ],
    )
    return name


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--class=DDL",), ["CREATE TABLE", "DROP TABLE"]),
        (("--class=write",), ["INSERT INTO", "INSERT INTO"]),
        (("--class=ROLE",), ["GRANT SELECT"]),
        (("--command=drop table",), ["DROP TABLE"]),
        (("--command=SET", "--text=set role"), ["SET ROLE"]),
        (("--command=SELECT", "--outcome=ok"), ["SELECT id"]),
        (("--outcome=refused",), ["DROP TABLE"]),
        (("--outcome=cancelled",), ["SELECT pg_sleep(9)"]),
        (("--outcome=error",), ["SELECT nope", "INSERT INTO"]),
        (("--outcome=unknown",), []),
        (("--text=SELECT NOPE",), ["SELECT nope"]),
        (("--rule=team/jane", "--class=DDL"), ["CREATE TABLE", "DROP TABLE"]),
        (("--role=tenant_audit", "--class=ROLE"), ["GRANT SELECT"]),
        (("--address=127.0.0.1", f"--person={JANE}", "--tenant=tenant_audit", "--text=CREATE"), ["CREATE TABLE"]),
        (("--address=::1",), []),
        (("--since=1h", "--class=DDL"), ["CREATE TABLE", "DROP TABLE"]),
        (("--until=1h",), []),
        (("--limit=0", "--class=DDL"), ["CREATE TABLE", "DROP TABLE"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_each_filter_finds_what_it_names_and_nothing_else(
    parts: Shipping, mark: str, arguments: tuple[str, ...], found: list[str]
) -> None:
    shown = [text for text in texts(parts, *arguments) if mark in text]
    assert [" ".join(text.split()[:2]) for text in shown] == found


def test_who_touched_an_object_is_found_by_its_name_with_and_without_schema(parts: Shipping, mark: str) -> None:
    for name in (mark, f"{ROLE}.{mark}"):
        assert [text.replace(mark, "it") for text in texts(parts, "--object", name)] == [
            "CREATE TABLE it(id int PRIMARY KEY)",
            "INSERT INTO it VALUES (1), (2)",
            "SELECT id FROM it",
            "INSERT INTO it VALUES (1)",
            "DROP TABLE it",
        ]
    for name in (f"other.{mark}", mark[:-1]):
        done = ask(parts, "--object", name, check=False)
        assert (done.returncode, done.stdout) == (1, "")


def test_an_object_is_found_behind_a_view_a_join_and_a_function(parts: Shipping) -> None:
    name = f"m{uuid4().hex[:10]}"
    body = f"BEGIN RETURN (SELECT count(*) FROM {name}); END"
    function = f"CREATE FUNCTION {name}_f() RETURNS bigint LANGUAGE plpgsql AS $$ {body} $$"
    parts.session(
        ROLE,
        lambda c: [
            send(c, text)
            for text in (
                f"CREATE TABLE {name}(id int)",
                f"CREATE VIEW {name}_v AS SELECT id FROM {name}",
                function,
                f"SELECT 1 FROM {name}_v",
                f"SELECT 2 FROM (SELECT 1) x JOIN {name} ON true",
                f"SELECT {name}_f()",
                "SELECT 3",
            )
        ],
    )
    found = rows(parts, f"--object={name}", "--class=READ")
    assert [row["statement"] for row in found] == [
        f"SELECT 1 FROM {name}_v",
        f"SELECT 2 FROM (SELECT 1) x JOIN {name} ON true",
        f"SELECT {name}_f()",
    ]
    assert found[0]["objects"] == [f"{ROLE}.{name}", f"{ROLE}.{name}_v"]


def test_all_that_a_relation_that_is_rebuilt_takes_along_is_found(parts: Shipping) -> None:
    name = f"m{uuid4().hex[:10]}"
    parts.database.admin(policy.set_rebuildable, ROLE, frozenset({relation_pattern(f"{name}*", ROLE)}))
    made = (f"CREATE TABLE {name}(id int)", f"CREATE VIEW {name}_v AS SELECT id FROM {name}")
    parts.session(ROLE, lambda c: [send(c, text) for text in (*made, f"DROP TABLE {name} CASCADE")])
    for taken in (name, f"{name}_v"):
        found = rows(parts, f"--object={taken}", "--command=drop table")
        assert [(row["statement"], row["outcome"]) for row in found] == [(f"DROP TABLE {name} CASCADE", "ok")]


def test_text_is_searched_for_as_it_is_written(parts: Shipping) -> None:
    odd = f"{uuid4().hex}%_\\'"
    parts.session(ROLE, lambda c: send(c, f"SELECT $${odd}$$"))
    assert texts(parts, "--text", odd) == [f"SELECT $${odd}$$"]
    assert texts(parts, "--text", odd.replace("_", "x")) == []


def test_all_in_order_is_the_latest_in_order(parts: Shipping, mark: str) -> None:
    latest, everything = rows(parts, "--limit=100000"), rows(parts, "--limit=0")
    assert latest == everything
    assert [row["at"] for row in latest] == sorted(row["at"] for row in latest)
    assert rows(parts, "--limit=3") == latest[-3:]


def test_questions_find_what_the_view_holds(parts: Shipping, mark: str) -> None:
    view = parts.store.query("SELECT session_id, line_num FROM audit.statement")
    asked = [(row["session_id"], row["line_num"]) for row in rows(parts, "--limit=0", "--all")]
    assert sorted(asked) == sorted(view)


def test_csv_is_read_back_and_holds_no_formula(parts: Shipping) -> None:
    mark = uuid4().hex
    sent = [f"{lead}SELECT '{mark}, \"\n'" for lead in ("\t", "\r", "=", "+", "-", "@", "")]
    parts.session(ROLE, lambda c: [send(c, text) for text in sent])
    command = [*VAULTBRIX, "audit", "query", "--output=csv", "--text", mark]
    shown = subprocess.run(command, env={**os.environ, **environment(parts)}, capture_output=True, check=True).stdout
    found = list(csv.DictReader(io.StringIO(shown.decode(), newline="")))
    # Of a statement that has run, PostgreSQL 17 tells without the blanks before it.
    told = sent if WHOLE_MESSAGES else [text.lstrip() for text in sent]
    assert [row["statement"] for row in found] == [f"'{text}" if text[0] in "\t\r=+-@" else text for text in told]
    assert found[-1]["person"] == JANE
    assert found[-1]["outcome"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--tenant=audti",), 1, "--tenant: audti is in no record"),
        (("--address=1.2.3",), 2, "--address: '1.2.3' is no address"),
        (("--since=yesterday",), 2, "--since: 'yesterday' is no time"),
        (("--until=2026-13-01",), 2, "--until: '2026-13-01' is no time"),
        (("--since=0001-01-01",), 2, "--since: the year 1"),
        (("--since=2026-02-01", "--until=2026-01-01"), 2, "--until: 2026-01-01 00:00:00 is not after --since"),
        (("--class=REED",), 2, "--class: REED is no class of statements"),
        (("--person=jnae@example.com",), 1, "--person: jnae@example.com is in no record that you may see"),
        (("--approver=nobody@example.com",), 1, "--approver: nobody@example.com is in no record"),
        (("--rule=team/none",), 1, "--rule: team/none is in no record"),
        (("--role=tenant_adit",), 1, "--role: tenant_adit is in no record"),
        (("--object=no_such_table",), 1, "--object: no_such_table is in no record"),
        (("--outcome=good",), 2, "--outcome: 'good' is none"),
        (("--follow", "--until=2026-01-01"), 2, "--follow: has no end"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_question_is_told_what_is_wrong_with_it(
    parts: Shipping, mark: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = ask(parts, *arguments, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"error: {said}")


def test_a_tenant_that_nearly_has_that_name_is_named(parts: Shipping, mark: str) -> None:
    assert f"did you mean {ROLE}" in ask(parts, "--tenant=tenant_audti", check=False).stderr


def test_a_tenant_without_records_in_that_time_is_no_error(parts: Shipping, mark: str) -> None:
    done = ask(parts, f"--tenant={ROLE}", "--since=2026-01-01", "--until=2026-01-02", "--output=json")
    assert (done.stdout, done.stderr.split(";")[0]) == ("", f"no record of {ROLE} in that time")


def failing(parts: Shipping, **changes: str) -> str:
    done = run(*VAULTBRIX, "audit", "query", env={**environment(parts), **changes}, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_a_store_that_cannot_be_asked_is_told_with_the_remedy(parts: Shipping) -> None:
    assert "set PGHOST" in failing(parts, PGPORT="1")
    elsewhere = {"PGDATABASE": "postgres", "PGHOST": str(parts.store.postgres.socket), "PGUSER": "postgres"}
    assert "is no audit store" in failing(parts, **elsewhere)
    shipper = parts.store.login("onlyappends", "audit_append")
    told = failing(parts, **parts.store.environment(shipper))
    assert "permission denied" in told
    assert "connect as a login that may do this" in told


@pytest.mark.parametrize(("by", "remedy"), [(1, "use the release"), (-1, "upgrade the store")])
def test_a_store_of_another_schema_is_not_asked(parts: Shipping, by: int, remedy: str) -> None:
    ((newest,),) = parts.store.query("SELECT max(version) FROM public.audit_migration")
    parts.store.query("UPDATE public.audit_migration SET version = version + %s WHERE version = %s", [100 * by, newest])
    try:
        assert remedy in failing(parts)
    finally:
        parts.store.query(
            "UPDATE public.audit_migration SET version = %s WHERE version = %s", [newest, newest + 100 * by]
        )


def notes(parts: Shipping, command: str) -> list[dict[str, Any]]:
    found = parts.store.query(
        "SELECT actor, detail FROM audit.event WHERE kind = 'read' AND detail->>'asked' = %s ORDER BY id", [command]
    )
    return [{"actor": actor, **detail} for actor, detail in found]


def test_reading_is_on_record_with_what_was_asked(parts: Shipping, mark: str) -> None:
    ask(parts, "--person", JANE, "--text", mark, "--class=DDL", "--since=2h")
    assert notes(parts, "query")[-1] == {
        "actor": "auditor", "asked": "query", "person": JANE, "text": mark, "class": "DDL", "since": "2h",
    }  # fmt: skip


def test_nothing_is_shown_where_reading_cannot_be_put_on_record(parts: Shipping, mark: str) -> None:
    parts.store.query("REVOKE EXECUTE ON FUNCTION audit.note(text, jsonb) FROM audit_read")
    try:
        for command in ("query", "tail", "stats"):
            done = ask(parts, check=False, command=command)
            assert (done.returncode, done.stdout) == (1, ""), command
            assert "permission denied for function note" in done.stderr
    finally:
        parts.store.query("GRANT EXECUTE ON FUNCTION audit.note(text, jsonb) TO audit_read")


def following(parts: Shipping, name: str, *arguments: str) -> Process:
    # As from a terminal: who runs the tests may have let them ignore SIGINT.
    command = ["env", "--default-signal=INT", *VAULTBRIX, "audit", "tail", "--output=json", *arguments]
    return Process(command, parts.path / f"{name}.log", env=environment(parts))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tail_shows_each_new_statement_once_with_its_end_and_ends_when_asked_to(
    parts: Shipping, mark: str, number: signal.Signals
) -> None:
    word = uuid4().hex
    before = len(notes(parts, "tail"))
    tail = following(parts, f"tail{number}", f"--text={word}")
    tail.start()
    try:
        wait_for("tail is on record", lambda: len(notes(parts, "tail")) == before + 1, tell=tail.text)
        expected = [f"SELECT {n}, '{word}'" for n in range(3)] + [f"SELECT pg_sleep(1.5), '{word}'"]
        parts.session(ROLE, lambda c: [send(c, text) for text in expected])
        wait_for("all are shown", lambda: len(tail.text().splitlines()) >= len(expected), tell=tail.text)
        time.sleep(2)
        found = [json.loads(line) for line in tail.text().splitlines()]
        assert [row["statement"] for row in found] == expected
        assert {row["outcome"] for row in found} == {"ok"}
        assert len(notes(parts, "tail")) == before + 1
    finally:
        assert tail.stop(number) == 0
    assert "Traceback" not in tail.text()


def test_tail_ends_when_nobody_reads_it(parts: Shipping, mark: str) -> None:
    with subprocess.Popen(
        [*VAULTBRIX, "audit", "tail", "--output=json", "--all"],
        env={**os.environ, **environment(parts)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()

        def ended() -> bool:
            parts.session(ROLE, lambda c: send(c, "SELECT 1"))
            return process.poll() is not None

        wait_for("tail has ended", ended)
        assert process.returncode == 0
        assert process.stderr.read() == b""


def test_stats_count_statements_and_tell_what_is_missing(parts: Shipping, mark: str) -> None:
    parts.store.query("INSERT INTO audit.gap(server, file, position, reason) VALUES ('main', 'x.json', 7, 'a test')")
    forged = "DO $$ BEGIN RAISE LOG 'AUDIT: SESSION,99,1,DDL'; END $$"
    parts.session(ROLE, lambda c: send(c, forged))
    parts.settle()
    found = json.loads(ask(parts, "--output=json", command="stats").stdout)
    mine = [row for row in found["counts"] if row["tenant"] == f"team/{ROLE}"]
    assert {row["day"] for row in mine} <= {str(datetime.now(UTC).date() - timedelta(days=n)) for n in (0, 1)}
    assert sum(row["many"] for row in mine if row["class"] == "DDL") >= 1
    assert sum(row["many"] for row in mine if row["outcome"] == "refused") == 1
    assert sum(row["many"] for row in mine if row["outcome"] == "cancelled") == 1
    assert (found["gaps"], found["forged"], found["quarantined"], found["holes"]) == (1, 1, 0, 0)
    (server,) = found["servers"]
    assert server["server"] == "main"
    assert server["batch"] > 0
    assert server["seconds"] >= 0
    shown = ask(parts, command="stats").stdout
    assert "gaps" in shown
    assert f"team/{ROLE}" in shown
