"""Rehearsals by the operator: what a text would do, shown before anybody decides, and nothing of it done."""

from collections.abc import Iterator

import pytest
from tests.harness.shell import wait_for
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.world import World, tenant

ASLEEP = "SELECT 1 FROM pg_stat_activity WHERE usename ~ '^vaultbrix_r_' AND wait_event = 'PgSleep'"


@pytest.fixture
def place(world: World) -> Iterator[TenantWithTables]:
    yield TenantWithTables(world)


def clean(place: TenantWithTables) -> bool:
    """Whether nothing of any rehearsal is left."""
    logins = place.world.postgres.query("SELECT 1 FROM pg_roles WHERE rolname ~ '^vaultbrix_r_'")
    return not logins and not place.world.postgres.query("SELECT 1 FROM vaultbrix.rehearsal")


def test_what_cascade_takes_along_is_named_and_nothing_is_gone(place: TenantWithTables) -> None:
    made = place.submit("DROP TABLE a CASCADE; TRUNCATE b; ALTER TABLE b ALTER id TYPE bigint")
    found = made.rehearsed()
    assert (found["possible"], found.get("error")) == (True, None)
    assert {"table t.a", "view t.look", "truncate t.b"} <= place.plain(found["drops"])
    assert {(place.plain([lock["object"]]).pop(), lock["mode"]) for lock in found["locks"]} >= {
        ("t.a", "AccessExclusiveLock"), ("t.b", "AccessExclusiveLock"),
    }  # fmt: skip
    sizes = {place.plain([t["object"]]).pop(): t for t in found["affected"]}
    assert sizes["t.a"]["rows"] == 1000
    assert sizes["t.a"]["bytes"] > 8192
    assert made.condition("Rehearsed")["status"] == "True"
    assert made.status["phase"] == "Pending"
    assert place.there("a")
    assert place.there("look")
    assert place.world.postgres.query(f"SELECT count(*) FROM {place.role}.b") == [(1,)]
    wait_for("nothing is left of it", lambda: clean(place))


def test_what_cascade_takes_along_of_another_tenant_is_named(place: TenantWithTables) -> None:
    other = TenantWithTables(place.world)
    place.sql(f"GRANT USAGE ON SCHEMA {place.role} TO {other.role}", f"GRANT SELECT ON a TO {other.role}")
    other.sql(f"CREATE VIEW theirs AS SELECT v FROM {place.role}.a", "CREATE VIEW above AS SELECT v FROM theirs")
    made = place.submit("DROP TABLE a CASCADE")
    found = made.rehearsed()
    assert set(found["others"]) == {f"view {other.role}.theirs", f"view {other.role}.above"}
    told = made.condition("Rehearsed")
    assert (told["status"], told["reason"]) == ("False", "DependentsRemain")
    assert f"view {other.role}.above" in told["message"]
    assert other.there("theirs")
    assert place.submit("TRUNCATE b; DROP VIEW look").rehearsed()["others"] == []


# What a tenant offers, what another one makes of it with {ours}, what the first then drops, what of it is the other's.
TAKEN_ALONG = {
    "column of a type": (
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE TABLE diary(id int, m {ours}.mood, note text); INSERT INTO diary VALUES (1, 'ok', 'n')",
        "DROP TYPE mood CASCADE",
        "table column {theirs}.diary.m",
    ),
    "typed table": (
        "CREATE TYPE addr AS (street text, zip text)",
        "CREATE TABLE diary OF {ours}.addr; INSERT INTO diary VALUES ('s', 'z')",
        "DROP TYPE addr CASCADE",
        "table {theirs}.diary",
    ),
    "column of a domain": (
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
        "CREATE TABLE diary(id int, p {ours}.positive); INSERT INTO diary VALUES (1, 1)",
        "DROP DOMAIN positive CASCADE",
        "table column {theirs}.diary.p",
    ),
    "generated column": (
        "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'",
        "CREATE TABLE diary(id int, d int GENERATED ALWAYS AS ({ours}.twice(id)) STORED); INSERT INTO diary VALUES (1)",
        "DROP FUNCTION twice(int) CASCADE",
        "table column {theirs}.diary.d",
    ),
    "default": (
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE diary(id int DEFAULT {ours}.one()); INSERT INTO diary VALUES (1)",
        "DROP FUNCTION one() CASCADE",
        "default value for {theirs}.diary.id",
    ),
    "foreign key": (
        "CREATE TABLE key(id int PRIMARY KEY); INSERT INTO key VALUES (1); GRANT REFERENCES ON key TO {other}",
        "CREATE TABLE diary(id int REFERENCES {ours}.key); INSERT INTO diary VALUES (1)",
        "DROP TABLE key CASCADE",
        "table constraint diary_id_fkey on {theirs}.diary",
    ),
}


