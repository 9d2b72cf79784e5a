"""The login of a rule in PostgreSQL: the tenant and nobody else, gated whatever it does, gone without a trace."""

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from tests.harness.database import PASSWORD, SALT, Database, desired_role, owner, send
from tests.harness.tenant_schema import ATTACKS, FORBIDDEN, SCENE, TenantSchema, code
from tests.harness.tenants import CATALOG

from vaultbrix.access.decisions import rule_login
from vaultbrix.ddl.gate import logins
from vaultbrix.postgres import scram
from vaultbrix.runtime.errors import Blocked, Transient
from vaultbrix.tenants import deletion, rule_logins
from vaultbrix.tenants import role as tenants
from vaultbrix.tenants.rule_logins import LoginClaim, LoginTerms

HOUR = timedelta(hours=1)

DRIFT = (
    "ALTER ROLE {login} CREATEDB CREATEROLE REPLICATION BYPASSRLS",
    "ALTER ROLE {login} SUPERUSER",
    "ALTER ROLE {login} INHERIT",
    "ALTER ROLE {login} NOLOGIN",
    "ALTER ROLE {login} VALID UNTIL 'infinity'",
    "ALTER ROLE {login} CONNECTION LIMIT 100",
    "GRANT vaultbrix_jobs, pg_read_all_data TO {login}",
    "GRANT {role} TO {login} WITH ADMIN OPTION",
    "REVOKE {role} FROM {login}",
    "REVOKE vaultbrix_tenants FROM {login}",
    "ALTER ROLE {login} SET role = 'none'",
    "ALTER ROLE {login} SET pgaudit.log = 'none'",
    "ALTER ROLE {login} RESET ALL",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {login} GRANT TRUNCATE ON TABLES TO {login}",
    "ALTER ROLE {login} PASSWORD 'mine'",
)

# Ways out of the tenant's role, or back to it; some fail, and none may change anything.
LEAVING = (
    "RESET ROLE",
    "SET ROLE NONE",
    "SET ROLE {login}",
    "SET ROLE vaultbrix_tenants",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SET SESSION AUTHORIZATION {login}",
    "SET SESSION AUTHORIZATION {role}",
    "SET SESSION AUTHORIZATION postgres",
    "RESET SESSION AUTHORIZATION",
    "DISCARD ALL",
    "RESET ALL",
    "SET LOCAL ROLE NONE",
)

numbers = itertools.count(1)


@dataclass(frozen=True)
class Case:
    """A tenant with a bit of everything, and a rule's login for it."""

    scene: TenantSchema
    uid: str

    @property
    def database(self) -> Database:
        return self.scene.database

    @property
    def role(self) -> str:
        return self.scene.role

    @property
    def login(self) -> str:
        return rule_login(self.role, self.uid)

    def wanted(self, until: timedelta = HOUR, **changes: Any) -> LoginTerms:
        deadline = (datetime.now(UTC) + until).replace(microsecond=0)
        return LoginTerms(self.login, self.uid, desired_role(self.role, **changes), deadline)

    def provision(self, asked: LoginTerms | None = None) -> None:
        self.database.admin(rule_logins.provision, asked or self.wanted(), PASSWORD, SALT)

    def drop(self) -> None:
        self.database.admin(rule_logins.drop, self.uid)

    def claims(self) -> list[LoginClaim]:
        """What is held to be ours of this tenant."""
        return [claim for claim in self.database.admin(rule_logins.claims) if claim.role == self.role]

    def session(self) -> psycopg.Connection:
        return self.database.login(self.login)

    def works(self, password: str = PASSWORD) -> bool:
        try:
            self.database.login(self.login, password).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture
def case(database: Database) -> Case:
    role = database.tenant(f"r{next(numbers)}")
    with database.login(role) as connection:
        for statement in SCENE:
            connection.execute(statement.format(role=role).encode())
    made = Case(TenantSchema(database, role), f"uid-{role}")
    made.provision()
    return made


def facts(case: Case) -> list[tuple[Any, ...]]:
    """All that provisioning decides, apart from deadline and verifier."""
    return case.database.postgres.query(
        "SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit,"
        " rolconnlimit, rolvaliduntil < now() + interval '61 minutes',"
        " ARRAY(SELECT m.roleid::regrole::text || m.admin_option FROM pg_auth_members m"
        "  WHERE m.member = r.oid ORDER BY 1),"
        " ARRAY(SELECT unnest(s.setconfig) FROM pg_db_role_setting s WHERE s.setrole = r.oid ORDER BY 1),"
        " (SELECT defaclacl::text FROM pg_default_acl d WHERE d.defaclrole = r.oid)"
        " FROM pg_roles r WHERE rolname = %s",
        [case.login],
    )


