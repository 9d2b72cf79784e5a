"""Installing the gate: once, again, over a newer one, and where it cannot work."""

import psycopg
import pytest
from tests.harness.database import Database, directory
from tests.harness.postgres import VERSION

from vaultbrix.ddl.gate import schema
from vaultbrix.runtime.errors import Blocked
from vaultbrix.servers.facts import read_facts


def test_installing_again_changes_nothing(database: Database) -> None:
    rows = (
        "SELECT 'e', oid, xmin::text FROM pg_event_trigger"
        " UNION ALL SELECT 'f', oid, xmin::text FROM pg_proc ORDER BY 1, 2"
    )
    before = database.postgres.query(rows)
    assert database.admin(schema.install) == schema.migrations()[-1].version
    assert database.postgres.query(rows) == before


@pytest.mark.parametrize("way", ["disable", "drop"])
def test_installing_again_brings_back_what_a_superuser_switched_off(database: Database, way: str) -> None:
    role = database.tenant(f"i_{way}")
    with database.login(role) as session:
        session.execute("CREATE TABLE victim()")
        database.set_gate(enabled=False)
        if way == "drop":
            database.postgres.query(f"DROP TRIGGER vaultbrix_truncate_guard ON {role}.victim")
        database.admin(schema.install)
        for statement in ("TRUNCATE victim", "DROP TABLE victim"):
            with pytest.raises(psycopg.Error) as refused:
                session.execute(statement.encode())
            assert refused.value.sqlstate == "VBX01"


def test_a_database_of_a_newer_operator_is_left_alone(database: Database) -> None:
    database.postgres.query("INSERT INTO vaultbrix.migration VALUES (9999, 'future', '')")
    try:
        with pytest.raises(Blocked, match="9999"):
            database.admin(schema.install)
    finally:
        database.postgres.query("DELETE FROM vaultbrix.migration WHERE version = 9999")


def test_a_server_that_cannot_keep_the_promise_is_refused(database: Database) -> None:
    assert database.admin(read_facts).version.startswith(VERSION)
    with directory() as path:
        bare = Database(path, {"shared_preload_libraries": ""})
        try:
            bare.postgres.start()
            with pytest.raises(Blocked, match="pgaudit is not loaded"):
                bare.admin(read_facts)
        finally:
            bare.postgres.stop()
