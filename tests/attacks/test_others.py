"""What a tenant may call of the gate does nothing to another tenant: its tables are not locked."""

import psycopg
import pytest
from tests.harness.database import Database

from vaultbrix.ddl.gate import policy

CALLS = {
    "ddl_start": "SELECT vaultbrix.ddl_start('ALTER TABLE', 'tenant_owner', '', '{}') /* kept */",
    "ddl_start, of a type": "SELECT vaultbrix.ddl_start('ALTER TYPE', 'tenant_owner', '', '{}') /* mood */",
    "sql_drop": "SELECT vaultbrix.sql_drop('DROP TABLE', 'tenant_owner', '', '{}', NULL)",
    "ddl_end": "SELECT vaultbrix.ddl_end('GRANT', 'tenant_owner', '', '{}', NULL)",
    "truncate_check": "SELECT vaultbrix.truncate_check('tenant_owner.kept'::regclass, 'tenant_owner', '', '{}')",
}


@pytest.fixture(scope="module")
def stranger(databases: tuple[Database, Database]) -> psycopg.Connection:
    """A session of another tenant than the one whose tables are named, which may use that one's schema."""
    database = databases[0]
    owner, stranger = database.tenant("owner"), database.tenant("stranger")
    database.admin(policy.set_policy, owner, additive=True)
    with database.login(owner) as session:
        session.execute("CREATE TABLE kept(id int)")
        session.execute("CREATE TYPE mood AS ENUM ('good')")
        session.execute("GRANT USAGE ON SCHEMA tenant_owner TO tenant_stranger")
    return database.login(stranger, autocommit=False)


@pytest.mark.parametrize("call", CALLS)
def test_who_names_another_as_the_actor_is_refused(stranger: psycopg.Connection, call: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="tenant_stranger is not a member of tenant_owner"):
        stranger.execute(CALLS[call].encode())
    stranger.rollback()


def test_its_owner_alters_the_table_meanwhile_without_an_approval(
    databases: tuple[Database, Database], stranger: psycopg.Connection
) -> None:
    with databases[0].login("tenant_owner") as session:
        session.execute("ALTER TABLE kept ADD COLUMN note text")
        session.execute("CREATE FUNCTION adds() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'CREATE TEMP TABLE t()'")
        session.execute("GRANT EXECUTE ON FUNCTION adds() TO tenant_stranger")
    # As the function's owner, of whom the session is no member.
    stranger.execute("SELECT tenant_owner.adds()")
    stranger.rollback()


CLAIMS = {
    "its uid": "UPDATE vaultbrix.tenant_uid SET uid = 'mine' WHERE role_name = 'tenant_owner'",
    "its own uid": "UPDATE vaultbrix.tenant_uid SET uid = 'mine' WHERE role_name = 'tenant_stranger'",
    "its name": "UPDATE vaultbrix.tenant SET namespace = 'mine' WHERE role_name = 'tenant_owner'",
    "its row": "DELETE FROM vaultbrix.tenant_uid WHERE role_name = 'tenant_owner'",
    "another row": "INSERT INTO vaultbrix.tenant(role_name, namespace, name) VALUES ('tenant_next', 'mine', 'mine')",
    "that it is retained": "UPDATE vaultbrix.tenant_uid SET retained_at = NULL, bound_at = NULL",
    "all of them": "TRUNCATE vaultbrix.tenant_uid",
    "a lock that keeps new tenants waiting": "LOCK TABLE vaultbrix.tenant_uid IN SHARE UPDATE EXCLUSIVE MODE",
    "a lock on a row": "SELECT FROM vaultbrix.tenant_uid FOR UPDATE",
    "whose it is": "SELECT uid FROM vaultbrix.tenant_uid",
    "the table": "ALTER TABLE vaultbrix.tenant_uid ADD COLUMN mine text",
    "the function that notes uids": "CREATE OR REPLACE FUNCTION vaultbrix.note_uid() RETURNS trigger LANGUAGE plpgsql"
    " AS 'BEGIN RETURN NULL; END'",
    "a trigger that calls it": "CREATE TRIGGER t AFTER INSERT ON own FOR EACH ROW"
    " EXECUTE FUNCTION vaultbrix.note_uid()",
    "the comment that a reinstallation reads": "COMMENT ON ROLE tenant_stranger IS 'vaultbrix Tenant mine/mine/mine'",
}


@pytest.mark.parametrize("what", CLAIMS)
def test_no_tenant_reads_or_changes_whose_a_role_is(
    databases: tuple[Database, Database], stranger: psycopg.Connection, what: str
) -> None:
    query = "SELECT t.*, u.* FROM vaultbrix.tenant t JOIN vaultbrix.tenant_uid u USING (role_name) ORDER BY 1"
    before = databases[0].postgres.query(query)
    stranger.execute("CREATE TABLE own()")
    with pytest.raises(psycopg.Error) as refusal:
        stranger.execute(CLAIMS[what].encode())
    stranger.rollback()
    # By PostgreSQL for want of a right, or by the gate before that.
    assert refusal.value.sqlstate in ("42501", "VBX01")
    assert databases[0].postgres.query(query) == before
