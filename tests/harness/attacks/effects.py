"""Attacks on the freedom of what a transaction made itself: something of before must not pass for it, or go with it."""

import threading

from tests.harness.attacks.duel import Duel
from tests.harness.attacks.registry import attack, short
from tests.harness.attacks.texts import DROP
from tests.harness.shell import wait_for

NEW = "CREATE TABLE new_one(id int, v text)"


def within(family: str, case: str, *statements: str) -> None:
    """Messages of one transaction."""
    short(family, case, lambda d: d.sql("BEGIN", *statements, "COMMIT"))


SWAP = "create, swap, drop"
within(
    SWAP,
    "the old one out of the way",
    "CREATE TABLE new_victim AS TABLE victim",
    "ALTER TABLE victim RENAME TO old",
    "ALTER TABLE new_victim RENAME TO victim",
    "DROP TABLE old CASCADE",
)
within(SWAP, "the old one as a temporary one", "CREATE TEMP TABLE victim(id int)", "DROP TABLE {role}.victim CASCADE")
within(SWAP, "two tables in one DROP", NEW, "DROP TABLE new_one, victim CASCADE")
within(SWAP, "two tables in one TRUNCATE", NEW, "TRUNCATE new_one, victim CASCADE")
within(
    SWAP,
    "the emptying of a new one cascades",
    "CREATE TABLE new_one(id int PRIMARY KEY)",
    "TRUNCATE new_one, child, victim",
)

NAME = "made under the name of another"
within(
    NAME,
    "in another schema first",
    "CREATE TEMP TABLE kid(own int)",
    "ALTER TABLE kid ADD COLUMN new_x int",
    "ALTER TABLE {role}.kid DROP COLUMN own",
)
within(
    NAME,
    "dropped, made again, and the other",
    NEW,
    "DROP TABLE new_one",
    "CREATE TABLE new_one(id int)",
    "ALTER TABLE new_one RENAME TO new_two",
    "ALTER TABLE parts RENAME TO new_one",
)

REPLACED = "replaced is not made"
within(REPLACED, "view", "CREATE OR REPLACE VIEW look AS SELECT id FROM victim", "DROP VIEW look")
within(
    REPLACED,
    "function",
    "CREATE OR REPLACE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$",
    "DROP FUNCTION stamp() CASCADE",
)
within(
    REPLACED,
    "procedure",
    "CREATE OR REPLACE PROCEDURE later(what text) LANGUAGE plpgsql AS $$ BEGIN END $$",
    "DROP PROCEDURE later(text)",
)
within(
    REPLACED,
    "trigger",
    "CREATE OR REPLACE TRIGGER stamp BEFORE INSERT ON victim FOR EACH ROW EXECUTE FUNCTION stamp()",
    "DROP TRIGGER stamp ON victim",
)
within(REPLACED, "not made since it was there", "CREATE TABLE IF NOT EXISTS victim(id int)", DROP)
within(REPLACED, "sequence that was there", "CREATE SEQUENCE IF NOT EXISTS numbers", "DROP SEQUENCE numbers")
for number, statement in enumerate(
    (
        "CREATE INDEX IF NOT EXISTS by_v ON victim(v)",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS kept AS SELECT 1 AS id",
        "CREATE TABLE IF NOT EXISTS victim AS SELECT 1 AS id",
        "CREATE STATISTICS IF NOT EXISTS corr ON id, v FROM victim",
    )
):
    kind, name = statement.split(" IF NOT EXISTS ")
    dropped = f"DROP {kind.removeprefix('CREATE ')} {name.split()[0]} CASCADE"
    within(REPLACED, f"{number} {kind} IF NOT EXISTS", statement, dropped)
within(
    REPLACED,
    "under an older snapshot",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "CREATE OR REPLACE VIEW look AS SELECT id FROM victim",
    "DROP VIEW look",
)

