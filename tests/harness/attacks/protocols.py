"""Attacks that need more than one session, another protocol, a pass or a clock."""

import threading
from datetime import timedelta

from tests.harness.attacks.duel import Duel
from tests.harness.attacks.registry import attack, short
from tests.harness.attacks.texts import DROP
from tests.harness.database import send
from tests.harness.shell import wait_for

TRUNCATE = "TRUNCATE victim CASCADE"
CALLS = "SELECT run('DROP TABLE victim CASCADE')"
RUN = "CREATE OR REPLACE FUNCTION run(what text) RETURNS int LANGUAGE plpgsql AS"

# Protocols

short("extended protocol", "Parse, Bind, Execute of DROP", lambda d: d.extended(DROP))
short("extended protocol", "Parse, Bind, Execute of TRUNCATE", lambda d: d.extended(TRUNCATE))
short("extended protocol", "named statement", lambda d: d.prepared(DROP))
short(
    "extended protocol",
    "function with the text as a parameter",
    lambda d: d.extended("SELECT run($1)", [DROP.encode()]),
)
short("extended protocol", "named statement that calls a function", lambda d: d.prepared(CALLS))
short("extended protocol", "ALTER", lambda d: d.extended("ALTER TABLE victim DROP COLUMN v"))
short("pipeline", "DROP between selects", lambda d: d.pipeline("SELECT 1", DROP, "SELECT 1"))
short("pipeline", "TRUNCATE first", lambda d: d.pipeline(TRUNCATE, "SELECT 1"))
short("pipeline", "create, then drop another", lambda d: d.pipeline("CREATE TABLE new()", "DROP INDEX by_v"))
short("psql", "a file", lambda d: d.psql(f"{DROP};\n", "-f", "-"))
short("psql", "one transaction", lambda d: d.psql(f"{DROP};\n", "-1", "-f", "-"))
short("psql", "\\gexec", lambda d: d.psql("SELECT 'DROP TABLE vic' || 'tim CASCADE' \\gexec\n"))
short("psql", "\\; keeps a message together", lambda d: d.psql(f"SELECT 1\\; {DROP};\n"))
short("psql", "-c", lambda d: d.psql("", "-c", DROP))
short("psql", "variable", lambda d: d.psql("\\set t victim\nDROP TABLE :t CASCADE;\n"))
short("fastpath", "the tenant's function", lambda d: d.fastpath("run(text)", DROP.encode()))
short("fastpath", "TRUNCATE in it", lambda d: d.fastpath("run(text)", TRUNCATE.encode()))
short(
    "fastpath", "query_to_xml of a function",
    lambda d: d.fastpath(
        "query_to_xml(text,bool,bool,text)", d.fill("SELECT {role}.run('DROP TABLE {role}.victim CASCADE')").encode(),
        b"\0", b"\0", b"",
    ),
)  # fmt: skip


@attack("fastpath", "with a pass for the text inside")
def fastpath_with_a_pass(d: Duel) -> None:
    d.approve("DROP INDEX by_v")
    d.fastpath("run(text)", b"DROP INDEX by_v")


# Passes


@attack("passes", "body swapped after approval")
def swapped_body(d: Duel) -> None:
    d.sql(f"{RUN} $$ BEGIN RETURN 2; END $$")
    d.approve("SELECT run('')")
    d.sql(f"{RUN} $$ BEGIN DROP TABLE victim CASCADE; RETURN 1; END $$", "SELECT run('')")


@attack("passes", "function called in an approved ALTER")
def function_in_approved_alter(d: Duel) -> None:
    text = "ALTER TABLE other ADD CHECK (run('x') > 0)"
    d.sql("INSERT INTO other VALUES (1)", f"{RUN} $$ BEGIN DROP INDEX by_v; RETURN 1; END $$")
    d.approve(text)
    d.sql(text)


