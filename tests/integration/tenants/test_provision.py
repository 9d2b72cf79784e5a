"""A tenant's role and schema in PostgreSQL: made once, mended when they drift, never taken from somebody else."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from tests.harness.database import SALT, Database, desired_role, owner
from tests.harness.tenants import CATALOG

from vaultbrix.ddl.decisions import login_name
from vaultbrix.ddl.gate import logins
from vaultbrix.postgres import roles, scram
from vaultbrix.postgres.fingerprints import DIGEST, FINGERPRINTS
from vaultbrix.runtime.errors import Blocked
from vaultbrix.tenants import deletion
from vaultbrix.tenants import role as tenants

DRIFT = (
    "ALTER ROLE {role} CREATEDB CREATEROLE REPLICATION BYPASSRLS",
    "ALTER ROLE {role} SUPERUSER",
    "ALTER ROLE {role} NOLOGIN",
    "ALTER ROLE {role} INHERIT",
    "ALTER ROLE {role} CONNECTION LIMIT 3",
    "ALTER ROLE {role} VALID UNTIL '2000-01-01'",
    "GRANT pg_read_all_data, pg_signal_backend TO {role}",
    "GRANT vaultbrix_tenants TO {role} WITH ADMIN OPTION",
    "REVOKE vaultbrix_tenants FROM {role}",
    "ALTER ROLE {role} SET search_path = public",
    "ALTER ROLE {role} SET pgaudit.log = 'none'",
    "ALTER ROLE {role} RESET ALL",
    "ALTER ROLE {role} SET log_statement = 'none'",
    "ALTER ROLE {role} IN DATABASE postgres SET search_path = public",
    "ALTER ROLE {role} IN DATABASE template1 SET work_mem = '1GB'",
    "GRANT CREATE ON DATABASE postgres TO {role}",
    "REVOKE ALL ON SCHEMA {role} FROM {role}",
    "ALTER ROLE {role} SET statement_timeout = '1s'",
    "ALTER SCHEMA {role} OWNER TO postgres",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT TRUNCATE ON TABLES TO {role}",
    "ALTER ROLE {role} PASSWORD NULL",
    "ALTER ROLE {role} PASSWORD 'mine'",
)

numbers = itertools.count(1)


@pytest.fixture
def role(database: Database) -> str:
    return database.tenant(f"v{next(numbers)}")


def facts(database: Database, role: str) -> list[tuple[Any, ...]]:
    """All that provisioning decides, apart from the verifier."""
    return database.postgres.query(
        "SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit,"
        " rolconnlimit,"
        " coalesce(rolvaliduntil, 'infinity') = 'infinity',"
        " ARRAY(SELECT m.roleid::regrole::text || m.admin_option FROM pg_auth_members m"
        "  WHERE m.member = r.oid ORDER BY 1),"
        " ARRAY(SELECT unnest(s.setconfig) FROM pg_db_role_setting s WHERE s.setrole = r.oid ORDER BY 1),"
        " (SELECT nspowner = r.oid FROM pg_namespace WHERE nspname = r.rolname),"
        " (SELECT has_schema_privilege(r.oid, oid, 'CREATE') FROM pg_namespace WHERE nspname = r.rolname),"
        " has_database_privilege(r.oid, current_database(), 'CREATE'),"
        " (SELECT defaclacl::text FROM pg_default_acl d WHERE d.defaclrole = r.oid)"
        " FROM pg_roles r WHERE rolname = %s",
        [role],
    )


def uid_of(role: str) -> str:
    return desired_role(role).owner.uid


def test_a_tenant_can_log_in_and_owns_its_schema_and_nothing_more(database: Database, role: str) -> None:
    (attributes,) = facts(database, role)
    assert attributes[:9] == (True, False, False, False, False, False, False, 20, True)
    assert attributes[9] == ["vaultbrix_tenantsfalse"]
    assert attributes[10] == ["lock_timeout=5s", "pgaudit.log=all", "pgaudit.log_relation=on", f"search_path={role}"]
    assert attributes[11]
    with database.login(role) as session:
        assert session.execute("SELECT current_schemas(false)").fetchall() == [([role],)]
        session.execute("CREATE TABLE mine()")
        assert session.execute("SELECT to_regclass(%s || '.mine') IS NOT NULL", [role]).fetchall() == [(True,)]
    assert not database.lets_in(role, "wrong")


def test_provisioning_again_writes_nothing(database: Database, role: str) -> None:
    before = database.postgres.query(CATALOG)
    database.provision(desired_role(role), salt=b"another salt 123")
    assert database.postgres.query(CATALOG) == before


async def fingerprints(connection: psycopg.AsyncConnection, role: str) -> tuple[str, str]:
    """Of all roles, and of this one, which is the same whether it is asked for alone or with all others."""
    seen = await roles.read(connection, role)
    assert seen is not None
    all_roles = dict(await (await connection.execute(FINGERPRINTS)).fetchall())
    assert all_roles[role] == seen.fingerprint
    ((digest,),) = await (await connection.execute(DIGEST)).fetchall()
    return digest, seen.fingerprint


@pytest.mark.parametrize("drift", DRIFT)
def test_drift_is_noticed_and_mended(database: Database, role: str, drift: str) -> None:
    before, as_specified = facts(database, role), database.admin(fingerprints, role)
    database.postgres.query(drift.format(role=role))
    assert facts(database, role) != before or not database.lets_in(role), "it is no drift"
    changed = database.admin(fingerprints, role)
    assert changed[0] != as_specified[0]
    assert changed[1] != as_specified[1]
    database.provision(desired_role(role))
    assert facts(database, role) == before
    assert database.lets_in(role)
    assert not database.lets_in(role, "mine")


def test_a_password_that_the_tenant_chose_itself_does_not_last(database: Database, role: str) -> None:
    with database.login(role) as session:
        session.execute(f"ALTER ROLE {role} PASSWORD 'mine'".encode())
    assert database.lets_in(role, "mine")
    database.provision(desired_role(role))
    assert database.lets_in(role)
    assert not database.lets_in(role, "mine")


def test_a_new_password_keeps_open_sessions(database: Database, role: str) -> None:
    with database.login(role) as session:
        database.provision(desired_role(role), "another-password")
        assert session.execute("SELECT 1").fetchall() == [(1,)]
    assert database.lets_in(role, "another-password")
    assert not database.lets_in(role)


def test_a_setting_that_is_no_longer_wanted_goes(database: Database, role: str) -> None:
    more = {"lock_timeout": "1s", "work_mem": "8MB", "statement_timeout": "30s"}
    database.provision(desired_role(role, settings=more))
    assert {"lock_timeout=1s", "work_mem=8MB", "statement_timeout=30s"} <= set(facts(database, role)[0][10])
    database.provision(desired_role(role, settings={}))
    assert facts(database, role)[0][10] == ["pgaudit.log=all", "pgaudit.log_relation=on", f"search_path={role}"]


def test_a_suspended_tenant_loses_login_and_sessions(database: Database, role: str) -> None:
    with database.login(role) as session:
        database.provision(desired_role(role, login=False))
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert not database.lets_in(role)
    database.provision(desired_role(role))
    assert database.lets_in(role)


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE ROLE {role}",
        "CREATE SCHEMA {role}",
        "INSERT INTO vaultbrix.tenant(role_name, namespace, name) VALUES ('{role}', 'other', 'tenant')",
    ],
    ids=["role", "schema", "Tenant"],
)
def test_what_belongs_to_somebody_else_is_not_touched(database: Database, theirs: str) -> None:
    role = f"tenant_v{next(numbers)}"
    database.postgres.query(theirs.format(role=role))
    before = database.postgres.query(CATALOG)
    with pytest.raises(Blocked) as error:
        database.provision(desired_role(role))
    assert error.value.reason == "SlugTaken"
    assert "spec.slug" in error.value.message
    for function in (tenants.lock, deletion.drop):
        database.admin(function, role, uid_of(role))
    assert database.postgres.query(CATALOG) == before


def test_another_tenant_can_neither_take_lock_nor_drop_a_role(database: Database, role: str) -> None:
    before = database.postgres.query(CATALOG)
    with pytest.raises(Blocked):
        database.provision(desired_role(role, owner=owner("tenant", "other")), "theirs")
    for function in (tenants.lock, deletion.drop):
        database.admin(function, role, "uid-other-tenant")
    assert database.postgres.query(CATALOG) == before
    assert database.lets_in(role)


def fill(database: Database, role: str) -> None:
    with database.login(role) as session:
        session.execute("CREATE TABLE kept AS SELECT 1 AS id")
        session.execute("CREATE VIEW look AS SELECT * FROM kept")
        session.execute("GRANT SELECT ON kept TO PUBLIC")


def test_retain_locks_the_role_and_keeps_data_and_slug(database: Database, role: str) -> None:
    fill(database, role)
    with database.login(role) as session:
        database.admin(tenants.lock, role, uid_of(role))
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert not database.lets_in(role)
    assert database.postgres.query(f"SELECT id FROM {role}.kept") == [(1,)]
    with pytest.raises(Blocked):
        database.provision(desired_role(role, owner=owner("tenant", "other")))
    database.provision(desired_role(role))
    with database.login(role) as session:
        assert session.execute("SELECT id FROM kept").fetchall() == [(1,)]


def test_delete_leaves_nothing_and_frees_the_slug(database: Database, role: str) -> None:
    fill(database, role)
    with database.login(role) as session:
        database.admin(deletion.drop, role, uid_of(role))
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    left = database.postgres.query(
        "SELECT rolname::text FROM pg_roles WHERE rolname = %(r)s UNION ALL"
        " SELECT nspname::text FROM pg_namespace WHERE nspname = %(r)s UNION ALL"
        " SELECT role_name::text FROM vaultbrix.tenant WHERE role_name = %(r)s",
        {"r": role},  # type: ignore[arg-type]
    )
    assert left == []
    database.admin(deletion.drop, role, uid_of(role))
    database.provision(desired_role(role, owner=owner("tenant", "other")))
    assert database.lets_in(role)


@pytest.mark.parametrize("slug", ["x; DROP TABLE t", 'a"b', "a'b", "ä", "A B", "\\", "a,b", "%s"])
def test_a_name_is_a_name_whatever_it_holds(database: Database, slug: str) -> None:
    role = f"tenant_{slug}"
    before = [row for row in database.postgres.query(CATALOG) if role not in row[1]]
    database.provision(desired_role(role))
    with database.login(role) as session:
        assert session.execute("SELECT current_user, current_schemas(false)").fetchall() == [(role, [role])]
        session.execute("CREATE TABLE mine()")
    database.provision(desired_role(role))
    database.admin(deletion.drop, role, uid_of(role))
    assert database.postgres.query(CATALOG) == before


async def without_rights(connection: psycopg.AsyncConnection, role: str, verifier: str, until: datetime) -> None:
    """Give a login to somebody who may switch the log off but not alter roles."""
    await connection.execute("CREATE ROLE weak")
    names = "log_statement, log_min_duration_statement, log_min_error_statement, pgaudit.log"
    await connection.execute(f"GRANT SET ON PARAMETER {names} TO weak".encode())
    await connection.execute("CREATE ROLE there")
    await connection.execute("SET ROLE weak")
    await logins.create_login(connection, login="there", role=role, verifier=verifier, valid_until=until)


def test_no_password_or_verifier_is_in_the_log(database: Database) -> None:
    role = f"tenant_v{next(numbers)}"
    secrets = [f"secret-password-{n}" for n in range(3)]
    verifiers = [scram.verifier(secret, SALT) for secret in secrets]
    database.postgres.query("ALTER SYSTEM SET log_statement = 'all'")
    database.postgres.query("ALTER SYSTEM SET log_min_duration_statement = 0")
    database.postgres.query("ALTER SYSTEM SET pgaudit.log = 'all'")
    database.postgres.query("SELECT pg_reload_conf()")
    try:
        database.provision(desired_role(role), secrets[0])
        login = login_name("0123456789abcdef")
        until = datetime.now(UTC) + timedelta(hours=1)
        database.admin(logins.create_login, login=login, role=role, verifier=verifiers[1], valid_until=until)
        # Fails after the statement with the verifier, and then in it.
        with pytest.raises(psycopg.Error):
            database.admin(logins.create_login, login=login, role="missing", verifier=verifiers[2], valid_until=until)
        with pytest.raises(psycopg.Error):
            database.admin(without_rights, role, verifiers[2], until)
        database.admin(logins.drop_login, login)
    finally:
        database.postgres.query("ALTER SYSTEM RESET ALL")
        database.postgres.query("SELECT pg_reload_conf()")
    log = database.postgres.log_text()
    assert role in log
    for secret in (*secrets, *verifiers, *(verifier.split("$")[-1] for verifier in verifiers)):
        assert secret not in log
