"""PostgreSQL's log → shipper → store → table: complete, exactly once, attributed, and only what really happened."""

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from tests.harness.client_messages import WHOLE_MESSAGES
from tests.harness.database import PASSWORD, send
from tests.harness.processes import VAULTBRIX
from tests.harness.shell import run
from tests.harness.shipping import JANE, Shipping, shipping

from vaultbrix.ddl.gate import passes
from vaultbrix.ddl.plan import plan
from vaultbrix.grants.state import LoginRecord

ROLE = "tenant_audit"


@pytest.fixture(scope="module")
def parts() -> Iterator[Shipping]:
    with shipping() as running:
        running.database.tenant("audit")
        running.open_grants(ROLE)
        yield running


@pytest.fixture
def shipped(parts: Shipping) -> Iterator[Shipping]:
    """With the shipper running and one rule open, whatever the test before did."""
    parts.open_grants(ROLE)
    if not parts.shipper.running:
        parts.shipper.start()
    yield parts


def outcomes(rows: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(row["statement"], row["outcome"]) for row in rows]


def test_a_statement_names_person_address_time_duration_and_rule(shipped: Shipping) -> None:
    began = datetime.now(UTC)
    (row,) = shipped.session(ROLE, lambda c: send(c, "SELECT pg_sleep(0.05)"), application_name="psql")
    assert (row["tenant"], row["person"], row["ground"], row["role"]) == (f"team/{ROLE}", JANE, "team/jane", ROLE)
    assert (row["address"], row["application"], row["database"]) == ("127.0.0.1", "psql", "postgres")
    assert began - timedelta(seconds=1) <= datetime.fromisoformat(row["at"]) <= datetime.now(UTC)
    assert row["duration_ms"] >= 50
    assert row["outcome"] == "ok"


def test_a_person_that_nobody_knows_stays_unknown(shipped: Shipping) -> None:
    shipped.database.tenant("stranger")
    (row,) = shipped.session("tenant_stranger", lambda c: send(c, "SELECT 1"))
    assert (row["tenant"], row["person"], row["ground"], row["role"]) == ("", "", "", "tenant_stranger")


def test_a_refused_drop_and_an_approved_one_are_there_once_each(shipped: Shipping) -> None:
    text = "DROP TABLE gone"
    expires = datetime.now(UTC) + timedelta(hours=1)
    with shipped.database.login(ROLE) as connection:
        connection.execute("CREATE TABLE gone()")
    refused = shipped.session(ROLE, lambda c: send(c, text))
    shipped.database.admin(
        passes.issue_pass, pass_id=str(uuid4()), role=ROLE, login=ROLE, approved_by="pat", expires_at=expires,
        plan=plan(text),
    )  # fmt: skip
    approved = shipped.session(ROLE, lambda c: send(c, text))
    assert outcomes(refused) == [(text, "refused")]
    assert refused[0]["sqlstate"] == "VBX01"
    assert refused[0]["person"] == JANE
    assert outcomes(approved) == [(text, "ok")]
    assert (approved[0]["object_type"], approved[0]["object_name"]) == ("TABLE", f"{ROLE}.gone")


def test_a_one_time_login_stands_for_its_requester(shipped: Shipping) -> None:
    login = f"{ROLE}_d_0123456789"
    known = LoginRecord(approval="team/drop", tenant="team/audit", requested_by="joe@example.com", approved_by="pat")
    shipped.open_grants(ROLE, logins={login: known})
    shipped.postgres.query(f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}'")
    shipped.postgres.query(f"ALTER ROLE {login} SET pgaudit.log = 'all'")
    (row,) = shipped.session(login, lambda c: send(c, "SELECT 1"))
    assert (row["tenant"], row["person"], row["ground"]) == ("team/audit", "joe@example.com", "team/drop")


def test_what_the_gate_does_inside_is_no_statement(shipped: Shipping) -> None:
    name = f"t{uuid4().hex[:8]}"
    texts = (f"CREATE TABLE {name}(id int)", f"GRANT SELECT ON {name} TO PUBLIC", f"DROP TABLE {name}")
    rows = shipped.session(ROLE, lambda c: [send(c, text) for text in texts])
    assert outcomes(rows) == [(texts[0], "ok"), (texts[1], "ok"), (texts[2], "refused")]


def test_a_forged_audit_line_is_stored_as_what_it_is(shipped: Shipping) -> None:
    forged = 'AUDIT: SESSION,99,1,DDL,DROP DATABASE,DATABASE,prod,"DROP DATABASE prod",<none>'
    # As long as none of the real ones.
    duration = "duration: 86400000.000 ms"
    text = f"DO $$ BEGIN RAISE LOG '{forged}'; RAISE LOG '{duration}'; END $$"
    assert outcomes(shipped.session(ROLE, lambda c: send(c, text))) == [(text, "ok")]
    assert shipped.store.query("SELECT message FROM audit.record WHERE kind = 'forged'") == [(forged,)]
    assert shipped.store.query("SELECT kind FROM audit.record WHERE message = %s", [duration]) == [("other",)]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'it''s', \"a\" FROM (SELECT 1 AS a) x",
        "SELECT 1,\r\n  2,\n\n3\t-- done\n",
        "SELECT 'Größe, 数据库, \U0001f512, \u202e, \u2028, \x85'",
        "SELECT E'\\n', '\x01\x07\x0b\x0c\x1b[31m\x1c\x7f'",
        "SELECT '\",\"', 'AUDIT: SESSION,1,1,\"'",
        "SELECT length('" + 'a"b,c\n' * 180_000 + "')",
        "SELECT 1/0 AS " + '"' + "é" * 31 + '"',
    ],
    ids=["quotes", "lines", "unicode", "control", "csv", "megabyte", "error"],
)
def test_a_statement_comes_back_byte_for_byte(shipped: Shipping, text: str) -> None:
    (row,) = shipped.session(ROLE, lambda c: send(c, text))
    # Since PostgreSQL 17 pgAudit leaves out the blanks around it.
    assert row["statement"] == (text if WHOLE_MESSAGES else text.strip("\n"))