@attack("passes", "an approved DROP fires a trigger of the tenant's")
def trigger_in_approved(d: Duel) -> None:
    d.sql("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DROP INDEX by_v; RETURN NULL; END $$",
          "CREATE TRIGGER t AFTER TRUNCATE ON other FOR EACH STATEMENT EXECUTE FUNCTION f()")  # fmt: skip
    d.approve("TRUNCATE other")
    d.sql("TRUNCATE other")


@attack("passes", "CASCADE has grown since")
def grown_cascade(d: Duel) -> None:
    d.sql("CREATE TABLE base()")
    d.approve("DROP TABLE base CASCADE", expect_drops=["table {role}.base", "type {role}.base", "type {role}.base[]"])
    d.sql("CREATE VIEW grown AS SELECT 1 FROM base", "DROP TABLE base CASCADE")
    d.holds(d.value("SELECT to_regclass('grown') IS NOT NULL"), "what came to depend on it is gone")


@attack("passes", "another tenant's pass for the same text")
def others_pass(d: Duel) -> None:
    d.approve(DROP, role=d.neighbour())
    d.sql(DROP)


@attack("passes", "another login's pass")
def others_login(d: Duel) -> None:
    d.approve(DROP, login=d.neighbour())
    d.sql(DROP)


@attack("passes", "expired while now() stands still")
def frozen_now(d: Duel) -> None:
    pass_id = d.approve(DROP)
    d.sql("BEGIN", "SELECT now()")
    d.admin("UPDATE vaultbrix.ddl_pass SET expires_at = clock_timestamp() WHERE pass_id = %s", [pass_id])
    d.sql(DROP, "COMMIT")


@attack("passes", "expired in a message that began before")
def frozen_message(d: Duel) -> None:
    text = f"SELECT pg_sleep(0.7); {DROP}"
    d.approve(text, lasting=timedelta(seconds=0.3))
    d.sql(text)


@attack("passes", "revoked under an older snapshot")
def revoked_snapshot(d: Duel) -> None:
    pass_id = d.approve(DROP)
    d.sql("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM victim")
    d.admin("UPDATE vaultbrix.ddl_pass SET revoked_at = clock_timestamp() WHERE pass_id = %s", [pass_id])
    d.sql(DROP, "COMMIT")


FILL = "INSERT INTO other VALUES (1)"
COUNT = "SELECT count(*) FROM other"


@attack("passes", "replay")
def replay(d: Duel) -> None:
    d.approve("TRUNCATE other")
    d.sql("TRUNCATE other", FILL, "TRUNCATE other")
    d.holds(d.value(COUNT) == 1, "it was emptied again")


@attack("passes", "replay after another session used it")
def replay_elsewhere(d: Duel) -> None:
    d.approve("TRUNCATE other", login=None)
    d.sql("TRUNCATE other", session=d.session())
    d.sql(FILL, "TRUNCATE other")
    d.holds(d.value(COUNT) == 1, "it was emptied again")


@attack("passes", "skipping ahead")
def skip_ahead(d: Duel) -> None:
    d.approve("ALTER TABLE other ADD COLUMN saved int;\nDROP TABLE victim CASCADE")
    d.sql(DROP)


@attack("passes", "the approved text inside a block")
def wrapped(d: Duel) -> None:
    d.approve(DROP)
    d.sql(f"DO $$ BEGIN {DROP}; END $$", f"SELECT run('{DROP}')", f"CALL later('{DROP}')")


@attack("passes", "approved text with more behind it")
def appended(d: Duel) -> None:
    d.approve("TRUNCATE other")
    d.sql(f"TRUNCATE other; {DROP}", f"{DROP}; TRUNCATE other", f"TRUNCATE other\n;{DROP}")


@attack("passes", "a comment becomes a line")
def comment_line(d: Duel) -> None:
    d.approve("TRUNCATE other -- DROP TABLE victim CASCADE")
    d.sql("TRUNCATE other --\nDROP TABLE victim CASCADE", "TRUNCATE other; DROP TABLE victim CASCADE")