def owners(case: Case) -> set[str]:
    """Who owns what is in the tenant's schema."""
    rows = case.database.postgres.query(
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = to_regnamespace(%(r)s)"
        " UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = to_regnamespace(%(r)s)",
        {"r": case.role},  # type: ignore[arg-type]
    )
    return {row[0] for row in rows}


def test_it_logs_in_as_the_tenant_with_the_tenants_settings_and_nothing_of_its_own(case: Case) -> None:
    case.provision(case.wanted(connection_limit=3, settings={"statement_timeout": "30s"}))
    (found,) = facts(case)
    assert found[:9] == (True, False, False, False, False, False, False, 3, True)
    assert found[9] == [f"{case.role}false", "vaultbrix_tenantsfalse"]
    audited = ["pgaudit.log=all", "pgaudit.log_relation=on"]
    assert found[10] == [*audited, f"role={case.role}", f"search_path={case.role}", "statement_timeout=30s"]
    with case.session() as session:
        assert session.execute("SELECT current_user, session_user, current_schemas(false)").fetchall() == [
            (case.role, case.login, [case.role])
        ]
        session.execute("CREATE TABLE fresh()")
        session.execute("SET ROLE NONE")
        for statement in ("SELECT * FROM {}.victim", "CREATE TABLE {}.mine()", "INSERT INTO {}.other VALUES (1)"):
            assert code(send(session, statement.format(case.role))) == "42501"
    assert owners(case) == {case.role}


def test_it_is_let_in_by_no_line_that_is_for_jobs(case: Case) -> None:
    member = "SELECT pg_has_role(%s, 'vaultbrix_jobs', 'MEMBER'), pg_has_role(%s, 'vaultbrix_tenants', 'MEMBER')"
    assert case.database.postgres.query(member, [case.login, case.login]) == [(False, True)]


def test_it_ends_at_its_deadline_by_itself(case: Case) -> None:
    case.provision(case.wanted(-HOUR))
    assert not case.works()
    case.provision(case.wanted(2 * HOUR))
    assert case.works()


def test_provisioning_again_writes_nothing(case: Case) -> None:
    asked = case.wanted()
    case.provision(asked)
    before = case.database.postgres.query(CATALOG)
    case.database.admin(rule_logins.provision, asked, PASSWORD, b"another salt 123")
    assert case.database.postgres.query(CATALOG) == before


@pytest.mark.parametrize("drift", DRIFT)
def test_drift_is_mended(case: Case, drift: str) -> None:
    before = facts(case)
    case.database.postgres.query(drift.format(role=case.role, login=case.login))
    assert facts(case) != before or not case.works(), "it is no drift"
    case.provision()
    assert facts(case) == before
    assert case.works()
    assert not case.works("mine")


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_gate_holds_for_it_as_for_the_tenant(case: Case, attack: str) -> None:
    before = case.scene.look()
    with case.session() as session:
        refused = case.scene.send(attack, session)
    assert code(refused) == "VBX01", refused.error_message
    assert case.scene.look() == before


@pytest.mark.parametrize("attack", ["DROP TABLE {role}.victim CASCADE", "TRUNCATE {role}.victim"])
@pytest.mark.parametrize("leaving", LEAVING)
def test_leaving_the_tenants_role_opens_no_way_around_the_gate(case: Case, leaving: str, attack: str) -> None:
    before = case.scene.look()
    with case.session() as session:
        send(session, leaving.format(role=case.role, login=case.login))
        refused = case.scene.send(attack, session)
        (who,) = session.execute("SELECT current_user::text").fetchall()
    assert who[0] in (case.role, case.login, "vaultbrix_tenants")
    # Without the tenant's role it is not even permitted.
    assert code(refused) == ("VBX01" if who[0] == case.role else "42501")
    assert case.scene.look() == before


