"""A tenant's own auditor sees the tenant's records by the same commands as others, and learns nothing of others'."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from tests.harness.audit_store import open_as
from tests.harness.database import send
from tests.harness.processes import VAULTBRIX
from tests.harness.shell import run, wait_for
from tests.harness.shipping import Shipping, shipping

MINE, OTHER = "tenant_mine", "tenant_other"
EVE = "eve@example.com"
PASSWORD = "correct-horse-battery-staple"
SECRET = f"secret{uuid4().hex}"
WINDOW = "'-infinity', 'infinity'"


@pytest.fixture(scope="module")
def parts() -> Iterator[Shipping]:
    with shipping() as running:
        for role, person in ((OTHER, EVE), (MINE, "jane@example.com")):
            running.database.tenant(role.removeprefix("tenant_"))
            running.open_grants(role, person=person)
            name = SECRET if role == OTHER else "own"
            texts = (f"CREATE TABLE {name}()", f"SELECT '{name}'", f"DROP TABLE {name}")
            running.session(role, lambda c, texts=texts: [send(c, text) for text in texts])
        running.store.query(
            "INSERT INTO audit.gap(server, file, position, reason) VALUES ('main', %s, 7, 'a test')", [SECRET]
        )
        running.store.query("VACUUM ANALYZE audit.record")
        yield running


@pytest.fixture(scope="module")
def manager(parts: Shipping) -> dict[str, str]:
    return parts.store.environment(parts.store.login("manager", "audit_manage"))


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


def command(login: dict[str, str], *arguments: str | Path, code: int = 0) -> str:
    done = run(*VAULTBRIX, "audit", *arguments, env={**login, "PYTHONPATH": "operator"}, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def reader(parts: Shipping, manager: dict[str, str], password: Path) -> Iterator[dict[str, str]]:
    """The libpq environment of an auditor of MINE."""
    name = f"auditor-{uuid4().hex[:8]}@mine"
    command(manager, "reader", "add", name, f"--tenant=team/{MINE}", "--password-file", password)
    yield {**manager, "PGUSER": name, "PGPASSWORD": PASSWORD}
    command(manager, "reader", "remove", name)


def test_reader_sees_own_statements_and_counts_only(parts: Shipping, reader: dict[str, str]) -> None:
    rows = [json.loads(line) for line in command(reader, "query", "--all", "--output=json").splitlines()]
    assert {row["tenant"] for row in rows} == {f"team/{MINE}"}
    assert [(row["statement"], row["outcome"]) for row in rows] == [
        ("CREATE TABLE own()", "ok"), ("SELECT 'own'", "ok"), ("DROP TABLE own", "refused"),
    ]  # fmt: skip
    for more in (("--outcome=refused",), ("--class=DDL",), ("--object=own",), ("--text=own",)):
        assert "own" in command(reader, "query", "--output=json", *more)
    counted = json.loads(command(reader, "stats", "--output=json"))
    assert {row["tenant"] for row in counted["counts"]} == {f"team/{MINE}"}
    assert counted.keys() == {"since", "until", "counts"}


def test_a_text_of_others_finds_nothing(reader: dict[str, str]) -> None:
    assert command(reader, "query", "--all", "--output=json", f"--text={SECRET}") == ""


@pytest.mark.parametrize(
    ("option", "name"), [("--person", EVE), ("--object", SECRET), ("--role", OTHER)], ids=["person", "object", "role"]
)
def test_names_of_others_are_told_as_names_that_nobody_has(reader: dict[str, str], option: str, name: str) -> None:
    for given in (name, f"x{name}"):
        told = command(reader, "query", "--all", "--output=json", f"{option}={given}", code=1)
        assert f"{option}: {given} is in no record that you may see" in told


def test_an_error_names_no_other_tenant(parts: Shipping, reader: dict[str, str]) -> None:
    told = command(reader, "query", f"--tenant=x{OTHER}", code=1)
    assert f"--tenant: x{OTHER} is in no record that you may see" in told
    assert f" {OTHER}" not in told.split("see", 1)[1]
    assert "is in no record" in command(reader, "query", f"--tenant={OTHER}", code=1)


def test_reading_is_on_record_under_the_readers_own_name(parts: Shipping, reader: dict[str, str]) -> None:
    command(reader, "query", "--text=own")
    ((kind, detail),) = parts.store.query(
        "SELECT kind, detail FROM audit.event WHERE actor = %s ORDER BY id", [reader["PGUSER"]]
    )
    assert (kind, detail) == ("read", {"asked": "query", "text": "own"})


TABLES = ("record", "started", "statement", "hole", "gap", "quarantine", "event", "batch", "part", "checkpoint",
          "logfile", "retention", "reader")  # fmt: skip


def test_no_table_view_or_partition_is_open(parts: Shipping, reader: dict[str, str]) -> None:
    partitions = parts.store.query("SELECT relid::regclass::text FROM pg_partition_tree('audit.record')")
    relations = [f"audit.{name}" for name in TABLES] + [name for (name,) in partitions]
    with open_as(reader) as connection:
        connection.execute(
            "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
        )
        for relation in relations:
            for query in (
                f"SELECT count(*) FROM {relation}",
                f"SELECT FROM {relation} r WHERE pg_temp.leak(r::text)",
                f"EXPLAIN SELECT FROM {relation}",
                f"EXPLAIN ANALYZE SELECT FROM {relation}",
                f"TABLE {relation}",
                f"COPY {relation} TO STDOUT",
            ):
                with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.WrongObjectType)):
                    connection.execute(query.encode())


def test_the_functions_that_see_more_than_their_caller_are_few_and_known(parts: Shipping) -> None:
    mine = "proname::text, has_function_privilege('audit_tenant', oid, 'EXECUTE')"
    found = dict(
        parts.store.query(
            f"SELECT {mine} FROM pg_proc WHERE pronamespace = 'audit'::regnamespace AND prosecdef"
            " AND prorettype <> 'trigger'::regtype"
        )
    )
    assert {name for name, may in found.items() if may} == {
        "my_tenants", "note", "sees_all", "tenants", "hits", "statement_lines", "statements_at", "heads", "counts",
    }  # fmt: skip


def everything(connection: psycopg.Connection, query: str, parameters: list[Any] | None = None) -> str:
    """What a query says, errors and notices with it."""
    said: list[str] = []
    connection.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
    try:
        said.append(str(connection.execute(query.encode(), parameters).fetchall()))
    except psycopg.Error as error:
        said += [str(error), str(error.diag.message_detail), str(error.diag.context)]
    return " ".join(said)


def test_no_function_statistics_or_plan_tells_of_others(parts: Shipping, reader: dict[str, str]) -> None:
    keys = parts.store.query("SELECT session_id, line_num FROM audit.record WHERE tenant = %s", [f"team/{OTHER}"])
    assert keys
    arrays = [["main"] * len(keys), [key[0] for key in keys], [key[1] for key in keys]]
    day = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)
    asked: list[tuple[str, list[Any]]] = [
        (f"SELECT * FROM audit.tenants({WINDOW})", []),
        (f"SELECT * FROM audit.counts({WINDOW})", []),
        (f"SELECT * FROM audit.started_within({WINDOW})", []),
        (f"SELECT * FROM audit.statements_within({WINDOW})", []),
        ("SELECT * FROM audit.statements_at('{}', %s, %s, %s, %s, %s)", [*arrays, *day]),
        ("SELECT * FROM audit.statement_lines(%s, %s, %s, %s, %s)", [*arrays, *day]),
        *[
            ("SELECT * FROM audit.hits(%s, %s, %s, true, NULL, 1000)", [json.dumps({"everybody": True, **more}), *day])
            for more in ({}, {"tenants": [f"team/{OTHER}"]}, {"person": EVE}, {"object": SECRET}, {"role": OTHER},
                         {"outcome": "refused"}, {"batches": {}}, {"text": SECRET})
        ],
        ("EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM audit.hits(%s, %s, %s, true, NULL, 9)", ["{}", *day]),
        ("SELECT * FROM pg_stats WHERE schemaname = 'audit'", []),
        ("SELECT * FROM pg_stats_ext", []),
        ("SELECT * FROM pg_stat_activity", []),
        ("SELECT * FROM pg_statistic", []),
        ("SELECT * FROM audit.add_reader('x', '{a/b}', NULL)", []),
        ("SELECT * FROM audit.ensure_partition('2026-01-01', 400)", []),
    ]  # fmt: skip
    sessions = {key[0] for key in keys}
    with open_as(reader) as connection:
        for query, parameters in asked:
            found = everything(connection, query, parameters)
            for secret in (SECRET, EVE, OTHER, *sessions):
                # What was asked comes back in errors.
                if not any(secret in str(parameter) for parameter in parameters):
                    assert secret not in found, (query, found)
        # It does find what is its own.
        assert MINE in everything(connection, f"SELECT * FROM audit.tenants({WINDOW})")
        assert (
            everything(connection, "SELECT * FROM audit.statement_lines(%s, %s, %s, %s, %s)", [*arrays, *day]) == "[]"
        )


def test_rows_of_two_tenants_are_for_who_reads_both(
    parts: Shipping, manager: dict[str, str], reader: dict[str, str]
) -> None:
    both = f"team/{MINE}, team/{OTHER}"
    text = f"SELECT {uuid4().int}"
    parts.store.query(
        "INSERT INTO audit.record(server, at, session_id, line_num, kind, role, tenant, ground, tag,"
        " statement, sqlstate, file, position)"
        " VALUES ('main', now(), %s, 1, 'error', %s, %s, 'a, b', 'PARSE', %s, '42601', 'f', 0)",
        [uuid4().hex, MINE, both, text],
    )
    assert text not in command(reader, "query", "--output=json")
    command(manager, "reader", "add", reader["PGUSER"], f"--tenant=team/{OTHER}")
    assert text in command(reader, "query", "--output=json")
    assert SECRET in command(reader, "query", "--output=json", f"--tenant={OTHER}")
    command(manager, "reader", "remove", reader["PGUSER"], f"--tenant=team/{OTHER}")
    assert text not in command(reader, "query", "--output=json")


def test_a_manager_who_makes_itself_a_reader_is_on_record_under_seal_and_cannot_undo_that(
    parts: Shipping, manager: dict[str, str], password: Path
) -> None:
    own = f"spare-{uuid4().hex[:8]}"
    command(manager, "reader", "add", own, f"--tenant=team/{MINE}", "--password-file", password)
    command({**manager, "PGUSER": own, "PGPASSWORD": PASSWORD}, "query")
    command(manager, "reader", "remove", own)
    told = (
        "SELECT kind, actor, detail->>'action', batch IS NOT NULL FROM audit.event"
        " WHERE %s IN (actor, detail->>'login')"
    )
    expected = [("reader", "manager", "add", True), ("read", own, None, True), ("reader", "manager", "remove", True)]
    wait_for("all of it is sealed", lambda: parts.store.query(f"{told} ORDER BY id", [own]) == expected)
    with open_as(manager) as connection:
        for statement in ("UPDATE audit.event SET actor = 'x'", "DELETE FROM audit.event", "TRUNCATE audit.event"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_reader_is_added_listed_and_gone_with_its_sessions(
    parts: Shipping, manager: dict[str, str], password: Path
) -> None:
    name = f"r{uuid4().hex[:8]}"
    command(manager, "reader", "add", name, "--tenant=team/a", "--tenant=team/b", "--password-file", password)
    assert [line.split() for line in command(manager, "reader", "list").splitlines() if line.startswith(name)] == [
        [name, "team/a,", "team/b"]
    ]
    ((verifier,),) = parts.store.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [name])
    assert verifier.startswith("SCRAM-SHA-256$")
    assert PASSWORD not in parts.store.postgres.log_text()
    connection = open_as({**manager, "PGUSER": name, "PGPASSWORD": PASSWORD})
    assert command(manager, "reader", "remove", name) == f"{name} is gone\n"

    def ended() -> bool:
        try:
            connection.execute("SELECT 1")
        except psycopg.Error:
            return True
        return False

    wait_for("its session has ended", ended)
    assert parts.store.query("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]) == []
    events = parts.store.query(
        "SELECT actor, detail->>'action', detail::text LIKE '%%SCRAM%%' FROM audit.event"
        " WHERE kind = 'reader' AND detail->>'login' = %s ORDER BY id",
        [name],
    )
    assert events == [("manager", "add", False), ("manager", "remove", False)]


@pytest.mark.parametrize(
    ("name", "tenant", "said"),
    [
        ("shipper", "team/a", "is not a tenant's reader"),
        ("auditor", "team/a", "is not a tenant's reader"),
        ("manager", "team/a", "is not a tenant's reader"),
        ("postgres", "team/a", "is not a tenant's reader"),
        ("pg_read_all_data", "team/a", "is no name of a reader"),
        ('x"; DROP ROLE shipper; --', "team/a", "is no name of a reader"),
        ("fresh", "acme", "each is namespace/name"),
        ("fresh", "team/a, team/b", "each is namespace/name"),
    ],
)
def test_no_other_login_becomes_a_reader(
    manager: dict[str, str], password: Path, name: str, tenant: str, said: str
) -> None:
    assert said in command(manager, "reader", "add", name, "--tenant", tenant, "--password-file", password, code=1)


def test_passwords_are_long_and_come_from_a_file_or_a_terminal(manager: dict[str, str], tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("hello")
    add = ("reader", "add", "fresh", "--tenant=team/a")
    assert "use at least 12" in command(manager, *add, "--password-file", short, code=2)
    assert "there is no terminal to ask on" in command(manager, *add, code=2)
    assert "--password-file:" in command(manager, *add, "--password-file", tmp_path / "none", code=2)


def test_only_who_manages_the_store_adds_readers(
    parts: Shipping, manager: dict[str, str], reader: dict[str, str], password: Path
) -> None:
    auditor = parts.store.environment(parts.store.reader)
    add = ("reader", "add", "fresh", "--tenant=team/a", "--password-file", password)
    assert "permission denied" in command(auditor, *add, code=1)
    assert "permission denied" in command(reader, *add, code=1)
    assert "permission denied" in command(reader, "reader", "list", code=1)
