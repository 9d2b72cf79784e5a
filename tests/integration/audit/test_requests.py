"""Every statement of the data API is on record with key, user, address and request; nobody can claim another's."""

import asyncio
import json
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from tests.harness import audit_oracle
from tests.harness.audit_oracle import Version, judge
from tests.harness.data_api_sessions import DataApiSession, about, serve_data_api
from tests.harness.processes import VAULTBRIX
from tests.harness.sealed_store import check
from tests.harness.shell import run, wait_for
from tests.harness.shipping import Shipping, shipping

from vaultbrix.audit.shipping import store
from vaultbrix.audit.shipping.followed import Batch
from vaultbrix.audit.shipping.intake import Intake
from vaultbrix.audit.shipping.requests import Session
from vaultbrix.grants.state import AgentState

ROLE = "tenant_app"
OTHER = "tenant_other"
ROWS = (
    "SELECT kind, role, tenant, person, ground, host(address) FROM audit.record"
    " WHERE position(%s IN coalesce(statement, '')) > 0 AND kind <> 'error' ORDER BY line_num"
)


@pytest.fixture(scope="module")
def parts() -> Iterator[Shipping]:
    with shipping() as running:
        for slug in ("app", "other"):
            running.database.tenant(slug)
        serve_data_api(running.database, ROLE, OTHER)
        yield running


@pytest.fixture
def session(parts: Shipping) -> Iterator[DataApiSession]:
    session = DataApiSession(parts.database, ROLE)
    yield session
    session.close()


def end(parts: Shipping, session: DataApiSession) -> None:
    """End a session, and wait until all of it is stored."""
    session.close()
    parts.statements(session.pid)


def new_id() -> str:
    return uuid4().hex


def requests(parts: Shipping, pid: int) -> list[tuple[Any, ...]]:
    """Kind, request's id, tenant and key of the lines of a session that say that they are requests."""
    return parts.store.query(
        "SELECT kind, object_name, tenant, ground FROM audit.record WHERE pid = %s AND message LIKE 'REQUEST: %%'"
        " ORDER BY line_num",
        [pid],
    )


def asked(parts: Shipping, *arguments: str) -> list[dict[str, Any]]:
    environment = {**parts.store.environment(parts.store.reader), "PYTHONPATH": "operator"}
    found = run(*VAULTBRIX, "audit", "query", "--output=json", *arguments, env=environment).stdout
    return [json.loads(line) for line in found.splitlines()]


def test_statements_of_a_session_are_of_the_request_that_it_serves(parts: Shipping, session: DataApiSession) -> None:
    mark, first, second = (new_id() for _ in range(3))
    with session.request(about(ROLE, first)) as connection:
        connection.execute(f"SELECT '{mark}' AS one")
        connection.execute(f"SELECT '{mark}' AS two")
    jane = about(f"{ROLE}_authenticated", second, key="apps/app", subject="jane", client="2001:db8::7")
    with session.request(jane) as connection:
        connection.execute(f"SELECT '{mark}' AS three")
        connection.execute(f"SELECT '{mark}' FROM nothing")
    session.connection.execute(f"SELECT '{mark}' AS of_nobody")
    end(parts, session)
    assert requests(parts, session.pid) == [
        ("request", first, "apps/app", "key:apps/web"), ("request", second, "apps/app", "key:apps/app"),
    ]  # fmt: skip
    mine = ("statement", ROLE, "apps/app", "", "key:apps/web", "198.51.100.7")
    theirs = ("statement", f"{ROLE}_authenticated", "apps/app", "user:jane", "key:apps/app", "2001:db8::7")
    nobody = ("statement", session.login, "", "", "", "127.0.0.1")
    assert parts.store.query(ROWS, [mark]) == [mine, mine, theirs, nobody]

    assert [row["statement"] for row in asked(parts, f"--request={first}", "--text", mark)] == [
        f"SELECT '{mark}' AS one", f"SELECT '{mark}' AS two",
    ]  # fmt: skip
    found = asked(parts, f"--request={second}")
    assert [(row["statement"], row["outcome"]) for row in found] == [
        (f"SELECT '{mark}' AS three", "ok"), (f"SELECT '{mark}' FROM nothing", "error"), ("ROLLBACK", "ok"),
    ]  # fmt: skip
    assert {(row["ground"], row["person"], row["address"]) for row in found} == {
        ("key:apps/app", "user:jane", "2001:db8::7")
    }
    for option in ("--key=web", "--key=apps/web"):
        assert len(asked(parts, option, f"--text={mark}")) == 2
    for option in ("--key=eb", "--key=other/web", "--key=%", f"--request={new_id()}"):
        assert asked(parts, option, f"--text={mark}") == []