@pytest.mark.parametrize("leaving", ["SELECT 1", "SET ROLE NONE"])
@pytest.mark.parametrize("statement", [s for s in FORBIDDEN if "ALTER ROLE {role}" not in s])
def test_it_has_no_privilege_beyond_the_tenants_schema(case: Case, statement: str, leaving: str) -> None:
    other = case.database.tenant(f"r{next(numbers)}")
    with case.database.login(other) as connection:
        connection.execute("CREATE TABLE victim(id int)")
    with case.session() as session:
        send(session, leaving)
        refused = send(session, statement.replace("{other}", other).replace("{role}", case.login))
    assert code(refused) in ("42501", "42704"), refused.error_message


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER ROLE {login} SET pgaudit.log = 'none'",
        "ALTER ROLE {login} IN DATABASE postgres SET pgaudit.log = 'none'",
        "ALTER ROLE {login} VALID UNTIL 'infinity'",
        "ALTER ROLE {login} INHERIT",
        "ALTER ROLE {login} CONNECTION LIMIT 100",
        "ALTER ROLE {login} SUPERUSER",
        "GRANT vaultbrix_jobs TO {login}",
        "ALTER DEFAULT PRIVILEGES GRANT TRUNCATE ON TABLES TO {login}",
    ],
)
@pytest.mark.parametrize("leaving", ["SELECT 1", "SET ROLE NONE"])
def test_it_cannot_change_what_it_is(case: Case, statement: str, leaving: str) -> None:
    before = facts(case)
    with case.session() as session:
        send(session, leaving)
        assert code(send(session, statement.format(login=case.login))) in ("42501", "VBX01")
    assert facts(case) == before


def hostile(case: Case, other: str) -> None:
    """Make and grant whatever could outlive the login, or keep it from being dropped."""
    with case.session() as session:
        session.execute(f"GRANT CREATE, USAGE ON SCHEMA {case.role} TO {case.login}".encode())
        session.execute(f"GRANT SELECT ON victim TO {case.login}".encode())
        session.execute(f"CREATE POLICY mine ON other TO {case.login} USING (true)".encode())
        session.execute("SET ROLE NONE")
        for statement in (
            "CREATE TABLE made(id int)",
            "CREATE VIEW seen AS SELECT * FROM made",
            "EXPLAIN ANALYZE CREATE TABLE unguarded AS SELECT 1 AS id",
            "CREATE FUNCTION says() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TYPE pair AS (a int, b int)",
            "SELECT lo_create(0)",
            "CREATE TEMP TABLE scratch(id int)",
        ):
            session.execute(statement.encode())
    # What only an admin can do: somebody who could pass for the heir of what the login made, and a member of it.
    case.database.postgres.query(f"GRANT {other} TO {case.login}")
    case.database.postgres.query(f"CREATE ROLE member_of_{case.login} IN ROLE {case.login}")


def test_dropping_it_leaves_nothing_of_it_and_loses_nothing_of_the_tenants(case: Case) -> None:
    other = case.database.tenant(f"r{next(numbers)}")
    hostile(case, other)
    assert owners(case) == {case.role, case.login}
    held = case.session()
    case.drop()
    with pytest.raises(psycopg.OperationalError):
        held.execute("SELECT 1")
    assert not case.works()
    query = case.database.postgres.query
    assert query("SELECT 1 FROM pg_roles WHERE rolname = %s", [case.login]) == []
    assert query("SELECT 1 FROM vaultbrix.rule_login WHERE login = %s", [case.login]) == []
    assert owners(case) == {case.role}
    assert query("SELECT count(*) FROM pg_largeobject_metadata WHERE lomowner = %s::regrole", [case.role]) == [(1,)]
    assert query("SELECT 1 FROM pg_shdepend d LEFT JOIN pg_roles r ON r.oid = refobjid"
                 " WHERE refclassid = 'pg_authid'::regclass AND r.oid IS NULL") == []  # fmt: skip
    for text in ("TRUNCATE made", "TRUNCATE unguarded", "DROP TABLE made CASCADE"):
        assert code(case.scene.send(text)) in ("VBX01", "42501")
    assert code(case.scene.send("INSERT INTO made VALUES (1)")) == ""
    case.drop()