@pytest.mark.parametrize("kind", TAKEN_ALONG)
def test_what_is_anothers_and_built_on_the_tenants_is_marked_and_stays_with_its_rows(
    place: TenantWithTables, kind: str
) -> None:
    other = TenantWithTables(place.world)
    offered, built, dropped, marked = (
        text.replace("{ours}", place.role).replace("{theirs}", other.role).replace("{other}", other.role)
        for text in TAKEN_ALONG[kind]
    )
    place.sql(f"GRANT USAGE ON SCHEMA {place.role} TO {other.role}", offered)
    other.sql(built)
    before = place.world.postgres.query(f"SELECT d::text FROM {other.role}.diary d")
    made = place.submit(dropped)
    found = made.rehearsed()
    assert found["others"] == [marked]
    assert marked in found["drops"]
    told = made.condition("Rehearsed")
    assert (told["status"], told["reason"]) == ("False", "DependentsRemain")
    assert marked in told["message"]
    assert place.world.postgres.query(f"SELECT d::text FROM {other.role}.diary d") == before != []


def test_a_table_that_is_rewritten_is_called_so(place: TenantWithTables) -> None:
    found = place.submit("ALTER TABLE a ALTER id TYPE bigint").rehearsed()
    assert [(t["object"], t["rewritten"]) for t in found["affected"]] == [(f"{place.role}.a", True)]
    assert found["drops"] == []


def test_a_text_that_fails_says_where_and_may_be_decided_all_the_same(place: TenantWithTables) -> None:
    made = place.submit("ALTER TABLE b ADD x int;\n-- gone\nDROP TABLE missing")
    found = made.rehearsed()
    assert (found["error"]["sqlstate"], found["error"]["statement"], found["error"]["line"]) == ("42P01", 2, 3)
    told = made.condition("Rehearsed")
    assert (told["status"], told["reason"]) == ("False", "RehearsalFailed")
    assert "statement 2, line 3: 42P01" in told["message"]
    made.decide()
    made.await_job()


def test_a_text_that_others_depend_on_names_them(place: TenantWithTables) -> None:
    made = place.submit("CREATE TABLE c(id int);\nDROP TABLE a")
    error = made.rehearsed()["error"]
    assert (error["sqlstate"], error["statement"], error["line"]) == ("2BP01", 2, 2)
    assert place.plain([error["message"]]) == {
        "cannot drop table a because other objects depend on it; view look depends on table a"
    }


SWALLOWS = "DO $$ BEGIN BEGIN ALTER TABLE b ADD UNIQUE (id); EXCEPTION WHEN OTHERS THEN NULL; END; END $$"


def test_a_block_that_catches_its_refusal_is_seen_through(place: TenantWithTables) -> None:
    unique = "SELECT count(*) FROM pg_constraint WHERE contype = 'u' AND conrelid = %s::regclass"
    made = place.submit(SWALLOWS)
    assert "unless decision.allowNested" in made.rehearsed()["message"]
    made.decide()
    made.pod().run()
    made.phase("Failed")
    assert "statement 1, line 1: VBX01 ALTER TABLE was refused by the gate" in made.condition("Ready")["message"]
    assert place.world.postgres.query(unique, [f"{place.role}.b"]) == [(0,)]
    made = place.submit(SWALLOWS)
    made.decide(allowNested=True)
    made.pod().run()
    made.phase("Succeeded")
    assert place.world.postgres.query(unique, [f"{place.role}.b"]) == [(1,)]