@attack("passes", "the same bytes under other rules for strings")
def relexed(d: Duel) -> None:
    text = "TRUNCATE other; SELECT 'a''; DROP TABLE victim CASCADE; --'"
    d.approve(text)
    d.sql("SET standard_conforming_strings = off", text, "SET backslash_quote = on", text, DROP)


@attack("passes", "two sessions at once")
def race(d: Duel) -> None:
    d.approve("TRUNCATE other")
    second = d.session()
    d.sql("BEGIN", "TRUNCATE other", FILL)
    thread = threading.Thread(target=lambda: send(second, "TRUNCATE other"))
    thread.start()
    waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    try:
        wait_for("the second waits", lambda: d.admin(waiting, [second.info.backend_pid]))
    finally:
        d.sql("COMMIT")
        thread.join()
    d.holds(d.value(COUNT) == 1, "both used it")


@attack("passes", "a savepoint gives the use back, not the change")
def savepoint(d: Duel) -> None:
    d.approve("TRUNCATE other")
    d.sql("BEGIN", "TRUNCATE other", FILL, "SAVEPOINT a", "TRUNCATE other", "COMMIT")
    d.sql("BEGIN", "SAVEPOINT a", "TRUNCATE other", "ROLLBACK TO a", "TRUNCATE other", FILL, "TRUNCATE other", "COMMIT")
    d.sql(FILL, "TRUNCATE other", FILL, "TRUNCATE other")
    d.holds(d.value(COUNT) == 1, "it was emptied twice")


@attack("passes", "twice in one batch")
def twice_in_a_batch(d: Duel) -> None:
    d.approve("TRUNCATE other")
    d.pipeline("TRUNCATE other", FILL)
    d.pipeline(FILL, "TRUNCATE other")
    d.holds(d.value(COUNT) > 0, "it was emptied twice")


@attack("passes", "SET ROLE to a member that is no tenant")
def member(d: Duel) -> None:
    name = f"{d.role}_member"
    d.admin(f"CREATE ROLE {name} LOGIN PASSWORD 'correct-horse-battery' IN ROLE {d.role}")
    other = d.session(name)
    d.sql("SET search_path = {role}", DROP, "SET ROLE {role}", DROP, session=other)


@attack("passes", "GRANT by a member, of a table that no event has seen")
def member_grants(d: Duel) -> None:
    name = f"{d.role}_member"
    d.admin(f"CREATE ROLE {name} LOGIN INHERIT PASSWORD 'correct-horse-battery' IN ROLE {d.role}")
    other = d.session(name)
    d.sql("EXPLAIN ANALYZE CREATE TABLE unseen AS TABLE victim")
    d.sql(f"GRANT TRUNCATE ON {d.role}.unseen TO {name}", f"TRUNCATE {d.role}.unseen", session=other)
    d.holds(d.value("SELECT count(*) FROM unseen") == 3, "it was emptied")


@attack("admins", "an admin's INSERT fires the tenant's trigger")
def admin_insert(d: Duel) -> None:
    d.sql("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = {role} AS"
          " $$ BEGIN DROP TABLE victim CASCADE; RETURN new; END $$",
          "CREATE TRIGGER t BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION f()")  # fmt: skip
    d.admin("INSERT INTO {role}.other VALUES (1)")


@attack("admins", "an admin as the tenant")
def admin_set_role(d: Duel) -> None:
    with d.database.postgres.connect() as admin:
        d.sql("SET ROLE {role}", "DROP TABLE {role}.victim CASCADE", "TRUNCATE {role}.victim CASCADE", session=admin)


@attack("owned objects", "REASSIGN OWNED where the tenant may create in the database")
def reassign(d: Duel) -> None:
    d.admin("GRANT CREATE ON DATABASE postgres TO {role}")
    d.sql("GRANT CREATE ON SCHEMA {role} TO vaultbrix_tenants", "REASSIGN OWNED BY {role} TO vaultbrix_tenants")