def test_a_role_of_somebody_else_is_neither_taken_over_nor_dropped(case: Case) -> None:
    case.drop()
    case.database.postgres.query(f"CREATE ROLE {case.login} LOGIN PASSWORD 'theirs'")
    before = case.database.postgres.query(CATALOG)
    with pytest.raises(Blocked) as told:
        case.provision()
    assert told.value.reason == "LoginTaken"
    case.drop()
    case.database.admin(rule_logins.end_logins_of_tenant, case.role, desired_role(case.role).owner.uid)
    assert case.database.postgres.query(CATALOG) == before
    case.database.postgres.query(f"DROP ROLE {case.login}")


def test_no_login_is_made_for_a_role_that_is_not_the_tenants(case: Case) -> None:
    case.drop()
    with pytest.raises(Transient):
        case.provision(case.wanted(owner=owner("tenant", "other")))
    assert case.database.postgres.query("SELECT 1 FROM pg_roles WHERE rolname = %s", [case.login]) == []


@pytest.mark.parametrize("function", [tenants.lock, deletion.drop])
def test_a_tenant_goes_with_the_logins_of_its_rules_and_is_not_held_up_by_them(case: Case, function: Any) -> None:
    other = case.database.tenant(f"r{next(numbers)}")
    hostile(case, other)
    uid = desired_role(case.role).owner.uid
    case.database.admin(rule_logins.end_logins_of_tenant, case.role, "uid-other-tenant")
    assert case.works()
    case.database.admin(rule_logins.end_logins_of_tenant, case.role, uid)
    case.database.admin(function, case.role, uid)
    assert not case.works()
    assert case.claims() == []


async def impatiently(connection: psycopg.AsyncConnection, role: str, uid: str) -> None:
    """As the operator, whose connections wait for no lock for long."""
    await connection.execute("SET lock_timeout = '200ms'")
    await rule_logins.end_logins_of_tenant(connection, role, uid)


def test_a_lock_on_what_a_login_made_holds_up_no_tenants_end(case: Case) -> None:
    other = case.database.tenant(f"r{next(numbers)}")
    hostile(case, other)
    held = case.session()
    uid = desired_role(case.role).owner.uid
    with case.database.postgres.connect() as holder, holder.transaction():
        holder.execute(f"LOCK TABLE {case.role}.made".encode())
        case.database.admin(impatiently, case.role, uid)
        case.database.admin(tenants.lock, case.role, uid)
        assert not case.works()
        with pytest.raises(psycopg.OperationalError):
            held.execute("SELECT 1")
    (claim,) = case.claims()
    case.database.admin(rule_logins.try_drop, claim)
    assert case.claims() == []
    assert owners(case) == {case.role}


def test_a_tenant_that_was_dropped_without_us_leaves_logins_that_can_be_dropped(case: Case) -> None:
    other = case.database.tenant(f"r{next(numbers)}")
    hostile(case, other)
    case.database.admin(deletion.drop, case.role, desired_role(case.role).owner.uid)
    case.drop()
    assert case.claims() == []
    assert case.database.postgres.query("SELECT 1 FROM pg_roles WHERE rolname = %s", [case.login]) == []


def test_what_the_login_of_an_approval_made_goes_to_its_tenant_whoever_else_let_it_in(case: Case) -> None:
    other = case.database.tenant(f"r{next(numbers)}")
    verifier = scram.verifier(PASSWORD, SALT)
    login, until = f"vaultbrix_d_{case.role}", datetime.now(UTC) + HOUR
    case.database.admin(logins.create_login, login=login, role=case.role, verifier=verifier, valid_until=until)
    case.database.postgres.query(f"CREATE TABLE {case.role}.made(); ALTER TABLE {case.role}.made OWNER TO {login}")
    case.database.postgres.query(f"GRANT {other} TO {login}")
    case.database.admin(logins.drop_login, login, case.role)
    assert owners(case) == {case.role}


def test_no_password_or_verifier_is_in_the_log(case: Case) -> None:
    query = case.database.postgres.query
    query("ALTER SYSTEM SET log_statement = 'all'")
    query("ALTER SYSTEM SET pgaudit.log = 'all'")
    query("SELECT pg_reload_conf()")
    try:
        case.database.admin(rule_logins.provision, case.wanted(), "another-secret-password", SALT)
    finally:
        query("ALTER SYSTEM RESET ALL")
        query("SELECT pg_reload_conf()")
    ((verifier,),) = query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [case.login])
    log = case.database.postgres.log_text()
    assert case.login in log
    for secret in ("another-secret-password", verifier, verifier.split("$")[-1]):
        assert secret not in log
