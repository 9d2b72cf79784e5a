"""Attacks on the additive policy: what must not pass for an addition, by text, names, order, another session."""

import threading

from tests.harness.attacks.duel import Duel
from tests.harness.attacks.protocols import RUN, TRUNCATE
from tests.harness.attacks.registry import ATTACKS, attack
from tests.harness.attacks.texts import DROP
from tests.harness.shell import wait_for

from vaultbrix.ddl.gate.policy import set_policy


def policy(case: str, *messages: str) -> None:
    def strike(d: Duel) -> None:
        d.additive()
        d.sql(*messages)

    ATTACKS.append(("additive policy", case, strike))


policy("rename", "ALTER TABLE victim RENAME TO gone")
policy("rename a column", "ALTER TABLE victim RENAME COLUMN v TO gone")
policy("drop a column beside an addition", "ALTER TABLE victim ADD COLUMN w int, DROP COLUMN v")
policy("type", "ALTER TABLE victim ALTER COLUMN v TYPE varchar")
policy("type that rewrites", "ALTER TABLE counted ALTER COLUMN id TYPE bigint")
policy("drop not null", "ALTER TABLE victim ALTER COLUMN v DROP NOT NULL")
policy("row security", "ALTER TABLE victim ENABLE ROW LEVEL SECURITY")
policy("triggers off", "ALTER TABLE victim DISABLE TRIGGER stamp")
policy("guards off", "ALTER TABLE victim DISABLE TRIGGER ALL", TRUNCATE)
policy("guard renamed", "ALTER TRIGGER vaultbrix_truncate_guard ON victim RENAME TO mine", TRUNCATE)
policy("options", "ALTER TABLE victim SET (fillfactor = 50)")
policy("storage", "ALTER TABLE victim ALTER COLUMN v SET STORAGE EXTERNAL")
policy("column options", "ALTER TABLE victim ALTER COLUMN v SET (n_distinct = 5)")
policy("persistence", "ALTER TABLE counted SET UNLOGGED")
policy("replica identity", "ALTER TABLE victim REPLICA IDENTITY FULL")
policy("owner", "GRANT CREATE ON SCHEMA {role} TO vaultbrix_tenants", "ALTER TABLE victim OWNER TO vaultbrix_tenants")
policy("no inherit", "ALTER TABLE kid NO INHERIT parent")
policy("detach", "ALTER TABLE parts DETACH PARTITION part1")
policy("detach concurrently", "ALTER TABLE parts DETACH PARTITION part1 CONCURRENTLY")
policy("drop a constraint", "ALTER TABLE child DROP CONSTRAINT refers")
policy("rename a constraint", "ALTER TABLE child RENAME CONSTRAINT refers TO gone")
policy("alter a constraint", "ALTER TABLE child ALTER CONSTRAINT refers DEFERRABLE")
policy("identity", "ALTER TABLE counted ALTER COLUMN id DROP IDENTITY")
policy("sequence of an identity", "ALTER TABLE counted ALTER COLUMN id SET INCREMENT BY 7")
policy("restart an identity", "ALTER TABLE counted ALTER COLUMN id RESTART WITH 7")
policy("index taken into a constraint under another name", "CREATE UNIQUE INDEX u ON other(id)",
    "ALTER TABLE victim RENAME TO x",
       "ALTER TABLE other ADD CONSTRAINT named UNIQUE USING INDEX u", "DROP INDEX u")  # fmt: skip
policy("rename of a label", "ALTER TYPE kind RENAME VALUE 'a' TO 'z'")
policy("rename of a type", "ALTER TYPE kind RENAME TO gone")
policy(
    "owner of a type",
    "GRANT CREATE ON SCHEMA {role} TO vaultbrix_tenants",
    "ALTER TYPE kind OWNER TO vaultbrix_tenants",
)
policy("index by ALTER TABLE", "ALTER TABLE by_v RENAME TO gone")
policy("view by ALTER TABLE", "ALTER TABLE look RENAME TO gone")
policy("sequence by ALTER TABLE", "ALTER TABLE numbers RENAME TO gone")
policy("ALTER of another kind", "ALTER INDEX by_v RENAME TO gone", "ALTER SEQUENCE numbers INCREMENT 7",
       "ALTER FUNCTION stamp() RENAME TO gone", "ALTER STATISTICS corr RENAME TO gone")  # fmt: skip
