"""What the classification says of a statement is what a real server does with it, or more dangerous."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from tests.integration.classified import CASES, SETUP, Case
from tests.integration.database import Database

from vaultbrix.api.ddlapproval import Danger, StatementSummary
from vaultbrix.domain.ddl.effect import Lock
from vaultbrix.domain.ddlplan import plan

ROLE = "tenant_seen"
IN_A_BLOCK = "25001"
LOCKS = {lock.label: lock for lock in Lock}

# Writes down what event triggers say, for the role of the test and none other.
WITNESS = """
CREATE TABLE public.seen(tag text, dropped text);
GRANT ALL ON public.seen TO PUBLIC;
CREATE FUNCTION public.witness_start() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.seen VALUES (tg_tag); END $$;
CREATE FUNCTION public.witness_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.seen SELECT tg_tag, object_type || ' ' || coalesce(object_identity, '')
    FROM pg_event_trigger_dropped_objects(); END $$;
CREATE EVENT TRIGGER witness_start ON ddl_command_start EXECUTE FUNCTION public.witness_start();
CREATE EVENT TRIGGER witness_drop ON sql_drop EXECUTE FUNCTION public.witness_drop();
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
"""

# Relations that were there before, the guards' own aside.
BEFORE = "SELECT oid, relfilenode FROM pg_class WHERE relnamespace = %s::regnamespace"
HELD = (
    "SELECT l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
    " WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted AND c.relkind <> 'c' AND c.oid = ANY(%s)"
)


@dataclass
class Outcome:
    """What the server did."""

    tag: str
    lock: Lock
    rewrote: bool
    dropped: list[str]
    in_block: bool


@pytest.fixture(scope="module")
def scene(database: Database) -> Iterator[Database]:
    database.tenant(ROLE.removeprefix("tenant_"))
    with database.login(ROLE) as session:
        for statement in SETUP:
            session.execute(statement.encode())
    database.postgres.query(f"CREATE SCHEMA {ROLE}_2 AUTHORIZATION {ROLE}")
    database.postgres.query(f"GRANT CREATE ON DATABASE postgres TO {ROLE}")
    database.postgres.query("CREATE TABLESPACE other LOCATION ''")
    database.postgres.query(f"GRANT CREATE ON TABLESPACE other TO {ROLE}")
    with database.postgres.connect() as admin:
        admin.execute(WITNESS)
    yield database


def said(sql: str) -> StatementSummary:
    (found,) = plan(sql).statements
    return found


def agrees(claimed: int, shown: int, why: str) -> bool:
    """Whether the claim is what the server showed, or more where the table says why."""
    return claimed == shown or (bool(why) and claimed > shown)


def watch(session: psycopg.Connection, sql: str) -> Outcome:
    """Run it in a transaction that is rolled back, and look around before that."""
    tables = dict(session.execute(BEFORE, [ROLE]).fetchall())
    session.execute("COMMIT")
    try:
        session.execute("BEGIN")
        status = session.execute(sql.encode()).statusmessage or ""
    except psycopg.errors.ActiveSqlTransaction:
        session.execute("ROLLBACK")
        return Outcome("", Lock.NONE, False, [], False)
    try:
        modes = [mode for (mode,) in session.execute(HELD, [list(tables)]).fetchall()]
        after = dict(session.execute("SELECT oid, relfilenode FROM pg_class WHERE oid = ANY(%s)", [list(tables)]))
        seen = session.execute("SELECT tag, dropped FROM public.seen").fetchall()
    finally:
        session.execute("ROLLBACK")
    return Outcome(
        tag=seen[0][0] if seen else status.rstrip(" 0123456789"),
        lock=max([LOCKS[mode] for mode in modes], default=Lock.NONE),
        rewrote=any(after.get(oid, node) != node for oid, node in tables.items()),
        dropped=[dropped for _, dropped in seen if dropped],
        in_block=True,
    )


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.sql)
def test_a_statement_does_what_is_said_of_it(scene: Database, row: Case) -> None:
    sql = row.sql.replace("{role}", ROLE)
    summary = said(sql)
    scene.set_gate(enabled=False)
    with scene.login(ROLE) as session:
        session.execute("TRUNCATE public.seen")
        done = watch(session, sql)
    assert summary.transactional == done.in_block, row.transactional
    if not done.in_block:
        return
    found = {
        "tag": summary.tag == done.tag,
        "lock": agrees(LOCKS[summary.lock], done.lock, row.lock),
        "rewrites": agrees(summary.rewrites, done.rewrote, row.rewrites),
        "danger": agrees(summary.danger is not Danger.NONE, bool(done.dropped), row.danger),
    }
    assert all(found.values()), (found, summary, done)
