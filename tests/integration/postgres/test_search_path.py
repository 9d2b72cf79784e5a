"""What tenants put on the search_path, under names that statements of ours use, is run by no connection of ours."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator

import psycopg
import pytest
from tests.harness.audit_store import Store
from tests.harness.database import Database, directory, free_port
from tests.harness.processes import VAULTBRIX
from tests.harness.shell import run

from vaultbrix.ddl.gate import drift, schema
from vaultbrix.ddl.gate.logins import logins
from vaultbrix.postgres import roles
from vaultbrix.postgres.connect import Target, connect

# Schemas of the default path, "$user" and public, for whoever is connected as postgres.
ON_THE_PATH = ("public", "postgres")
# Each takes exactly the types that a statement of ours has, where PostgreSQL's own takes others and converts.
OPERATORS = (("=", "oid", "regrole"), ("=", "oid", "regclass"), ("<>", "oid", "regrole"), ("<>", "oid", "regclass"))
FUNCTIONS = ("pg_terminate_backend(int, int)",)
NOTE = "BEGIN INSERT INTO seen.call VALUES (current_user); RETURN true; END"

Work = Callable[[psycopg.AsyncConnection], Awaitable[object]]


async def end_sessions(connection: psycopg.AsyncConnection) -> None:
    """Of a session that is there: without one nothing would be called."""
    await roles.end_sessions(connection, "tenant_attacker")


WORK: dict[str, Work] = {
    "one-time logins": logins,
    "sessions that are ended": end_sessions,
    "drift of the gate": drift.audit_gate,
}


@pytest.fixture(scope="module")
def shadowed(database: Database) -> Iterator[Database]:
    """A database as those that came from PostgreSQL 14, where everybody may create in public, and a tenant who did."""
    tenant = database.tenant("attacker")
    for statement in (
        "CREATE SCHEMA seen",
        "CREATE TABLE seen.call(role name)",
        "CREATE SCHEMA postgres",
        f"GRANT USAGE ON SCHEMA seen TO {tenant}",
        f"GRANT INSERT ON seen.call TO {tenant}",
        f"GRANT CREATE, USAGE ON SCHEMA public, postgres TO {tenant}",
    ):
        database.postgres.query(statement)
    with database.login(tenant) as session:
        for place in ON_THE_PATH:
            for name in FUNCTIONS:
                create(session, f"{place}.{name}")
            for number, (operator, left, right) in enumerate(OPERATORS):
                create(session, f"{place}.compare_{number}({left}, {right})")
                session.execute(
                    f"CREATE OPERATOR {place}.{operator} (LEFTARG = {left}, RIGHTARG = {right},"
                    f" FUNCTION = {place}.compare_{number})".encode()
                )
        yield database


def create(session: psycopg.Connection, function: str) -> None:
    session.execute(f"CREATE FUNCTION {function} RETURNS boolean LANGUAGE plpgsql AS $${NOTE}$$".encode())


def called(database: Database) -> list[str]:
    """As whom the tenant's functions ran since this was last asked."""
    return sorted({role for (role,) in database.postgres.query("DELETE FROM seen.call RETURNING role")})


def ours(database: Database) -> Target:
    """The target of the operator's connections, but over the Unix socket."""
    postgres = database.postgres
    return Target(
        host=str(postgres.socket), port=postgres.port, database="postgres", user="postgres", ssl_mode="disable"
    )


async def on_our_connection(target: Target, work: Work) -> None:
    async with connect(target) as connection:
        await work(connection)


@pytest.mark.parametrize("what", WORK)
def test_nothing_that_a_tenant_made_runs_with_our_rights(shadowed: Database, what: str) -> None:
    with shadowed.login("tenant_attacker"):
        asyncio.run(on_our_connection(ours(shadowed), WORK[what]))
    assert called(shadowed) == []


@pytest.mark.parametrize("what", WORK)
def test_it_would_without_the_pinned_path(shadowed: Database, what: str) -> None:
    async def unpinned() -> None:
        postgres = shadowed.postgres
        async with await psycopg.AsyncConnection.connect(
            host=str(postgres.socket), port=postgres.port, user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            await WORK[what](connection)

    with shadowed.login("tenant_attacker"):
        asyncio.run(unpinned())
    assert called(shadowed) == ["postgres"]


def test_options_and_settings_of_the_role_do_not_unpin_it(shadowed: Database) -> None:
    shadowed.postgres.query("ALTER ROLE postgres SET search_path = public, pg_catalog")
    try:
        target = ours(shadowed)
        for options in ("", "-c search_path=public,pg_catalog"):
            asyncio.run(on_our_connection(Target(**{**vars(target), "options": options}), logins))
    finally:
        shadowed.postgres.query("ALTER ROLE postgres RESET search_path")
    assert called(shadowed) == []


def test_the_gate_is_installed_and_repaired_past_them(shadowed: Database) -> None:
    shadowed.set_gate(enabled=False)
    asyncio.run(on_our_connection(ours(shadowed), schema.install))
    assert called(shadowed) == []
    (finding,) = shadowed.admin(drift.audit_gate)
    assert finding.startswith("PUBLIC or a tenant may create ")
    assert finding.endswith(": tenant_attacker on schema public")


def test_the_command_line_asks_past_them(shadowed: Database) -> None:
    environment = {
        "PGHOST": str(shadowed.postgres.socket),
        "PGPORT": str(shadowed.postgres.port),
        "PGUSER": "postgres",
        "PGDATABASE": "postgres",
        "PGOPTIONS": "-c search_path=public,pg_catalog",
    }
    check = run(*VAULTBRIX, "gate", "check", env={**os.environ, **environment}, check=False)
    assert (check.returncode, check.stdout.splitlines()) == (1, shadowed.admin(drift.audit_gate))
    assert called(shadowed) == []


# Thin wrappers that pass on the caller's path, and use no operator and only names with a schema.
GATE_FUNCTIONS = {"et_drop", "et_end", "et_start", "guard_truncate"}
# The planner puts their bodies into the query that calls them, which it does for none that has settings of its own.
STORE_FUNCTIONS = {
    "bare_name", "belongs", "failure", "is_ours", "names", "own_line", "run_start", "started_within",
    "statements_within", "without", "told", "refused_text",
}  # fmt: skip
UNPINNED = (
    "SELECT proname, prosecdef FROM pg_proc WHERE pronamespace = %s::regnamespace"
    " AND NOT EXISTS (SELECT FROM unnest(proconfig) s WHERE s = 'search_path=pg_catalog, pg_temp')"
)


def test_functions_of_ours_bring_their_own_path_but_for_those_that_run_as_their_caller(database: Database) -> None:
    assert set(database.postgres.query(UNPINNED, ["vaultbrix"])) == {(name, False) for name in GATE_FUNCTIONS}
    with directory() as path:
        store = Store(path / "store", port=free_port())
        try:
            store.start()
            assert set(store.query(UNPINNED, ["audit"])) == {(name, False) for name in STORE_FUNCTIONS}
        finally:
            store.stop()
