"""A tenant's roles for the data API: made once, mended when they drift, and a login that can become nobody else."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from tests.harness.database import SALT, Database, running

from vaultbrix.dataapi.serving import roles, schema
from vaultbrix.dataapi.serving.decisions import LISTENER, ApiRoles
from vaultbrix.ddl.gate import schema as gate
from vaultbrix.runtime.errors import Blocked

PASSWORD = "password-of-postgrest"
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with running() as started:
        started.admin(schema.install)
        started.admin(roles.ensure_listener, PASSWORD, SALT)
        yield started


def desired(role: str, **changes: Any) -> ApiRoles:
    values = {"owner": ("team", role), "connection_limit": 20, "settings": {"statement_timeout": "3s"}}
    return ApiRoles(tenant_role=role, **{**values, **changes})


@pytest.fixture
def served(database: Database) -> ApiRoles:
    """A new tenant's roles, and a table of it with a secret in it."""
    role = database.tenant(f"s{next(numbers)}")
    made = desired(role)
    database.admin(roles.provision, made, PASSWORD, SALT)
    with database.login(role) as session:
        session.execute("CREATE TABLE notes (text text)")
        session.execute("INSERT INTO notes VALUES (%s)", [f"{role}'s own"])
    return made


def facts(database: Database, served: ApiRoles) -> list[tuple[Any, ...]]:
    return database.postgres.query(
        "SELECT rolname, rolcanlogin, rolsuper, rolcreaterole, rolinherit, rolconnlimit,"
        " ARRAY(SELECT m.roleid::regrole::text || m.admin_option FROM pg_auth_members m"
        "  WHERE m.member = r.oid ORDER BY 1),"
        " ARRAY(SELECT unnest(s.setconfig) FROM pg_db_role_setting s WHERE s.setrole = r.oid ORDER BY 1)"
        " FROM pg_roles r WHERE rolname = ANY(%s) ORDER BY 1",
        [[served.anon, served.authenticated, served.rest]],
    )