@attack("owned objects", "a schema renamed where the tenant may create in the database")
def rename_schema(d: Duel) -> None:
    d.admin("GRANT CREATE ON DATABASE postgres TO {role}")
    d.sql("ALTER SCHEMA {role} RENAME TO {role}_gone")


# Rehearsals


def rehearsed(d: Duel, text: str, *messages: str, **more: bool) -> None:
    d.approve(text, rehearsal=True, **more)
    d.sql(*messages)


short("rehearsal", "commit", lambda d: rehearsed(d, DROP, "BEGIN", DROP, "COMMIT"))
short("rehearsal", "autocommit", lambda d: rehearsed(d, DROP, DROP))
short("rehearsal", "TRUNCATE", lambda d: rehearsed(d, TRUNCATE, "BEGIN", TRUNCATE, "COMMIT"))
short(
    "rehearsal", "ALTER", lambda d: rehearsed(d, "ALTER TABLE victim DROP COLUMN v", "ALTER TABLE victim DROP COLUMN v")
)
short("rehearsal", "COMMIT AND CHAIN", lambda d: rehearsed(d, DROP, "BEGIN", DROP, "COMMIT AND CHAIN", "COMMIT"))
short("rehearsal", "constraints immediate after", lambda d: rehearsed(
    d, DROP, "BEGIN", DROP, "SAVEPOINT a", "SET CONSTRAINTS ALL IMMEDIATE", "ROLLBACK TO a", "COMMIT"))  # fmt: skip
short("rehearsal", "constraints immediate before", lambda d: rehearsed(
    d, DROP, "BEGIN", "SET CONSTRAINTS ALL IMMEDIATE", DROP, "COMMIT"))  # fmt: skip
short("rehearsal", "constraint by name", lambda d: rehearsed(
    d, DROP, "BEGIN", DROP, "SAVEPOINT a", "SET CONSTRAINTS vaultbrix.rehearsal IMMEDIATE", "ROLLBACK TO a",
    "SET CONSTRAINTS ALL DEFERRED", "COMMIT"))  # fmt: skip
short("rehearsal", "subtransaction released", lambda d: rehearsed(
    d, DROP, "BEGIN", "SAVEPOINT a", DROP, "RELEASE a", "COMMIT"))  # fmt: skip
short("rehearsal", "use rolled back, DDL repeated", lambda d: rehearsed(
    d, DROP, "BEGIN", "SAVEPOINT a", DROP, "ROLLBACK TO a", DROP, "COMMIT"))  # fmt: skip
short("rehearsal", "PREPARE TRANSACTION", lambda d: rehearsed(
    d, DROP, "BEGIN", DROP, "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", DROP))  # fmt: skip
short(
    "rehearsal",
    "DROP INDEX CONCURRENTLY",
    lambda d: rehearsed(d, "DROP INDEX by_v", "DROP INDEX CONCURRENTLY by_v", "DROP INDEX by_v"),
)
short("rehearsal", "the procedure commits", lambda d: rehearsed(
    d, f"CALL later('{DROP}')", f"CALL later('{DROP}')", allow_nested=True))  # fmt: skip
short("rehearsal", "a block commits", lambda d: rehearsed(
    d, "DO $$ BEGIN DROP INDEX by_v; COMMIT; END $$",
        "DO $$ BEGIN DROP INDEX by_v; COMMIT; END $$", allow_nested=True))  # fmt: skip
short("rehearsal", "a block catches the refusal", lambda d: rehearsed(
    d, "DO $$ BEGIN BEGIN DROP INDEX by_v; EXCEPTION WHEN OTHERS THEN NULL; END; SET CONSTRAINTS ALL IMMEDIATE;"
       " EXCEPTION WHEN OTHERS THEN NULL; END $$",
    "DO $$ BEGIN BEGIN DROP INDEX by_v; EXCEPTION WHEN OTHERS THEN NULL; END; SET CONSTRAINTS ALL IMMEDIATE;"
    " EXCEPTION WHEN OTHERS THEN NULL; END $$", "DROP INDEX by_v", allow_nested=True))  # fmt: skip