TOUCHED = "touched is not made"
for number, statement in enumerate(
    (
        "GRANT SELECT ON victim TO PUBLIC",
        "COMMENT ON TABLE victim IS 'x'",
        "CREATE INDEX new_i ON victim(k)",
        "GRANT SELECT (id, v, ctid, tableoid, xmin, cmin, xmax, cmax) ON victim TO PUBLIC",
        "CREATE TRIGGER new_t BEFORE DELETE ON victim FOR EACH ROW EXECUTE FUNCTION stamp()",
        "ANALYZE victim",
        "CREATE TABLE new_c(x int) INHERITS (victim)",
        "CREATE TABLE new_r(x int REFERENCES victim)",
    )
):
    within(TOUCHED, f"{number} {statement.split(' ON ', maxsplit=1)[0]}", statement, DROP)

SUBTRANSACTIONS = "subtransactions"
within(SUBTRANSACTIONS, "made, rolled back, and the other", "SAVEPOINT s", NEW, "ROLLBACK TO s", DROP)
within(
    SUBTRANSACTIONS,
    "touched within one that is released",
    "SAVEPOINT s",
    "GRANT SELECT ON victim TO PUBLIC",
    "RELEASE s",
    DROP,
)
within(SUBTRANSACTIONS, "of before, within one", NEW, "SAVEPOINT s", "ALTER TABLE victim RENAME TO gone", "RELEASE s")
short(
    SUBTRANSACTIONS,
    "made by an earlier transaction",
    lambda d: d.sql(
        "CREATE TABLE mine(id int); INSERT INTO mine VALUES (1)",
        "BEGIN",
        "DROP TABLE mine",
        "COMMIT",
        "BEGIN; CREATE TABLE new_x(); COMMIT AND CHAIN",
        DROP,
        "COMMIT",
    ),
)
short(
    SUBTRANSACTIONS,
    "made before a procedure's commit",
    lambda d: d.sql(
        "CREATE PROCEDURE new_p() LANGUAGE plpgsql AS"
        " $$ BEGIN CREATE TABLE new_x(); COMMIT; DROP TABLE victim CASCADE; END $$",
        "CALL new_p()",
    ),
)

PARTS = "parts of one another"
within(
    PARTS,
    "attached to a new table",
    "CREATE TABLE new_p(id int) PARTITION BY LIST (id)",
    "ALTER TABLE new_p ATTACH PARTITION child FOR VALUES IN (1)",
)
within(
    PARTS, "a new parent", "CREATE TABLE new_p(own int)", "ALTER TABLE kid INHERIT new_p", "DROP TABLE new_p CASCADE"
)
within(
    PARTS,
    "a partition of before, detached from a parent of before",
    "CREATE TABLE new_p PARTITION OF parts FOR VALUES IN (9)",
    "ALTER TABLE parts DETACH PARTITION part1",
    "DROP TABLE part1",
)
within(
    PARTS,
    "a parent that cascades to its children",
    "CREATE TABLE new_c() INHERITS (parent)",
    "DROP TABLE parent CASCADE",
)
within(PARTS, "an index of a table of before", "CREATE INDEX new_i ON victim(v)", "DROP INDEX new_i, by_v")
within(
    PARTS,
    "a table clustered on a new index",
    "CREATE INDEX new_i ON victim(v)",
    "ALTER TABLE victim CLUSTER ON new_i",
    "ALTER TABLE victim SET (fillfactor = 50)",
)


@attack(PARTS, "a child of before, by an approved text")
def adopted(d: Duel) -> None:
    """What is done to the parent reaches the child."""
    d.approve("ALTER TABLE child INHERIT new_p")
    d.sql("BEGIN", "CREATE TABLE new_p(id int)", "ALTER TABLE child INHERIT new_p")
    d.sql("ALTER TABLE new_p RENAME COLUMN id TO gone", "COMMIT")