STEP = """DO $EF$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM history WHERE id = 'note') THEN {what} END IF; END $EF$"""
SCRIPT = (
    STEP.format(what="ALTER TABLE b DROP COLUMN IF EXISTS old; ALTER TABLE b ADD note text;"),
    STEP.format(what="INSERT INTO history VALUES ('note');"),
)


def test_a_session_of_blocks_succeeds_once_they_have_done_what_the_rehearsal_saw(place: TenantWithTables) -> None:
    place.sql("CREATE TABLE history(id text)")
    address = "203.0.113.221"
    rule = place.world.rule(place.team, place.tenant, f"{address}/32")
    place.world.api.await_condition("accessrule", rule, place.team)
    text = ";\n".join(SCRIPT)

    made = place.submit(text, execution="Session")
    found = made.rehearsed()
    assert (found["usedUpTo"], found["nested"]) == (1, True)
    made.decide()
    made.phase("Approved")
    assert not place.world.psql(address, place.team, place.tenant, SCRIPT[0]).works()
    assert made.status["phase"] == "Approved", "sending it is refused, so it has not succeeded"

    made = place.submit(text, execution="Session")
    made.rehearsed()
    made.decide(allowNested=True)
    wait_for("the pass is open", lambda: made.condition("PassIssued").get("status") == "True", tell=made.tell)
    assert place.world.psql(address, place.team, place.tenant, *SCRIPT).works()
    made.phase("Succeeded")
    assert place.world.psql(address, place.team, place.tenant, *SCRIPT).works(), "it does nothing any more"


def test_a_session_whose_functions_change_nothing_waits_for_nobody(place: TenantWithTables) -> None:
    made = place.submit("SELECT count(*) FROM a; DO $$ BEGIN PERFORM 1; END $$", execution="Session")
    assert made.rehearsed()["usedUpTo"] == 0
    made.decide()
    made.phase("Succeeded")


def test_a_text_that_nothing_gates_is_rehearsed_too(place: TenantWithTables) -> None:
    found = place.submit("CREATE TABLE c(id int); INSERT INTO b VALUES (2)").rehearsed()
    assert found["drops"] == []
    assert not place.there("c")
    assert place.world.postgres.query(f"SELECT count(*) FROM {place.role}.b") == [(1,)]


def test_what_cannot_be_rolled_back_says_so_and_what_stands_before_it_is_rehearsed(place: TenantWithTables) -> None:
    made = place.submit("DROP VIEW look; CREATE INDEX CONCURRENTLY i ON a(v)")
    found = made.rehearsed()
    assert found["possible"] is False
    assert place.plain(found["drops"]) >= {"view t.look"}
    assert made.condition("Rehearsed")["reason"] == "NotPossible"
    alone = place.submit("VACUUM a").rehearsed()
    assert (alone["possible"], alone["drops"]) == (False, [])
    assert place.there("look")


def test_what_a_function_would_drop_is_shown_with_what_it_needs(place: TenantWithTables) -> None:
    place.sql("CREATE FUNCTION tidy() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP VIEW look; END $$")
    made = place.submit("SELECT tidy()")
    found = made.rehearsed()
    assert "view t.look" in place.plain(found["drops"])
    assert "allowNested" in found["message"]
    assert place.there("look")


def test_a_text_that_waits_for_a_lock_gives_way_and_is_not_given_up(place: TenantWithTables) -> None:
    with place.world.postgres.connect() as holder, holder.transaction():
        holder.execute(f"SELECT 1 FROM {place.role}.b".encode())
        made = place.submit("DROP TABLE b", lockTimeout="1s")
        assert made.rehearsed()["error"]["sqlstate"] == "55P03"
    wait_for(
        "it is rehearsed again", lambda: "error" not in made.status["rehearsal"], patience=90, pause=0.5, tell=made.tell
    )