CHEATS = {
    "calls it": "CREATE FUNCTION {cheat}() RETURNS int LANGUAGE plpgsql AS $$ BEGIN"
    " PERFORM set_config('request.jwt.claims', {claims}, true); PERFORM vaultbrix.pre_request(); RETURN 1; END $$",
    "calls it by SQL": "CREATE FUNCTION {cheat}() RETURNS text LANGUAGE sql VOLATILE AS $$"
    " SELECT set_config('request.jwt.claims', {claims}, true) || (vaultbrix.pre_request() IS NULL) $$",
    "raises it": "CREATE FUNCTION {cheat}() RETURNS int LANGUAGE plpgsql AS $$ BEGIN"
    " RAISE LOG 'REQUEST: %', {said}; RETURN 1; END $$",
    "is named so": 'CREATE FUNCTION {schema}."vaultbrix.pre_request"() RETURNS int LANGUAGE plpgsql AS $$ BEGIN'
    " RAISE LOG 'REQUEST: %', {said}; RETURN 1; END $$;"
    " CREATE FUNCTION {cheat}() RETURNS int LANGUAGE sql"
    ' AS $$ SELECT {schema}."vaultbrix.pre_request"() $$',
    "shows no frame": "CREATE VIEW {cheat} AS"
    " SELECT set_config('request.jwt.claims', {claims}, true), vaultbrix.pre_request() IS NULL AS done",
}


@pytest.mark.parametrize("how", CHEATS)
def test_no_tenant_can_say_that_its_statements_are_anothers(parts: Shipping, session: DataApiSession, how: str) -> None:
    mark, request = new_id(), new_id()
    victim = about(OTHER, new_id(), tenant="apps/other", key="apps/app")
    cheat = sql.Identifier(ROLE, f"cheat_{request}")
    text = sql.SQL(CHEATS[how]).format(
        cheat=cheat,
        schema=sql.Identifier(ROLE),
        claims=sql.Literal(json.dumps({"vaultbrix": victim})),
        said=sql.Literal(json.dumps({**victim, "claims": "ab" * 32})),
    )
    with parts.database.login(ROLE) as connection:
        connection.execute(text)
    with session.request(about(ROLE, request)) as connection:
        connection.execute(sql.SQL("SELECT * FROM {}" + ("" if "VIEW" in CHEATS[how] else "()")).format(cheat))
        connection.execute(f"SELECT '{mark}'")
    end(parts, session)
    genuine, *others = requests(parts, session.pid)
    assert genuine == ("request", request, "apps/app", "key:apps/web")
    assert others and set(others) == {("forged", None, "apps/app", "key:apps/web")}
    assert parts.store.query(ROWS, [mark]) == [("statement", ROLE, "apps/app", "", "key:apps/web", "198.51.100.7")]


def test_what_a_tenant_leaves_behind_in_a_session_does_not_speak_for_another(
    parts: Shipping, session: DataApiSession
) -> None:
    """The next request calls the tenant's own set_config() before there is any line of the request."""
    mark = new_id()
    victim = {"vaultbrix": about(OTHER, new_id(), tenant="apps/other", key="apps/app")}
    with parts.database.login(ROLE) as connection:
        connection.execute(f"GRANT USAGE ON SCHEMA {ROLE} TO PUBLIC")
        connection.execute(
            sql.SQL(
                "CREATE FUNCTION {}.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$"
                " SELECT pg_catalog.set_config($1, CASE $1 WHEN 'request.jwt.claims' THEN {} ELSE $2 END, $3) $$"
            ).format(sql.Identifier(ROLE), sql.Literal(json.dumps(victim)))
        )
    with session.request(about(ROLE, new_id())) as connection:
        connection.execute(f"SELECT pg_catalog.set_config('search_path', '{ROLE}, pg_catalog', false)")
    with session.request(about(ROLE, new_id())) as connection:
        connection.execute(f"SELECT '{mark}'")
    end(parts, session)
    assert [kind for kind, *_ in requests(parts, session.pid)] == ["request", "forged"]
    assert parts.store.query(ROWS, [mark]) == [("statement", session.login, "", "", "", "127.0.0.1")]


