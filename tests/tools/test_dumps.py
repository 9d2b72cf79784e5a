"""pg_dump and pg_restore of a tenant's schema, by the tenant itself, over TLS."""

from pathlib import Path

import pytest
from tests.harness.database import Database, running
from tests.harness.migration_project import Held, client_of
from tests.harness.migration_tool import plain
from tests.harness.postgres import program
from tests.harness.tool_client import Client

# What a tenant cannot restore: the schema is there, and the gate attaches its guards by itself.
LEFT_OUT = (" SCHEMA - ", " vaultbrix_truncate_guard ")
ROWS = (
    "INSERT INTO customer(email) VALUES ('a@example.com'), ('b@example.com')",
    "INSERT INTO orders(customer_id, total, legacy) SELECT id, 10, 'x' FROM customer",
    "CREATE VIEW paid AS SELECT id, total FROM orders WHERE status = 'paid'",
    "CREATE MATERIALIZED VIEW totals AS SELECT sum(total) AS total FROM orders",
)
CONTENTS = "SELECT total, (SELECT count(*) FROM customer), (SELECT count(*) FROM paid) FROM totals"


@pytest.fixture
def dumped(database: Database, tmp_path: Path) -> Client:
    """A tenant with tables, and a dump of its schema in its folder."""
    tenant = client_of(database, Client, tmp_path)
    tenant.sql(*(statement for statement in plain(1).split(";\n") if statement), *ROWS)
    done = tenant.run(
        *program("pg_dump"), "--format=custom", "--no-owner", f"--schema={tenant.login.role}", f"--file={tmp_path}/dump"
    )
    assert done.returncode == 0, done.stderr
    return tenant


def elsewhere(dumped: Client, database: Database) -> Held[Client]:
    """The same tenant on another server, without anything."""
    slug = dumped.login.role.removeprefix("tenant_")
    return Held(database.postgres, client_of(database, Client, dumped.folder, slug))


def restored(dumped: Client, database: Database, *options: str) -> tuple[Held[Client], str]:
    """The tenant elsewhere, and what its restore said there, of all entries but those to leave out."""
    held = elsewhere(dumped, database)
    entries = dumped.run(*program("pg_restore"), "--list", dumped.folder / "dump").stdout.splitlines(keepends=True)
    kept = [entry for entry in entries if not any(part in entry for part in LEFT_OUT)]
    (dumped.folder / "entries").write_text("".join(kept))
    listed = f"--use-list={dumped.folder}/entries"
    command = (*program("pg_restore"), "--no-owner", listed, "--dbname=postgres", *options, dumped.folder / "dump")
    done = held.tool.run(*command)
    return held, done.stderr


def test_dump_is_restored_in_one_transaction_without_an_approval(dumped: Client) -> None:
    with running() as other:
        held, said = restored(dumped, other, "--single-transaction")
        assert said == ""
        assert held.query(CONTENTS) == [(20, 2, 0)]
        guarded = held.query("SELECT FROM pg_trigger WHERE tgname = 'vaultbrix_truncate_guard'")
        assert len(guarded) == 3
        assert held.refused() == []


def test_plain_dump_is_restored_by_psql_in_one_transaction(dumped: Client) -> None:
    lines = dumped.run(*program("pg_restore"), "--no-owner", "--file=-", dumped.folder / "dump").stdout.splitlines(
        keepends=True
    )
    kept = [line for line in lines if not line.startswith("CREATE SCHEMA") and "vaultbrix_truncate_guard" not in line]
    (dumped.folder / "dump.sql").write_text("".join(kept))
    with running() as other:
        held = elsewhere(dumped, other)
        done = held.tool.run(
            "psql", "--no-psqlrc", "--quiet", "--single-transaction", "--set", "ON_ERROR_STOP=1", "--file=dump.sql"
        )
        assert done.returncode == 0, done.stderr
        assert held.query(CONTENTS) == [(20, 2, 0)]
        assert held.refused() == []


def test_without_one_transaction_keys_of_what_is_there_by_then_wait_for_an_approval(dumped: Client) -> None:
    with running() as other:
        held, said = restored(dumped, other)
        assert "ALTER TABLE requires an approved DDLApproval" in said
        assert held.query(CONTENTS) == [(20, 2, 0)]
        assert all("ALTER TABLE" in text for text in held.refused())


def test_restore_that_first_drops_what_is_there_changes_nothing(dumped: Client, database: Database) -> None:
    held = Held(database.postgres, dumped)
    before = held.query(CONTENTS)
    done = dumped.run(
        *program("pg_restore"), "--clean", "--single-transaction", "--dbname=postgres", dumped.folder / "dump"
    )
    assert "requires an approved DDLApproval" in done.stderr
    assert held.query(CONTENTS) == before
