"""Attacks on the freedom to drop what a tool builds anew: nothing else may go with it, or pass for it."""

import threading

from tests.harness.attacks.duel import Duel
from tests.harness.attacks.registry import attack, short
from tests.harness.attacks.texts import DROP
from tests.harness.shell import wait_for

NEW = "CREATE TABLE new_one(id int PRIMARY KEY, v text)"


def rebuilding(family: str, case: str, *messages: str, patterns: tuple[str, ...] = ("new_*",)) -> None:
    """Messages of a tenant that may drop what these patterns name."""

    def strike(d: Duel) -> None:
        d.rebuildable(*patterns)
        d.sql(*messages)

    short(family, case, strike)


BESIDE = "dropped beside what is rebuilt"
rebuilding(BESIDE, "another table", NEW, "DROP TABLE new_one, victim CASCADE")
rebuilding(BESIDE, "another table, first", NEW, "DROP TABLE victim, new_one CASCADE")
rebuilding(BESIDE, "emptied together", NEW, "TRUNCATE new_one, kid")
rebuilding(BESIDE, "its schema", "DROP SCHEMA {role} CASCADE", patterns=("*_one", "new_*"))
rebuilding(BESIDE, "part of another's", "DROP INDEX by_v", patterns=("by_v", "new_*"))
rebuilding(BESIDE, "trigger of that name", "DROP TRIGGER stamp ON victim", patterns=("stamp", "new_*"))
rebuilding(BESIDE, "a type of that name", "DROP TYPE kind CASCADE", patterns=("kind",))
rebuilding(BESIDE, "a function of that name", "DROP FUNCTION stamp() CASCADE", patterns=("stamp*",))
rebuilding(BESIDE, "a sequence of that name", "DROP SEQUENCE numbers", patterns=("numbers",))

ALONG = "taken along by what is rebuilt"
rebuilding(ALONG, "a view", "DROP TABLE victim CASCADE", patterns=("victim", "child"))
rebuilding(ALONG, "a materialised view", "DROP TABLE victim CASCADE", patterns=("victim", "child", "look"))
rebuilding(ALONG, "a foreign key", "DROP TABLE victim CASCADE", patterns=("victim", "look", "kept"))
rebuilding(ALONG, "partitions", "DROP TABLE parts", patterns=("parts",))
rebuilding(ALONG, "heirs", "DROP TABLE parent CASCADE", patterns=("parent",))
rebuilding(ALONG, "rows by a foreign key", "TRUNCATE victim CASCADE", patterns=("victim",))
rebuilding(
    ALONG,
    "a default by its sequence",
    "CREATE TABLE new_one(id serial)",
    "CREATE OR REPLACE FUNCTION next() RETURNS bigint BEGIN ATOMIC SELECT nextval('new_one_id_seq'::regclass); END",
    "DROP TABLE new_one CASCADE",
    "DROP FUNCTION IF EXISTS stamp() CASCADE",
)


@attack(ALONG, "a column of its type")
def typed(d: Duel) -> None:
    d.rebuildable("new_*")
    d.sql("CREATE TABLE new_one(id int)", "CREATE TABLE keeper(id int, made new_one)", "DROP TABLE new_one CASCADE")
    columns = d.admin("SELECT 1 FROM pg_attribute WHERE attrelid = '{role}.keeper'::regclass AND attname = 'made'")
    d.holds(columns != [], "a column of another table is gone")


HELD = "rows of another held by what is rebuilt"
rebuilding(HELD, "a partition is dropped", "DROP TABLE part1", patterns=("part1",))
rebuilding(HELD, "a partition is emptied", "TRUNCATE part1", patterns=("part1",))
rebuilding(HELD, "an heir is dropped", "DROP TABLE kid", patterns=("kid",))
rebuilding(HELD, "an heir is emptied", "TRUNCATE kid", patterns=("kid",))
rebuilding(
    HELD,
    "a partition of a partition",
    "CREATE TABLE new_part PARTITION OF parts FOR VALUES IN (2) PARTITION BY LIST (id)",
    "CREATE TABLE new_leaf PARTITION OF new_part FOR VALUES IN (2)",
    "ALTER TABLE part1 RENAME TO new_gone",
    "DROP TABLE new_gone",
)