def test_an_application_name_comes_back_as_postgresql_keeps_it(shipped: Shipping) -> None:
    name = 'a"b,c\\d\'; -- {"message":"x"}'
    (row,) = shipped.session(ROLE, lambda c: send(c, "SELECT 1"), application_name=name)
    assert row["application"] == name


def test_no_password_reaches_the_store(shipped: Shipping) -> None:
    mine = f"chosen-{uuid4().hex}"
    shipped.session(ROLE, lambda c: send(c, f"ALTER ROLE {ROLE} PASSWORD '{mine}'"))
    ((verifier,),) = shipped.postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [ROLE])
    shipped.database.tenant("audit")
    shipped.settle()
    everything = json.dumps(shipped.store.query("SELECT to_jsonb(r) FROM audit.record r"))
    for secret in (mine, verifier, PASSWORD):
        assert secret not in everything


def test_append_and_read_are_all_that_the_two_roles_can_do(shipped: Shipping) -> None:
    forbidden = {
        "audit_append": (
            "SELECT * FROM audit.record",
            "SELECT * FROM audit.statement",
            "UPDATE audit.record SET person = 'nobody'",
            "DELETE FROM audit.record",
            "TRUNCATE audit.record",
            "DROP TABLE audit.record",
            "DELETE FROM audit.checkpoint",
            "DELETE FROM audit.gap",
            "DELETE FROM audit.quarantine",
        ),
        "audit_read": (
            "INSERT INTO audit.gap(server, file, position, reason) VALUES ('', '', 0, '')",
            "UPDATE audit.record SET person = 'nobody'",
            "DELETE FROM audit.record",
            "TRUNCATE audit.record",
            "UPDATE audit.checkpoint SET batch = 0",
            "SELECT audit.ensure_partition('2000-01-01', 1)",
            "CREATE TABLE audit.mine()",
        ),
    }
    shipped.settle()
    days = [
        row[0]
        for row in shipped.store.query("SELECT relid::text FROM pg_partition_tree('audit.record') WHERE level > 0")
    ]
    assert days
    for role, statements in forbidden.items():
        more = itertools.chain.from_iterable((f"DELETE FROM {day}", f"UPDATE {day} SET person = ''") for day in days)
        for statement in (*statements, *more):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                shipped.store.query(f"SET ROLE {role}; {statement}")
    assert shipped.store.query("SELECT count(*) > 0 FROM audit.statement") == [(True,)]


def query(parts: Shipping, *arguments: str, check: bool = True) -> str:
    environment = {
        "PGHOST": str(parts.store.postgres.socket),
        "PGPORT": str(parts.store.postgres.port),
        "PGUSER": "postgres",
        "PYTHONPATH": "operator",
    }
    return run(*VAULTBRIX, "audit", "query", *arguments, env=environment, check=check).stdout


def test_query_prints_who_did_what_from_where_and_how_it_ended(shipped: Shipping) -> None:
    mark = uuid4().hex
    shipped.session(ROLE, lambda c: send(c, f"SELECT '{mark}'"))
    lines = query(shipped, "--tenant", f"team/{ROLE}").splitlines()
    assert lines[0].split() == ["TIME", "(UTC)", "TENANT", "PERSON", "ADDRESS", "STATEMENT", "MS", "OUTCOME"]
    (line,) = [line for line in lines if mark in line]
    assert line.split()[2:6] == [f"team/{ROLE}", JANE, "127.0.0.1", "SELECT"]
    assert line.split()[-1] == "ok"


def test_query_filters(shipped: Shipping) -> None:
    mark = uuid4().hex
    shipped.session(ROLE, lambda c: [send(c, f"SELECT '{mark}'"), send(c, f'DROP TABLE "{mark}"')])
    shipped.postgres.query(f"COMMENT ON SCHEMA {ROLE} IS '{mark}'")
    shipped.settle()
    early, late = "2000-01-01T00:00:00", "2100-01-01T00:00:00"
    for arguments, found in (
        ((), 2),
        (("--tenant", ROLE, "--person", JANE, "--address", "127.0.0.0/8", "--since", early, "--until", late), 2),
        (("--all",), 3),
        (("--address", "203.0.113.0/24"), 0),
        (("--since", late), 0),
        (("--until", early), 0),
    ):
        rows = [json.loads(line) for line in query(shipped, "--output", "json", *arguments).splitlines()]
        assert len([row for row in rows if mark in (row["statement"] or "")]) == found, arguments
    assert len(query(shipped, "--output", "json", "--limit", "1").splitlines()) == 1


def test_query_lets_no_statement_paint_the_terminal(shipped: Shipping) -> None:
    shipped.session(ROLE, lambda c: send(c, "SELECT 'painted \x1b[31m[red]'"))
    shown = query(shipped, "--limit", "5")
    assert "[red]" in shown
    assert "\x1b" not in shown
