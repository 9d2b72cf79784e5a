"""The gate comes, is upgraded and goes on a server that is running; and says when it is not as it should be."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from tests.harness.database import Database, directory, send
from tests.harness.processes import VAULTBRIX
from tests.harness.shell import run

from vaultbrix.ddl.gate import drift, policy, schema

FIRST_RELEASE = 3


@pytest.fixture(scope="module")
def gated() -> Iterator[Database]:
    """A database of this module's own, with the gate."""
    with directory() as path:
        database = Database(path)
        try:
            database.postgres.start()
            database.admin(schema.install)
            yield database
        finally:
            database.postgres.stop()


def code(result: psycopg.pq.abc.PGresult) -> str:
    return (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()


def test_an_upgrade_changes_nothing_for_tenants_that_are_at_work(
    bare: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = schema.migrations()
    with monkeypatch.context() as before:
        before.setattr(schema, "migrations", lambda: known[:FIRST_RELEASE])
        assert bare.admin(schema.install) == FIRST_RELEASE
    roles = [bare.tenant_without_uid(f"u{number}") for number in range(3)]
    sessions = [bare.login(role) for role in roles]
    for session in sessions:
        assert code(send(session, "CREATE TABLE kept(id int); INSERT INTO kept VALUES (1)")) == ""
        assert code(send(session, "DROP TABLE kept")) == "VBX01"
    assert code(send(sessions[0], "BEGIN; INSERT INTO kept VALUES (2)")) == ""
    assert code(send(sessions[1], "BEGIN; CREATE TABLE half(id int)")) == ""
    # It has asked for a pass, and stays idle.
    assert code(send(sessions[2], "BEGIN; CREATE TEMP TABLE own(); DROP TABLE own")) == ""

    assert bare.admin(_impatient_install) == known[-1].version

    assert code(send(sessions[0], "TRUNCATE kept")) == "VBX01"
    assert code(send(sessions[0], "ROLLBACK")) == ""
    assert code(send(sessions[1], "COMMIT")) == code(send(sessions[2], "COMMIT")) == ""
    for session, role in zip(sessions, roles, strict=True):
        for statement in ("DROP TABLE kept", "TRUNCATE kept", "ALTER TABLE kept ADD COLUMN w int"):
            assert code(send(session, statement)) == "VBX01", statement
        bare.admin(policy.set_policy, role, additive=True)
        assert code(send(session, "ALTER TABLE kept ADD COLUMN w int")) == ""
        session.close()
    assert bare.admin(drift.audit_gate) == []


async def _impatient_install(connection: psycopg.AsyncConnection) -> int:
    await connection.execute("SET lock_timeout = '5s'")
    return await schema.install(connection)


def test_two_operators_at_once_install_it_once(bare: Database) -> None:
    versions: list[int] = []
    threads = [threading.Thread(target=lambda: versions.append(bare.admin(schema.install))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions == [schema.migrations()[-1].version] * 2
    assert bare.postgres.query("SELECT version FROM vaultbrix.migration ORDER BY 1") == [
        (migration.version,) for migration in schema.migrations()
    ]


def test_what_is_taken_away_leaves_tenants_with_their_data_and_rights(bare: Database) -> None:
    bare.admin(schema.install)
    role = bare.tenant("left")
    with bare.login(role) as session:
        send(session, "CREATE TABLE t(id int); INSERT INTO t VALUES (1)")
        send(session, "EXPLAIN ANALYZE CREATE TABLE unseen AS TABLE t")
        send(session, "CREATE TABLE parts(id int) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parts DEFAULT")
        bare.admin(schema.uninstall)
        assert session.execute("SELECT count(*) FROM t").fetchone() == (1,)
        for statement in ("TRUNCATE t, unseen, parts", "ALTER TABLE t ADD COLUMN w int", "DROP TABLE t",
                          "CREATE TABLE t(id int)", "TRUNCATE t", "DROP TABLE parts, unseen"):  # fmt: skip
            assert code(send(session, statement)) == "", statement
    assert bare.postgres.query("SELECT 1 FROM pg_event_trigger WHERE evtname ~ 'vaultbrix'") == []
    assert bare.postgres.query("SELECT 1 FROM pg_roles WHERE rolname = 'vaultbrix_gate'") == []
    bare.admin(schema.uninstall)
    bare.admin(schema.install)
    assert bare.admin(drift.audit_gate) == ["tenants that may truncate a new table before it is guarded; the Tenant's"
                                           f" next check takes that away: {role}"]  # fmt: skip
    assert bare.tenant("left") == role
    assert bare.admin(drift.audit_gate) == []


BUILT_ON = {
    "a column of a type": "CREATE TABLE t(id int, built vaultbrix.ddl_pass_use)",
    "a column of an array": "CREATE TABLE t(id int, built vaultbrix.tenant[])",
    "a default": "CREATE TABLE t(id int); CREATE TABLE built(id int DEFAULT length(vaultbrix.norm('x')))",
    "a view": "CREATE TABLE t(id int); CREATE VIEW built AS SELECT vaultbrix.norm(id::text) FROM t",
}


@pytest.mark.parametrize("what", BUILT_ON)
def test_it_does_not_go_while_something_of_a_tenants_would_go_with_it(gated: Database, what: str) -> None:
    role = gated.tenant("built")
    with gated.login(role) as session:
        assert code(send(session, BUILT_ON[what] + "; INSERT INTO t VALUES (1)")) == ""
        try:
            with pytest.raises(psycopg.errors.DependentObjectsStillExist) as error:
                gated.admin(schema.uninstall)
            assert "built" in (error.value.diag.message_detail or "")
            assert session.execute("SELECT count(*) FROM t").fetchone() == (1,)
            assert code(send(session, "TRUNCATE t")) == "VBX01"
        finally:
            gated.postgres.query("DROP OWNED BY tenant_built CASCADE; DROP SCHEMA IF EXISTS tenant_built CASCADE")


def test_an_administrator_checks_it_and_takes_it_away_without_a_cluster(bare: Database) -> None:
    bare.admin(schema.install)
    where = {"PGHOST": str(bare.postgres.socket), "PGPORT": str(bare.postgres.port), "PGDATABASE": "postgres"}

    def vaultbrix(*arguments: str, user: str = "postgres", said: str = "") -> tuple[int, str]:
        done = run(*VAULTBRIX, "gate", *arguments, env={**where, "PGUSER": user}, input_text=said, check=False)
        return done.returncode, done.stdout + done.stderr

    assert vaultbrix("check") == (0, "the gate is as installed, and nothing goes around it\n")
    bare.postgres.query("ALTER EVENT TRIGGER vaultbrix_drop DISABLE")
    status, text = vaultbrix("check")
    assert status == 1
    assert "vaultbrix_drop" in text
    status, text = vaultbrix("check", user="nobody")
    assert status == 2
    assert "nobody" in text
    assert vaultbrix("uninstall", said="n\n")[0] != 0
    assert bare.postgres.query("SELECT to_regnamespace('vaultbrix') IS NOT NULL") == [(True,)]
    assert vaultbrix("uninstall", "--yes")[0] == 0
    assert bare.postgres.query("SELECT to_regnamespace('vaultbrix') IS NOT NULL") == [(False,)]


def test_a_gate_that_is_as_installed_has_no_findings(database: Database) -> None:
    database.tenant("sound")
    assert database.admin(drift.audit_gate) == []


DRIFT = {
    "switched off": ("ALTER EVENT TRIGGER vaultbrix_drop DISABLE", "event trigger vaultbrix_drop is not"),
    "not always": ("ALTER EVENT TRIGGER vaultbrix_end ENABLE", "event trigger vaultbrix_end is not"),
    "gone": ("DROP EVENT TRIGGER vaultbrix_start", "event trigger vaultbrix_start is missing"),
    "no guard": ("ALTER TABLE tenant_drift.t DISABLE TRIGGER ALL", "without a guard"),
    "helper owns a table": ("CREATE TABLE public.stray(); ALTER TABLE public.stray OWNER TO vaultbrix_gate", "stray"),
    "helper logs in": ("ALTER ROLE vaultbrix_gate LOGIN", "without login"),
    "helper has a member": ("GRANT vaultbrix_gate TO tenant_drift", "without login"),
    "superuser's function": (
        "CREATE FUNCTION public.risky() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "risky()",
    ),
    "member of a superuser": ("CREATE ROLE boss SUPERUSER; GRANT boss TO tenant_drift", "tenant_drift of boss"),
    "runs programs": ("GRANT pg_execute_server_program TO tenant_drift", "pg_execute_server_program"),
    "exempt tenant": ("INSERT INTO vaultbrix.exempt_role VALUES ('tenant_drift')", "tenant_drift"),
    "writes passes": ("GRANT INSERT ON vaultbrix.ddl_pass TO tenant_drift", "INSERT on vaultbrix.ddl_pass"),
    "creates in the gate": ("GRANT CREATE ON SCHEMA vaultbrix TO tenant_drift", "CREATE on schema vaultbrix"),
    "default privileges": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE tenant_drift GRANT TRUNCATE ON TABLES TO tenant_drift",
        "may truncate a new table before it is guarded; the Tenant's next check takes that away: tenant_drift",
    ),
    "a function of another's": (
        "CREATE FUNCTION vaultbrix.stray() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "vaultbrix.stray()",
    ),
    "anybody creates in public": ("GRANT CREATE ON SCHEMA public TO PUBLIC", "revoke CREATE: PUBLIC on schema public"),
    "a tenant creates in public": ("GRANT CREATE ON SCHEMA public TO tenant_drift", ": tenant_drift on schema public"),
    "tenants create in public by a group": (
        "GRANT CREATE ON SCHEMA public TO vaultbrix_tenants",
        ": vaultbrix_tenants on schema public",
    ),
    "anybody creates schemas": ("GRANT CREATE ON DATABASE postgres TO PUBLIC", ": PUBLIC on database postgres"),
    "a tenant creates schemas": (
        "GRANT CREATE ON DATABASE postgres TO tenant_drift",
        ": tenant_drift on database postgres",
    ),
}


@pytest.fixture(scope="module")
def drifting(database: Database) -> Database:
    role = database.tenant("drift")
    with database.login(role) as session:
        session.execute("CREATE TABLE t(id int)")
    return database


@pytest.mark.parametrize("change", DRIFT)
def test_a_finding_names_what_has_drifted(drifting: Database, change: str) -> None:
    statement, finding = DRIFT[change]
    found = drifting.admin(_drifted, statement)
    assert any(finding in text for text in found), found
    assert drifting.admin(drift.audit_gate) == []


@pytest.mark.parametrize("change", ["switched off", "not always", "gone", "no guard"])
def test_the_next_check_puts_back_what_has_drifted(drifting: Database, change: str) -> None:
    drifting.postgres.query(DRIFT[change][0])  # type: ignore[arg-type]
    drifting.admin(schema.install)
    assert drifting.admin(drift.audit_gate) == []


async def _drifted(connection: psycopg.AsyncConnection, statement: str) -> list[str]:
    async with connection.transaction(force_rollback=True):
        await connection.execute(statement.encode())
        return await drift.audit_gate(connection)