def test_postgrest_can_become_what_the_tenant_has_and_its_roles_see_nothing_that_was_not_granted(
    database: Database, served: ApiRoles
) -> None:
    read = f"SELECT text FROM {served.tenant_role}.notes"
    with database.login(served.rest, PASSWORD) as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(read)
        for role in (served.anon, served.authenticated):
            session.execute(f"SET ROLE {role}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(read)
        session.execute(f"SET ROLE {served.tenant_role}")
        assert session.execute(read).fetchall() == [(f"{served.tenant_role}'s own",)]
        # The gate holds here as for the tenant's own login.
        with pytest.raises(psycopg.DatabaseError, match="requires an approved DDLApproval"):
            session.execute("DROP TABLE notes")


@pytest.mark.parametrize(
    "become",
    [
        "SET LOCAL ROLE {other}",
        "PERFORM set_config('role', '{other}', true)",
        "EXECUTE 'SET ROLE {other}'",
        "SET LOCAL SESSION AUTHORIZATION {other}",
        "RESET ROLE; PERFORM set_config('role', '{other}', false)",
    ],
)
def test_code_of_a_tenant_cannot_become_another_tenant(database: Database, served: ApiRoles, become: str) -> None:
    other = database.tenant(f"s{next(numbers)}")
    victim = desired(other)
    database.admin(roles.provision, victim, PASSWORD, SALT)
    for target in (victim.tenant_role, victim.anon, victim.authenticated, victim.rest, LISTENER, "postgres"):
        with database.login(served.tenant_role) as session:
            session.execute(
                "CREATE OR REPLACE FUNCTION escape() RETURNS void LANGUAGE plpgsql AS"
                f" $f$ BEGIN {become.format(other=target)}; END $f$"
            )
            session.execute(f"GRANT USAGE ON SCHEMA {served.tenant_role} TO {served.tenant_role}_anon")
        for role in (served.tenant_role, served.anon):
            with database.login(served.rest, PASSWORD) as session:
                session.execute(f"SET ROLE {role}")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(f"SELECT {served.tenant_role}.escape()")


@pytest.mark.parametrize(
    "drift",
    [
        "ALTER ROLE {anon} LOGIN SUPERUSER",
        "GRANT pg_read_all_data TO {anon}",
        "GRANT {tenant} TO {anon}",
        "GRANT pg_read_all_data TO {rest}",
        "GRANT {tenant} TO {rest} WITH ADMIN OPTION",
        "REVOKE {auth} FROM {rest}",
        "REVOKE vaultbrix_rest FROM {rest}",
        "ALTER ROLE {rest} INHERIT CREATEROLE",
        "ALTER ROLE {rest} NOLOGIN",
        "ALTER ROLE {rest} SET pgaudit.log = 'none'",
        "ALTER ROLE {anon} SET statement_timeout = 0",
        "ALTER ROLE {rest} PASSWORD 'mine'",
    ],
)
def test_what_drifted_is_put_back(database: Database, served: ApiRoles, drift: str) -> None:
    before = facts(database, served)
    database.postgres.query(
        drift.format(anon=served.anon, auth=served.authenticated, rest=served.rest, tenant=served.tenant_role)
    )
    database.admin(roles.provision, served, PASSWORD, SALT)
    assert facts(database, served) == before
    database.login(served.rest, PASSWORD).close()


def test_a_role_of_somebody_else_is_neither_taken_nor_changed(database: Database) -> None:
    role = database.tenant(f"s{next(numbers)}")
    wanted = desired(role)
    database.postgres.query(f"CREATE ROLE {wanted.authenticated}")
    with pytest.raises(Blocked, match=f"{wanted.authenticated}, which exists and is not managed here"):
        database.admin(roles.provision, wanted, PASSWORD, SALT)
    assert database.postgres.query("SELECT count(*) FROM vaultbrix.api_role WHERE tenant_role = %s", [role]) == [(0,)]
    assert [name for name, *_ in facts(database, wanted)] == [wanted.authenticated]


def test_a_tenant_whose_role_another_one_needs_keeps_it(database: Database) -> None:
    role = database.tenant(f"s{next(numbers)}")
    first = database.tenant(f"{role.removeprefix('tenant_')}_anon")
    with pytest.raises(Blocked, match=first):
        database.admin(roles.provision, desired(role), PASSWORD, SALT)
    assert database.postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [first]) == [(True,)]


def test_what_is_switched_off_ends_its_sessions_and_lets_nobody_in(database: Database, served: ApiRoles) -> None:
    session = database.login(served.rest, PASSWORD)
    database.admin(roles.provision, desired(served.tenant_role, login=False), PASSWORD, SALT)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        database.login(served.rest, PASSWORD)


def test_what_is_withdrawn_is_gone_with_its_rights_and_nothing_of_the_tenants(
    database: Database, served: ApiRoles
) -> None:
    with database.login(served.tenant_role) as session:
        session.execute(f"GRANT USAGE ON SCHEMA {served.tenant_role} TO {served.anon}")
        session.execute(f"GRANT SELECT ON notes TO {served.anon}, {served.authenticated}")
        session.execute(f"CREATE POLICY own ON notes TO {served.authenticated} USING (true)")
        database.admin(roles.withdraw, served.owner)
        assert session.execute("SELECT count(*) FROM notes").fetchall() == [(1,)]
    assert facts(database, served) == []
    assert served.owner not in database.admin(roles.owners)
    database.admin(roles.withdraw, served.owner)
    database.admin(roles.provision, served, PASSWORD, SALT)


def test_looks_that_meet_while_they_withdraw_do_not_fail(database: Database, served: ApiRoles) -> None:
    for _ in range(5):
        with ThreadPoolExecutor(4) as looks:
            for look in [looks.submit(database.admin, roles.withdraw, served.owner) for _ in range(4)]:
                look.result()
        assert facts(database, served) == []
        database.admin(roles.provision, served, PASSWORD, SALT)


