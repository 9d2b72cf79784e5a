"""The gate against the owner of the tables: what is destructive is refused, what is not is free.

Every attack also runs with the gate switched off and must then do its harm, so that none is refused for another reason.
"""

import hashlib
import itertools

import psycopg
import pytest
from tests.harness.database import Database, send
from tests.harness.tenant_schema import ATTACKS, FORBIDDEN, SCENE, TenantSchema, code

from vaultbrix.ddl.plan import normalise

RESERVED = (
    "CREATE OR REPLACE TRIGGER vaultbrix_truncate_guard BEFORE INSERT ON victim FOR EACH ROW EXECUTE FUNCTION stamp()",
    "CREATE TRIGGER vaultbrix_mine BEFORE INSERT ON victim FOR EACH ROW EXECUTE FUNCTION stamp()",
)


numbers = itertools.count(1)


@pytest.fixture
def scene(database: Database) -> TenantSchema:
    scene = TenantSchema(database, database.tenant(f"g{next(numbers)}"))
    with database.login(scene.role) as connection:
        for statement in SCENE:
            connection.execute(statement.format(role=scene.role).encode())
    return scene


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_owner_cannot_destroy_without_a_pass(scene: TenantSchema, attack: str) -> None:
    before = scene.look()
    refused = scene.send(attack)
    assert code(refused) == "VBX01", refused.error_message
    assert scene.look() == before

    scene.database.set_gate(enabled=False)
    try:
        disarmed = scene.look()
        scene.send(attack)
        assert scene.look() != disarmed, "the attack does no harm even with the gate off"
    finally:
        scene.database.set_gate(enabled=True)


@pytest.mark.parametrize("attack", RESERVED)
def test_the_names_of_guards_are_reserved(scene: TenantSchema, attack: str) -> None:
    before = scene.look()
    assert code(scene.send(attack)) == "VBX02"
    assert scene.look() == before
    scene.database.set_gate(enabled=False)
    try:
        disarmed = scene.look()
        scene.send(attack)
        assert scene.look() != disarmed
    finally:
        scene.database.set_gate(enabled=True)


def test_a_table_that_explain_made_cannot_be_truncated_before_it_is_guarded(scene: TenantSchema) -> None:
    before = scene.look()
    assert code(scene.send("TRUNCATE explained")) in ("42501", "VBX01")
    assert code(scene.send("GRANT TRUNCATE ON explained TO {role}; TRUNCATE explained")) == "VBX01"
    assert ("rows", "explained", "3") in scene.look()
    assert [row for row in scene.look() if "explained" not in str(row[1])] == [
        row for row in before if "explained" not in str(row[1])
    ]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_a_tenant_has_no_privilege_beyond_its_schema(scene: TenantSchema, statement: str) -> None:
    other = scene.database.tenant(f"g{next(numbers)}")
    with scene.database.login(other) as connection:
        connection.execute("CREATE TABLE victim(id int)")
    text = statement.replace("{other}", other).replace("{role}", scene.role)
    refused = scene.send(text)
    assert code(refused) in ("42501", "42704"), refused.error_message

    if "ALTER SYSTEM" in text or "COPY" in text:
        return
    with scene.database.postgres.connect() as superuser, superuser.transaction(force_rollback=True):
        superuser.execute(text.encode())


def test_a_refusal_tells_the_hash_and_what_to_do(scene: TenantSchema) -> None:
    text = "  DROP TABLE victim\r\n CASCADE ;\n"
    refused = scene.send(text)
    sha256 = hashlib.sha256(normalise(text).encode()).hexdigest()
    assert sha256.encode() in (refused.error_field(psycopg.pq.DiagnosticField.MESSAGE_DETAIL) or b"")
    assert b"DDLApproval" in (refused.error_field(psycopg.pq.DiagnosticField.MESSAGE_HINT) or b"")


def test_what_destroys_nothing_is_free(scene: TenantSchema) -> None:
    with scene.database.login(scene.role) as connection:
        for statement in (
            "CREATE TABLE more(id serial PRIMARY KEY, at timestamptz DEFAULT now(), ref int REFERENCES victim)",
            "CREATE INDEX CONCURRENTLY ON more(at)",
            "CREATE OR REPLACE VIEW look AS SELECT id FROM victim",
            "INSERT INTO more(ref) VALUES (1)",
            "UPDATE victim SET v = 'x'",
            "DELETE FROM more",
            "COMMENT ON TABLE more IS 'more'",
            "GRANT SELECT ON more TO PUBLIC",
            "REVOKE SELECT ON more FROM PUBLIC",
            "REFRESH MATERIALIZED VIEW kept",
            "CREATE UNIQUE INDEX ON kept(id)",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY kept",
            "CREATE TABLE public_copy AS TABLE victim",
            "CREATE TEMP TABLE scratch(id int, v text)",
            "ALTER TABLE scratch ADD COLUMN w int",
            "CREATE INDEX ON scratch(id)",
            "TRUNCATE scratch",
            "DROP TABLE scratch",
            "CREATE TEMP TABLE again ON COMMIT DROP AS SELECT 1",
            "CREATE POLICY mine ON victim USING (true)",
            "VACUUM victim",
            "ANALYZE victim",
            "SET work_mem = '8MB'",
        ):
            assert code(send(connection, statement)) == "", statement