policy("DROP is none of it", DROP, "DROP INDEX by_v", TRUNCATE)
policy("text that looks like an addition", '/* ADD COLUMN */ ALTER TABLE victim RENAME COLUMN v TO "ADD COLUMN x"')
policy("name written so that no word of it is there", 'ALTER TABLE U&"\\0076ictim" RENAME COLUMN v TO gone')
policy("several in one message", "ALTER TABLE other ADD COLUMN w int; ALTER TABLE victim RENAME COLUMN v TO gone")
policy(
    "addition and rename in turn",
    "BEGIN",
    "ALTER TABLE victim ADD COLUMN w int",
    "ALTER TABLE victim RENAME COLUMN v TO x",
    "COMMIT",
)
policy(
    "a temporary table of the same name", "CREATE TEMP TABLE victim(v int)", "ALTER TABLE {role}.victim DROP COLUMN v"
)
policy("temporary first, permanent then", "CREATE TEMP TABLE victim(v int)",
       "ALTER TABLE victim RENAME COLUMN v TO x; ALTER TABLE {role}.victim RENAME COLUMN v TO x")  # fmt: skip
policy("a temporary type of the same name", "CREATE TYPE pg_temp.kind AS ENUM ('a')",
       "ALTER TYPE {role}.kind RENAME VALUE 'a' TO 'z'")  # fmt: skip
policy("a temporary domain under a column", "CREATE DOMAIN pg_temp.text AS pg_catalog.text",
       "ALTER TABLE victim ALTER COLUMN v TYPE pg_temp.text")  # fmt: skip
policy("inherited columns", "ALTER TABLE parent RENAME COLUMN id TO gone")
policy("children of a partitioned table", "ALTER TABLE parts RENAME COLUMN id TO gone")
policy(
    "inherit", "CREATE TABLE new(own int, id int)", "ALTER TABLE new INHERIT parent; ALTER TABLE kid NO INHERIT parent"
)
policy("nested in a block", "DO $$ BEGIN ALTER TABLE victim RENAME COLUMN v TO gone; END $$")
policy("nested in a check", "INSERT INTO other VALUES (1)",
    f"{RUN} $$ BEGIN ALTER TABLE victim RENAME COLUMN v TO gone; RETURN 1; END $$",
       "ALTER TABLE other ADD CHECK (run('') > 0)")  # fmt: skip
policy("nested in a default", f"{RUN} $$ BEGIN DROP INDEX by_v; RETURN 1; END $$",
    "ALTER TABLE other ADD COLUMN w int DEFAULT run('')",
       "INSERT INTO other DEFAULT VALUES", "INSERT INTO other DEFAULT VALUES",
           "ALTER TABLE other ADD COLUMN x int DEFAULT run('')",
       )  # fmt: skip
policy("nested TRUNCATE in a check", "INSERT INTO other VALUES (1)",
    f"{RUN} $$ BEGIN TRUNCATE victim CASCADE; RETURN 1; END $$",
       "ALTER TABLE other ADD CHECK (run('') > 0)")  # fmt: skip
policy(
    "tables moved in bulk",
    "ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE pg_global",
    "ALTER TABLE victim DROP COLUMN v",
)
policy(
    "constraints immediate",
    "BEGIN",
    "SET CONSTRAINTS ALL IMMEDIATE",
    "ALTER TABLE victim RENAME COLUMN v TO x",
    "COMMIT",
)
policy("repeatable read", "BEGIN ISOLATION LEVEL REPEATABLE READ", "ALTER TABLE victim RENAME COLUMN v TO x", "COMMIT")


YOUNG = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'victim'::regclass AND attname = 'new_young')"


@attack("additive policy", "renaming what is younger than the snapshot")
def younger(d: Duel) -> None:
    d.additive()
    d.sql("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM other")
    with d.session() as second:
        d.sql("ALTER TABLE victim ADD COLUMN new_young int", session=second)
    d.sql("ALTER TABLE victim RENAME COLUMN new_young TO new_renamed", "COMMIT")
    d.holds(d.value(YOUNG), "it was renamed")


@attack("additive policy", "renaming what another session is adding")
def racing(d: Duel) -> None:
    d.additive()
    second = d.session()
    d.sql("BEGIN", "ALTER TABLE victim ADD COLUMN new_young int", session=second)
    thread = threading.Thread(target=lambda: d.sql("ALTER TABLE victim RENAME COLUMN new_young TO new_renamed"))
    thread.start()
    waiting = "SELECT 1 FROM pg_stat_activity WHERE usename = '{role}' AND wait_event_type = 'Lock'"
    try:
        wait_for("the first waits", lambda: d.admin(waiting))
    finally:
        d.sql("COMMIT", session=second)
        thread.join()
    d.holds(d.value(YOUNG), "it was renamed")


@attack("additive policy", "a login that inherits the tenant's rights")
def inheriting(d: Duel) -> None:
    d.additive()
    name = f"{d.role}_member"
    d.admin(f"CREATE ROLE {name} LOGIN PASSWORD 'correct-horse-battery' IN ROLE {d.role}")
    d.sql("SET search_path = {role}", "ALTER TABLE victim RENAME COLUMN v TO gone", session=d.session(name))


@attack("additive policy", "another tenant's policy")
def others_policy(d: Duel) -> None:
    d.database.admin(set_policy, d.neighbour(), additive=True)
    d.sql("ALTER TABLE victim ADD COLUMN w int, ALTER COLUMN v TYPE varchar")