MOVED = "dependencies moved onto something new"
within(
    MOVED,
    "a view of before",
    NEW,
    "CREATE OR REPLACE VIEW look AS SELECT id FROM new_one",
    "DROP TABLE new_one CASCADE",
)
within(
    MOVED,
    "a function of before",
    NEW,
    "CREATE OR REPLACE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$",
    "CREATE OR REPLACE PROCEDURE later(what text) BEGIN ATOMIC DELETE FROM new_one; END",
    "DROP TABLE new_one CASCADE",
    "DROP FUNCTION stamp() CASCADE",
)
within(
    MOVED,
    "a trigger of before",
    "CREATE FUNCTION new_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$",
    "CREATE OR REPLACE TRIGGER stamp BEFORE INSERT ON victim FOR EACH ROW EXECUTE FUNCTION new_f()",
    "DROP FUNCTION new_f() CASCADE",
)
within(
    MOVED,
    "a sequence of before",
    "CREATE TABLE new_one(id int)",
    "ALTER SEQUENCE numbers OWNED BY new_one.id",
    "DROP TABLE new_one",
)
within(
    MOVED,
    "a column's type",
    "CREATE TYPE new_t AS ENUM ('a', 'b')",
    "ALTER TABLE victim ALTER COLUMN k TYPE new_t USING k::text::new_t",
    "DROP TYPE new_t CASCADE",
)
within(
    MOVED,
    "a default",
    "CREATE SEQUENCE new_s",
    "ALTER TABLE other ADD COLUMN new_x int",
    "ALTER TABLE victim ALTER COLUMN v SET DEFAULT nextval('new_s')",
    "DROP SEQUENCE new_s CASCADE",
)

MIXED = "several effects in one command"
within(MIXED, "an addition and a loss", NEW, "ALTER TABLE victim ADD COLUMN new_x int, DROP COLUMN v")
within(MIXED, "a DROP of nothing and of something", "DROP TABLE IF EXISTS nope, victim CASCADE")
within(
    MIXED,
    "of something temporary and of something else",
    "CREATE TEMP TABLE new_t(id int)",
    "DROP TABLE new_t, victim CASCADE",
)
within(MIXED, "an ALTER of nothing and of something", "ALTER TABLE victim DROP COLUMN IF EXISTS nope, DROP COLUMN v")
within(
    MIXED,
    "what was changed before in the transaction",
    "GRANT SELECT ON victim TO PUBLIC",
    "COMMENT ON COLUMN victim.v IS 'x'",
    "ALTER TABLE victim ALTER COLUMN v DROP NOT NULL",
)
within(MIXED, "IF EXISTS of what exists", "DROP INDEX IF EXISTS by_v")
within(MIXED, "ALTER IF EXISTS of what exists", "ALTER TABLE IF EXISTS victim RENAME TO gone")
within(MIXED, "ALTER VIEW IF EXISTS of what exists", "ALTER VIEW IF EXISTS look RENAME TO gone")
within(
    MIXED,
    "a guard goes alone",
    NEW,
    "INSERT INTO new_one VALUES (1, 'x')",
    "DROP TRIGGER vaultbrix_truncate_guard ON victim",
    "COMMIT",
    "TRUNCATE victim CASCADE",
)


def owned(d: Duel) -> None:
    """What the transaction made is handed over, and comes back with what it does not hold."""
    d.sql(
        "BEGIN", NEW, "ALTER TABLE new_one OWNER TO vaultbrix_tenants", "DROP OWNED BY {role} CASCADE", "COMMIT", DROP
    )


short("owners", "made, handed over, and all the rest", owned)

REFRESHED = "within a refresh"