def test_more_than_the_operator_has_room_for_harms_nobody(place: TenantWithTables) -> None:
    greedy = [
        place.submit("SELECT repeat('x', 500000000)"),
        place.submit("DO $do$ BEGIN RAISE NOTICE '%', repeat('x', 400000000); END $do$"),
    ]
    pid = place.world.operator.pid
    for made in greedy:
        assert made.rehearsed()["error"]["message"]
    assert place.submit("DROP TABLE b").rehearsed()["drops"]
    assert (place.world.operator.running, place.world.operator.pid) == (True, pid)


def test_a_rehearsal_whose_session_is_ended_is_repeated(place: TenantWithTables) -> None:
    made = place.submit("DROP TABLE b; SELECT pg_sleep(3)")
    wait_for("it is rehearsed", lambda: place.world.postgres.query(ASLEEP), tell=made.tell)
    place.world.postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename ~ '^vaultbrix_r_'")
    error = made.rehearsed()["error"]
    assert (error["sqlstate"], error["statement"]) == ("57P01", 2)
    wait_for(
        "it is rehearsed again", lambda: "error" not in made.status["rehearsal"], patience=90, pause=0.5, tell=made.tell
    )


def test_what_the_text_makes_in_the_tenants_schema_does_not_change_what_is_seen(place: TenantWithTables) -> None:
    made = place.submit(
        'SET search_path = pg_temp, "$user", pg_catalog; CREATE TEMP VIEW pg_locks AS SELECT 1 AS relation;'
        f"CREATE TEMP VIEW pg_class AS SELECT 1 AS oid; DROP TABLE {place.role}.b"
    )
    found = made.rehearsed()
    assert "error" not in found, found
    assert place.plain([lock["object"] for lock in found["locks"]]) == {"t.b"}
    assert "table t.b" in place.plain(found["drops"])


def test_a_tenant_that_is_suspended_has_nothing_rehearsed_until_it_is_not(place: TenantWithTables) -> None:
    place.world.api.apply(tenant(place.team, place.tenant, suspended=True))
    place.world.api.await_condition("tenant", place.tenant, place.team, status="False", reason="TenantSuspended")
    made = place.submit("DROP TABLE b")
    wait_for("it says so", lambda: made.condition("Rehearsed").get("reason") == "TenantSuspended", tell=made.tell)
    assert "rehearsal" not in made.status
    place.world.api.apply(tenant(place.team, place.tenant))
    assert made.rehearsed()["drops"]


def test_what_an_operator_that_was_killed_left_is_swept_and_the_text_rehearsed(place: TenantWithTables) -> None:
    made = place.submit("SELECT pg_sleep(5); DROP TABLE b")
    wait_for("it is rehearsed", lambda: place.world.postgres.query(ASLEEP), tell=made.tell)
    place.world.operator.kill()
    place.world.operator.start()
    assert "table t.b" in place.plain(made.rehearsed()["drops"])
    wait_for("nothing is left of it", lambda: clean(place), patience=120)


def test_a_decision_ends_the_rehearsal_that_is_in_its_way(place: TenantWithTables) -> None:
    made = place.submit("DROP TABLE b; SELECT pg_sleep(25)")
    wait_for("it is rehearsed", lambda: place.world.postgres.query(ASLEEP), tell=made.tell)
    made.decide()
    made.await_job()
    assert not place.world.postgres.query(ASLEEP)
    assert made.condition("Rehearsed")["status"] == "False"


def test_a_text_cannot_commit_its_rehearsal_whatever_encoding_it_sets(place: TenantWithTables) -> None:
    place.sql(
        "CREATE FUNCTION sets() RETURNS void LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM set_config('client_' || 'encoding', 'SJIS', false); END $$"
    )
    # Under SJIS the second byte of the first character takes the backslash along, and the constant ends there.
    made = place.submit(f"SELECT sets(); SELECT E'\u00c1\\'; COMMIT; DELETE FROM {place.role}.a; COMMIT; --'")
    found = made.rehearsed()
    assert "error" not in found, found
    assert place.world.postgres.query(f"SELECT count(*) FROM {place.role}.a") == [(1000,)]