NAMED = "made to pass for what is rebuilt"
rebuilding(NAMED, "renamed first", "ALTER TABLE victim RENAME TO new_one", "DROP TABLE new_one CASCADE")
rebuilding(
    NAMED,
    "renamed in the transaction",
    "BEGIN",
    "ALTER TABLE victim RENAME TO new_one",
    "DROP TABLE new_one CASCADE",
    "COMMIT",
)
rebuilding(NAMED, "out of the names", "ALTER TABLE victim RENAME TO gone", patterns=("victim",))
rebuilding(NAMED, "a view into the names", "ALTER VIEW look RENAME TO new_look", "DROP VIEW new_look")
rebuilding(NAMED, "a sign of LIKE is a letter", DROP, patterns=("v%", "_ictim", "victi\\m"))
rebuilding(NAMED, "capitals count", DROP, patterns=("VICTIM", "Victim"))
rebuilding(NAMED, "a dot divides", DROP, patterns=("{role}.new_*", "other.*"))
rebuilding(NAMED, "under an older snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ", "DROP TABLE kid", "COMMIT")
rebuilding(
    NAMED,
    "a column is not a relation",
    "ALTER TABLE victim RENAME COLUMN v TO new_v",
    patterns=("victim", "v", "new_*"),
)
rebuilding(NAMED, "an index out of the names", "ALTER INDEX by_v RENAME TO new_i", patterns=("by_v", "new_*"))

ALTERED = "altered as if it were swapped"
for number, text in enumerate(
    (
        "ALTER TABLE victim DROP COLUMN v",
        "ALTER TABLE victim ALTER COLUMN v TYPE varchar(9)",
        "ALTER TABLE victim RENAME CONSTRAINT victim_pkey TO new_key",
        "ALTER TABLE victim DISABLE TRIGGER stamp",
        "ALTER TABLE kid NO INHERIT parent",
        "ALTER TABLE parts DETACH PARTITION part1",
        "ALTER TRIGGER stamp ON victim RENAME TO new_stamp",
    )
):
    rebuilding(ALTERED, f"{number} {text}", text, patterns=("victim", "new_*", "kid", "part*"))


@attack(NAMED, "another tenant's of that name")
def foreign(d: Duel) -> None:
    neighbour = d.neighbour()
    d.sql(f"GRANT USAGE ON SCHEMA {d.role} TO {neighbour}", f"GRANT TRUNCATE ON kid TO {neighbour}")
    d.rebuildable(f"{d.role}.*", role=neighbour)
    d.sql("TRUNCATE {role}.kid", session=d.session(neighbour))


@attack(NAMED, "a name that is given away while the DROP waits for another table")
def promoted(d: Duel) -> None:
    """The statement's snapshot still shows the name under which it might be dropped."""
    d.rebuildable("new_*")
    other = d.session()
    d.sql("CREATE TABLE new_first(id int)", "CREATE TABLE new_best(id int)", "CREATE TABLE best(id int)")
    d.sql("BEGIN; LOCK TABLE new_first", session=other)
    waiting = threading.Thread(target=d.sql, args=("DROP TABLE new_first, best",))
    waiting.start()
    wait_for(
        "it waits for the lock",
        lambda: d.admin("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = '{role}.new_first'::regclass"),
    )
    d.admin("ALTER TABLE {role}.best RENAME TO worst")
    d.admin("ALTER TABLE {role}.new_best RENAME TO best")
    d.sql("COMMIT", session=other)
    waiting.join()
    d.holds(d.admin("SELECT to_regclass('{role}.best')")[0][0] is not None, "it was dropped under its new name")


@attack(HELD, "made a partition of another while the DROP waits for it")
def attached(d: Duel) -> None:
    """The statement's snapshot still shows it alone."""
    d.rebuildable("new_*")
    other = d.session()
    d.sql("CREATE TABLE new_alone(id int)", "INSERT INTO new_alone VALUES (2)")
    attaching = "ALTER TABLE {role}.parts ATTACH PARTITION {role}.new_alone FOR VALUES IN (2)"
    d.approve(attaching)
    d.sql("BEGIN", attaching, session=other)
    waiting = threading.Thread(target=d.sql, args=("DROP TABLE new_alone",))
    waiting.start()
    wait_for(
        "it waits for the lock",
        lambda: d.admin("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = '{role}.new_alone'::regclass"),
    )
    d.sql("COMMIT", session=other)
    waiting.join()
    d.holds(d.admin("SELECT 1 FROM {role}.parts WHERE id = 2") != [], "rows of another relation are gone")
