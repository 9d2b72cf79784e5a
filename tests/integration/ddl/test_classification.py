"""What the classification says of a statement is what a real server does with it, or more dangerous."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from tests.harness.classified_statements import AFTERWARDS, CASES, SETUP, Case
from tests.harness.database import Database, send

from vaultbrix.api.ddlapproval import Danger, StatementSummary
from vaultbrix.ddl.parse import builtin
from vaultbrix.ddl.parse.effect import Lock
from vaultbrix.ddl.plan import plan

ROLE = "tenant_seen"
LOCKS = {lock.label: lock for lock in Lock}

# Writes down what event triggers say.
WITNESS = """
CREATE TABLE public.seen(tag text, dropped text);
GRANT ALL ON public.seen TO PUBLIC;
CREATE FUNCTION public.witness_start() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.seen VALUES (tg_tag); END $$;
CREATE FUNCTION public.witness_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.seen SELECT tg_tag, object_type || ' ' || coalesce(object_identity, '')
    FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary; END $$;
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
CREATE EVENT TRIGGER witness_start ON ddl_command_start EXECUTE FUNCTION public.witness_start();
CREATE EVENT TRIGGER witness_drop ON sql_drop EXECUTE FUNCTION public.witness_drop();
"""

# All that may be locked, and the size of what may be rewritten.
BEFORE = "SELECT oid, relkind, relfilenode FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind <> 'c'"
AFTER = "SELECT oid, relfilenode, pg_relation_size(oid) FROM pg_class WHERE oid = ANY(%s)"
HELD = "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation = ANY(%s)"


@dataclass
class Outcome:
    """What the server did."""

    tag: str
    lock: Lock
    rewrote: bool
    dropped: list[str]
    in_block: bool


@pytest.fixture(scope="module")
def scene(database: Database) -> Database:
    database.tenant(ROLE.removeprefix("tenant_"))
    with database.login(ROLE) as session:
        for statement in SETUP:
            session.execute(statement.encode())
        database.set_gate(enabled=False)
        for statement in AFTERWARDS:
            session.execute(statement.encode())
        database.set_gate(enabled=True)
    with database.postgres.connect() as admin:
        admin.execute("SET allow_in_place_tablespaces = on")
        admin.execute("CREATE TABLESPACE other LOCATION ''")
        admin.execute(f"GRANT CREATE ON TABLESPACE other TO {ROLE}".encode())
        admin.execute(f"GRANT CREATE ON DATABASE postgres TO {ROLE}".encode())
        admin.execute(f"CREATE SCHEMA {ROLE}_2 AUTHORIZATION {ROLE}".encode())
        admin.execute(WITNESS.encode())
    return database


@pytest.fixture(scope="module")
def ungated(scene: Database) -> Iterator[Database]:
    scene.set_gate(enabled=False)
    yield scene
    scene.set_gate(enabled=True)


def said(row: Case) -> StatementSummary:
    (found,) = plan(row.sql.replace("{role}", ROLE)).statements
    return found


def agrees(claimed: int, shown: int, why: str) -> bool:
    """Whether the claim is what the server showed, or more where the table says why."""
    return claimed == shown or (bool(why) and claimed > shown)


def watch(session: psycopg.Connection, sql: str) -> Outcome:
    """Run it in a transaction that is rolled back, and look around before that."""
    relations = {oid: (kind, node) for oid, kind, node in session.execute(BEFORE, [ROLE])}
    session.execute("BEGIN")
    session.execute("DELETE FROM public.seen")
    try:
        status = session.execute(sql.encode()).statusmessage or ""
        modes = [mode for (mode,) in session.execute(HELD, [list(relations)])]
        after = session.execute(AFTER, [list(relations)]).fetchall()
        seen = session.execute("SELECT tag, dropped FROM public.seen").fetchall()
    except psycopg.errors.ActiveSqlTransaction:
        return Outcome("", Lock.NONE, False, [], False)
    finally:
        session.execute("ROLLBACK")
    # A new file that is empty was not written: TRUNCATE makes one.
    rewritten = [oid for oid, node, size in after if relations[oid][1] != node and relations[oid][0] in "rm" and size]
    return Outcome(
        tag=seen[0][0] if seen else status.rstrip(" 0123456789"),
        lock=max([LOCKS[mode] for mode in modes], default=Lock.NONE),
        rewrote=bool(rewritten),
        dropped=[dropped for _, dropped in seen if dropped],
        in_block=True,
    )


# With the gate first: it is off from the first test on that wants it so.


IDLE = frozenset(
    {
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS v text",
        "ALTER TABLE t ALTER COLUMN n DROP DEFAULT",
        "ALTER TABLE t ALTER COLUMN v DROP NOT NULL",
        "ALTER TABLE t OWNER TO {role}",
        "ALTER TABLE t SET WITHOUT CLUSTER",
        "ALTER TABLE t SET TABLESPACE pg_default",
        "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'ok' BEFORE 'sad'",
        "ALTER TYPE mood OWNER TO {role}",
        "ALTER TABLE t DROP COLUMN IF EXISTS nope",
        "ALTER TABLE IF EXISTS nope DROP COLUMN a",
        "ALTER TABLE t DROP CONSTRAINT IF EXISTS nope",
        "DROP TABLE IF EXISTS nope",
        "DROP INDEX IF EXISTS nope",
        "DROP TRIGGER IF EXISTS nope ON t",
    }
)


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.sql)
def test_the_gate_refuses_without_a_pass_what_is_said_to_need_one(scene: Database, row: Case) -> None:
    with scene.login(ROLE) as session:
        session.execute("BEGIN")
        result = send(session, row.sql.replace("{role}", ROLE))
        state = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
        session.execute("ROLLBACK")
    # What changes nothing is a step of an approval that needs none.
    assert (said(row).gated and row.sql not in IDLE) == (state == "VBX01"), state


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.sql)
def test_a_statement_does_what_is_said_of_it(ungated: Database, row: Case) -> None:
    summary = said(row)
    with ungated.login(ROLE) as session:
        done = watch(session, row.sql.replace("{role}", ROLE))
    assert agrees(not summary.transactional, not done.in_block, row.transactional)
    if not done.in_block:
        return
    found = {
        "tag": summary.tag == done.tag,
        "lock": agrees(LOCKS[summary.lock], done.lock, row.lock),
        "rewrites": agrees(summary.rewrites, done.rewrote, row.rewrites),
        "danger": agrees(summary.danger is not Danger.NONE, bool(done.dropped), row.danger),
    }
    assert all(found.values()), (found, summary, done)


def test_what_is_taken_for_harmless_is_so_on_a_real_server(scene: Database) -> None:
    volatile = scene.postgres.query(
        "SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
        " AND provolatile = 'v' AND proname = ANY(%s)",
        [sorted(builtin.STABLE)],
    )
    assert volatile == []
    assert missing(scene, "pg_proc", "proname", builtin.STABLE | builtin.VOLATILE | builtin.DESTRUCTIVE) == set()
    plain = scene.postgres.query(
        "SELECT typname::text FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace"
        " AND typtype IN ('b', 'r', 'm')"
    )
    assert {*builtin.TYPES} - {name for (name,) in plain} == SPELLINGS


# Words of the grammar that stand for a type or a function of another name.
SPELLINGS = {"boolean", "decimal", "real"}


def missing(scene: Database, catalog: str, column: str, names: frozenset[str]) -> set[str]:
    there = scene.postgres.query(
        f"SELECT {column}::text FROM {catalog} WHERE {column} = ANY(%s)",  # type: ignore[arg-type]
        [sorted(names)],
    )
    return {*names} - {name for (name,) in there}


def test_a_new_value_cannot_be_used_where_it_is_said_so(ungated: Database) -> None:
    add, use = "ALTER TYPE mood ADD VALUE 'great'", "INSERT INTO moods VALUES ('great')"
    assert not plan(f"{add}; {use}").transactional
    with ungated.login(ROLE) as session:
        session.execute("BEGIN")
        session.execute(add.encode())
        with pytest.raises(psycopg.errors.UnsafeNewEnumValueUsage):
            session.execute(use.encode())
        session.execute("ROLLBACK")