def refreshed(d: Duel, *texts: str) -> None:
    """A materialised view whose query changes something while PostgreSQL does not collect what commands did.

    Since PostgreSQL 17 a refresh has a search_path of its own.
    """
    body = "; ".join(f"EXECUTE $x${text}$x$" for text in texts)
    calls = "CREATE OR REPLACE FUNCTION new_g() RETURNS int LANGUAGE sql AS 'SELECT {what}'"
    d.sql(
        "CREATE FUNCTION new_f() RETURNS int LANGUAGE plpgsql SET search_path = {role} AS"
        f" $$ BEGIN {body}; RETURN 1; END $$",
        calls.replace("{what}", "1"),
        "CREATE MATERIALIZED VIEW new_n AS SELECT new_g() AS id",
        "CREATE UNIQUE INDEX ON new_n(id)",
        calls.replace("{what}", "{role}.new_f()"),
        "REFRESH MATERIALIZED VIEW CONCURRENTLY new_n",
    )


for harmful in (
    "ALTER TABLE victim RENAME TO gone",
    "ALTER TABLE victim ALTER COLUMN v DROP NOT NULL",
    "ALTER TABLE kid NO INHERIT parent",
    "ALTER FUNCTION stamp() RENAME TO gone",
    "ALTER TYPE kind RENAME VALUE 'a' TO 'z'",
    "ALTER SEQUENCE numbers START WITH 9",
    "ALTER DOMAIN positive DROP CONSTRAINT positive_check",
    "DROP TABLE victim CASCADE",
    "ALTER TRIGGER stamp ON victim RENAME TO gone",
    "CREATE RULE silent AS ON INSERT TO victim DO INSTEAD NOTHING",
):
    short(REFRESHED, harmful, lambda d, text=harmful: refreshed(d, text))


@attack(REFRESHED, "a guard is replaced by a trigger that does nothing")
def unguarded(d: Duel) -> None:
    trigger = "CREATE OR REPLACE TRIGGER vaultbrix_truncate_guard BEFORE TRUNCATE ON kid"
    refreshed(d, f"{trigger} FOR EACH STATEMENT EXECUTE FUNCTION stamp()")
    d.sql("TRUNCATE kid")


@attack(REFRESHED, "a constraint that takes rows along later")
def cascading(d: Duel) -> None:
    refreshed(d, "ALTER TABLE child ADD CONSTRAINT second FOREIGN KEY (id) REFERENCES victim ON DELETE CASCADE")
    d.holds(d.admin("SELECT 1 FROM pg_constraint WHERE conname = 'second'") == [], "it was added without an approval")


@attack(REFRESHED, "a procedure of before is made to go with the session")
def fleeting(d: Duel) -> None:
    other = d.session()
    d.sql("CREATE TEMP TABLE fleeting(id int)", session=other)
    asked = "SELECT nspname, pg_backend_pid() FROM pg_namespace WHERE oid = pg_my_temp_schema()"
    ((schema, process),) = other.execute(asked).fetchall()
    refreshed(d, "SELECT 1")
    replaced = f"CREATE OR REPLACE PROCEDURE later(what text) BEGIN ATOMIC DELETE FROM {schema}.fleeting; END"
    d.sql(
        "CREATE OR REPLACE FUNCTION new_f() RETURNS int LANGUAGE plpgsql SET search_path = {role} AS"
        f" $$ BEGIN EXECUTE $x${replaced}$x$; RETURN 1; END $$",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY new_n",
        session=other,
    )
    other.close()
    wait_for("it has ended", lambda: not d.admin(f"SELECT 1 FROM pg_stat_activity WHERE pid = {process}"))


@attack("moments", "another session changes a row of the catalogs while the ALTER waits")
def overtaken(d: Duel) -> None:
    """The statement's own snapshot still shows the row that the other one replaced."""
    d.additive()
    other = d.session()
    d.sql("BEGIN; LOCK TABLE victim; GRANT SELECT ON victim TO PUBLIC", session=other)
    waiting = threading.Thread(target=d.sql, args=("ALTER TABLE victim ALTER COLUMN v DROP NOT NULL",))
    waiting.start()
    wait_for(
        "it waits for the lock",
        lambda: d.admin("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = '{role}.victim'::regclass"),
    )
    d.sql("ALTER TABLE victim ALTER COLUMN v SET NOT NULL; COMMIT", session=other)
    waiting.join()
