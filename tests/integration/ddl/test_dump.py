"""A dump of a tenant's schema is restored by the tenant itself, by psql, as docs/ddl.md says, and loses nothing."""

import itertools
import re
from collections.abc import Iterator
from subprocess import CompletedProcess

import pytest
from tests.harness.database import PASSWORD, Database, desired_role
from tests.harness.postgres import VERSION, program
from tests.harness.shell import run

from vaultbrix.ddl.gate import policy
from vaultbrix.tenants import deletion

# pg_dump says ALTER TABLE for the owner of a view before PostgreSQL 16.
VIEWS = ["ALTER VIEW"] if int(VERSION) > 15 else []
numbers = itertools.count(1)

SHOP = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE customers(id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders(id serial PRIMARY KEY, customer int REFERENCES customers, mood mood);
CREATE TABLE parts(at int NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE p_old PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE INDEX by_customer ON orders(customer);
CREATE VIEW report AS SELECT customer, count(*) AS orders FROM orders GROUP BY customer;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER note BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO customers(name) SELECT 'c' || n FROM generate_series(1, 10) n;
INSERT INTO orders(customer, mood) SELECT 1 + n % 10, 'glad' FROM generate_series(1, 50) n;
INSERT INTO parts SELECT n % 10 FROM generate_series(1, 20) n
"""
TABLES = {"customers", "orders", "parts", "p_old"}

# As docs/ddl.md has it; with -1 and ON_ERROR_STOP.
LEFT_OUT = re.compile(r"^(CREATE SCHEMA |.*vaultbrix_truncate_guard)")


class Shop:
    """A tenant with a schema that is worth a dump, which is empty once it was dumped."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.role = database.tenant(f"dump{next(numbers)}")
        done = self.psql(SHOP, "-v", "ON_ERROR_STOP=1")
        assert done.returncode == 0, done.stderr

    def _url(self) -> str:
        return f"host=127.0.0.1 port={self.database.postgres.port} dbname=postgres user={self.role} sslmode=require"

    def psql(self, text: str, *options: str) -> "CompletedProcess[str]":
        """The tenant's own session."""
        return run(
            "psql", "-X", "-v", "VERBOSITY=verbose", *options, "-f", "-", self._url(),
            input_text=text, env={"PGPASSWORD": PASSWORD}, check=False,
        )  # fmt: skip

    def dump(self, *options: str) -> str:
        """A plain dump of all, by the tenant; its tables, types and functions are gone afterwards."""
        done = run(*program("pg_dump"), "-n", self.role, *options, self._url(), env={"PGPASSWORD": PASSWORD})
        with self.database.postgres.connect() as admin:
            for table in ("customers", "orders", "parts"):
                admin.execute(f"DROP TABLE {self.role}.{table} CASCADE".encode())
            admin.execute(f"DROP FUNCTION {self.role}.note; DROP TYPE {self.role}.mood".encode())
        return done.stdout

    def guarded(self) -> set[str]:
        """Tables that the gate guards against TRUNCATE."""
        found = (
            "SELECT c.relname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE c.relnamespace = %s::regnamespace AND t.tgname = 'vaultbrix_truncate_guard' AND t.tgenabled = 'A'"
        )
        return {str(row[0]) for row in self.database.postgres.query(found, [self.role])}

    def rows(self, table: str) -> int:
        ((count,),) = self.database.postgres.query(f"SELECT count(*) FROM {self.role}.{table}")
        assert isinstance(count, int)
        return count


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    made = Shop(database)
    yield made
    database.admin(deletion.drop, made.role, desired_role(made.role).owner.uid)


def refused(done: "CompletedProcess[str]", sqlstate: str) -> list[str]:
    """Which commands were, by their tags."""
    return re.findall(rf"ERROR:  {sqlstate}: ([A-Z ]+?)(?= requires)", done.stderr)


def test_statement_by_statement_a_dump_stops_at_what_is_no_addition_and_every_table_is_guarded(shop: Shop) -> None:
    shop.database.admin(policy.set_policy, shop.role, additive=True)
    text = shop.dump()
    assert text.count("\\restrict ") == text.count("\\unrestrict ") == 1
    assert f"ALTER TABLE {shop.role}.orders OWNER TO {shop.role}" in text
    done = shop.psql(text)
    # OWNER TO of a table changes nothing where the tenant owns it already; of anything else it cannot be told.
    assert set(refused(done, "VBX01")) == {
        "ALTER SCHEMA", "ALTER FUNCTION", "ALTER TABLE", "ALTER SEQUENCE", *VIEWS,
    }  # fmt: skip
    assert "it would alter sequence" in done.stderr
    assert "not merely additive: ALTER SEQUENCE" in done.stderr, "identity makes a sequence"
    about_view = "it would alter view " if VIEWS else "not merely additive: ALTER TABLE "
    assert f"{about_view}{shop.role}.report" in done.stderr
    assert "permission denied for function vaultbrix.guard_truncate" in done.stderr
    assert shop.guarded() == TABLES


def test_without_owners_only_sequences_partitions_and_guards_are_refused(shop: Shop) -> None:
    shop.database.admin(policy.set_policy, shop.role, additive=True)
    done = shop.psql(shop.dump("--no-owner"))
    assert set(refused(done, "VBX01")) == {"ALTER TABLE", "ALTER SEQUENCE"}
    reasons = re.findall(r"DETAIL:  sha256\S+ \S+ = \w+; (.*)", done.stderr)
    assert [reason.replace(f"{shop.role}.", "") for reason in reasons] == [
        "not merely additive: ALTER SEQUENCE customers_id_seq",
        "it would alter sequence orders_id_seq",
        "not merely additive: class parts changes: relhassubclass",
    ]
    assert done.stderr.count("permission denied for function vaultbrix.guard_truncate") == len(TABLES)
    assert shop.guarded() == TABLES


def test_in_one_transaction_and_without_the_lines_that_are_ours_it_is_restored_whole_and_guarded(shop: Shop) -> None:
    kept = [line for line in shop.dump("--no-owner").splitlines(keepends=True) if not LEFT_OUT.match(line)]
    done = shop.psql("".join(kept), "-1", "-v", "ON_ERROR_STOP=1")
    assert done.returncode == 0, done.stderr
    assert shop.guarded() == TABLES
    assert (shop.rows("customers"), shop.rows("orders"), shop.rows("parts"), shop.rows("report")) == (10, 50, 20, 10)
    after = shop.psql("DROP VIEW report; TRUNCATE parts; INSERT INTO orders(customer) VALUES (1) RETURNING id")
    assert after.stderr.count("ERROR:  VBX01") == 2
    assert " 51" in after.stdout