def test_a_change_of_a_served_schema_is_told_and_no_other(database: Database, served: ApiRoles) -> None:
    other = database.tenant(f"s{next(numbers)}")
    with database.login(LISTENER, PASSWORD) as listener, database.login(served.tenant_role) as session:
        listener.execute("LISTEN vaultbrix_ddl")
        with database.login(other) as silent:
            silent.execute("CREATE TABLE quiet ()")
        session.execute("CREATE TEMPORARY TABLE passing ()")
        session.execute("INSERT INTO notes VALUES ('more')")
        session.execute("NOTIFY vaultbrix_ddl, 'so far'")
        for change in (
            "CREATE TABLE loud ()",
            f"GRANT SELECT ON loud TO {served.anon}",
            "CREATE VIEW louder AS SELECT FROM loud",
            "CREATE INDEX ON notes (text)",
        ):
            session.execute(change)
        session.execute("NOTIFY vaultbrix_ddl, 'end'")
        told: list[str] = []
        while "end" not in told:
            told += [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)]
        assert told[0] == "so far"
        assert told[1:-1] == [served.tenant_role] * len(told[1:-1])
        assert len(told) >= 6


def test_schema_auth_of_somebody_else_is_not_taken(database: Database) -> None:
    with running() as bare:
        owner = bare.tenant("early")
        bare.postgres.query(f"CREATE SCHEMA auth AUTHORIZATION {owner}")
        with pytest.raises(Blocked, match=f"schema auth, or a function in it, belongs to {owner}"):
            bare.admin(schema.install)
        bare.postgres.query("DROP SCHEMA auth")
        bare.admin(schema.install)
        # Policies depend on what is in auth, so it outlasts the gate; installed again, all is as before.
        with bare.login(owner) as session:
            session.execute("CREATE TABLE notes (owner uuid)")
            session.execute("CREATE POLICY own ON notes USING (owner = auth.uid())")
        bare.admin(gate.uninstall)
        bare.admin(gate.install)
        assert bare.admin(schema.install) == 1


def test_policies_know_the_caller_as_the_gateway_verified_it(database: Database, served: ApiRoles) -> None:
    uid = "0b3c8a52-33e5-4b1c-9c39-1f5f0c4f7f10"
    ask = "SELECT auth.uid()::text, auth.role(), auth.jwt()::text"
    with database.login(served.tenant_role) as session:
        assert session.execute(ask).fetchall() == [(None, None, "{}")]
        for claims, expected in (
            (f'{{"sub": "{uid}", "role": "authenticated", "vaultbrix": {{"key": "a/b"}}}}', (uid, "authenticated")),
            ('{"sub": "auth0|7", "role": "authenticated"}', (None, "authenticated")),
            ('{"role": "anon"}', (None, "anon")),
            ('{"role": "tenant_acme_anon", "vaultbrix_role": "anon", "vaultbrix": {}}', (None, "anon")),
        ):
            session.execute("SELECT set_config('request.jwt.claims', %s, false)", [claims])
            row = session.execute(ask).fetchall()[0]
            assert row[:2] == expected
            assert "vaultbrix" not in row[2]


def test_a_request_that_is_repeated_without_end_comes_to_one(database: Database, served: ApiRoles) -> None:
    with database.login(served.rest, PASSWORD, autocommit=False) as session:
        for ended, seconds in ((False, 60), (False, -5), (True, -15)):
            claims = f'{{"exp": {int(time.time()) + seconds}, "vaultbrix": {{}}}}'
            session.execute("SELECT set_config('request.jwt.claims', %s, true)", [claims])
            if ended:
                with pytest.raises(psycopg.DatabaseError, match="has taken too long") as refused:
                    session.execute("SELECT vaultbrix.pre_request()")
                assert refused.value.sqlstate == "PT503"
            else:
                session.execute("SELECT vaultbrix.pre_request()")
            session.rollback()