@pytest.mark.parametrize("died", ["shipper", "store"])
def test_what_dies_between_a_request_and_its_statement_loses_nothing(
    parts: Shipping, session: DataApiSession, died: str
) -> None:
    mark, request = new_id(), new_id()
    with session.request(about(ROLE, request, subject="jane")) as connection:
        wait_for("the request is stored", lambda: requests(parts, session.pid), tell=parts.shipper.text)
        if died == "shipper":
            parts.shipper.kill()
        else:
            parts.store.stop()
        connection.execute(f"SELECT '{mark}'")
    if died == "shipper":
        parts.shipper.start()
    else:
        parts.store.postgres.start()
    end(parts, session)
    assert parts.store.query(ROWS, [mark]) == [
        ("statement", ROLE, "apps/app", "user:jane", "key:apps/web", "198.51.100.7")
    ]


def test_from_the_store_alone_each_line_is_attributed_as_it_was(parts: Shipping, session: DataApiSession) -> None:
    """A shipper that begins at any line says what one says that has seen all."""
    for number in range(3):
        with session.request(about(ROLE, new_id(), subject=f"jane{number}")) as connection:
            connection.execute("SELECT 1" if number else "SELECT nothing")
    session.connection.execute("SELECT 'of nobody'")
    end(parts, session)
    written = [
        line
        for path in sorted(parts.postgres.logs.glob("*.json"))
        for line in path.read_bytes().splitlines()
        if json.loads(line)["pid"] == session.pid
    ]
    stored = parts.store.query(
        "SELECT kind, object_name, role, tenant, person, ground, host(address) FROM audit.record WHERE pid = %s"
        " ORDER BY line_num",
        [session.pid],
    )
    login = parts.store.login("resumes", "audit_append")

    async def last_request(name: str, line: int) -> Session | None:
        async with await psycopg.AsyncConnection.connect(
            host=login["host"], port=int(login["port"]), user=login["username"], password=login["password"],
            dbname=login["dbname"], autocommit=True,
        ) as connection:  # fmt: skip
            return await store.last_request(connection, "main", name, line)

    def recall(name: str, line: int) -> Session | None:
        return asyncio.run(last_request(name, line))

    for line, row in zip(written, stored, strict=True):
        content, _ = Intake("main").take(Batch("f", 0, None, lines=[(0, line)]), AgentState("main"), recall)
        ((record, _),) = content.records
        address = record.address and str(ip_address(record.address))
        assert row == (
            record.kind, record.object_name, record.role, record.tenant, record.person, record.authorization, address,
        )  # fmt: skip


def test_the_store_is_what_the_log_says_and_sealed(parts: Shipping, session: DataApiSession) -> None:
    with session.request(about(ROLE, new_id())) as connection:
        connection.execute("SELECT 1")
    end(parts, session)

    def clean() -> bool:
        files = [Version(path.name, path) for path in sorted(parts.postgres.logs.glob("*.json"))]
        with parts.store.open(options=audit_oracle.SETTINGS) as connection:
            found = judge(connection, "main", files, parts.store.public_key)
        print(found)
        return found.clean and not found.quarantined

    # PostgreSQL's own processes may say something at any time.
    wait_for("log and store are the same", clean)
    assert check(parts.store).wrong == 0


def test_a_person_that_is_erased_takes_nobody_along_who_used_the_same_session(
    parts: Shipping, session: DataApiSession
) -> None:
    mark = new_id()
    for subject in ("erased", ""):
        with session.request(about(ROLE, new_id(), subject=subject)) as connection:
            connection.execute(f"SELECT '{mark}'")
    end(parts, session)
    parts.store.query("SELECT audit.redact_person('user:erased', 'on request', true)")
    assert [row[3:5] for row in parts.store.query(ROWS, [mark])] == [("", "key:apps/web")]
    said = parts.store.query(
        "SELECT message FROM audit.record WHERE pid = %s AND kind = 'request' ORDER BY line_num", [session.pid]
    )
    assert said[0] == ("",) and "apps/web" in said[1][0]