@attack("rehearsal", "statements that commit halfway")
def rehearsal_halfway(d: Duel) -> None:
    for text in ("DROP INDEX CONCURRENTLY by_v", "ALTER TABLE parts DETACH PARTITION part1 CONCURRENTLY"):
        pass_id = d.approve("DROP INDEX by_v", rehearsal=True)
        d.admin(
            "UPDATE vaultbrix.ddl_pass_text SET sha256 = sha256(convert_to(%s, 'UTF8')) WHERE pass_id = %s",
            [text, pass_id],
        )
        d.sql(text)


@attack("rehearsal", "its run is no run")
def rehearsal_run(d: Duel) -> None:
    # To see that the calls would work: without the gate the pass is no rehearsal.
    pass_id = d.approve(DROP, rehearsal=not d.database.disarmed)
    d.sql(f"SELECT vaultbrix.begin_run('{pass_id}')")
    d.step("begin", pass_id, 1)
    d.holds(set(d.codes) == {"VBX03"}, "recorded as run")


# Another's ledger


@attack("steps", "begun, ended, asked about for another's pass")
def others_steps(d: Duel) -> None:
    # To see that the calls would work: without the gate the pass is the attacker's own.
    theirs = d.role if d.database.disarmed else d.neighbour()
    pass_id = d.approve(DROP, role=theirs, login=theirs)
    d.sql(f"SELECT vaultbrix.begin_run('{pass_id}')", f"SELECT vaultbrix.dropped('{pass_id}')")
    d.step("begin", pass_id, 1)
    d.step("end", pass_id, 1)
    d.holds(set(d.codes) == {"VBX03"}, "it answered")


@attack("steps", "a pass that has ended")
def ended_step(d: Duel) -> None:
    pass_id = d.approve(DROP, lasting=timedelta(hours=1 if d.database.disarmed else -1))
    d.sql(f"SELECT vaultbrix.begin_run('{pass_id}')")
    d.step("begin", pass_id, 1)
    d.holds(set(d.codes) == {"VBX03"}, "it began")


@attack("steps", "pretended by the text that runs")
def steps_pretended(d: Duel) -> None:
    pass_id = d.approve(DROP)
    d.sql(
        "CREATE VIEW pretends AS"
        f" SELECT vaultbrix.begin_step('{pass_id}', 2) AS begun, vaultbrix.end_step('{pass_id}', 2)::text AS ended"
    )
    d.codes.clear()
    if d.database.disarmed:
        # To see that the calls would work: as the Job sends them.
        d.step("begin", pass_id, 2)
        d.step("end", pass_id, 2)
    else:
        d.sql("SELECT * FROM pretends", f"SELECT vaultbrix.begin_step('{pass_id}', 2)",
              f"DO $$BEGIN PERFORM vaultbrix.begin_step('{pass_id}', 2); END$$",
              f"PREPARE s AS SELECT vaultbrix.begin_step($1, $2); EXECUTE s('{pass_id}', 2)")  # fmt: skip
    d.holds(set(d.codes) == {"VBX03"}, "it was believed")


@attack("steps", "written by hand")
def steps_by_hand(d: Duel) -> None:
    pass_id = d.approve(DROP, lasting=timedelta(seconds=-1))
    d.sql(f"INSERT INTO vaultbrix.ddl_step VALUES ('{pass_id}', 1)", "SELECT vaultbrix.own_pass(NULL)",
          "UPDATE vaultbrix.ddl_pass SET expires_at = 'infinity'",
              "DELETE FROM vaultbrix.ddl_pass_use", DROP)  # fmt: skip
