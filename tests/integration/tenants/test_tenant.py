"""Tenants end to end: object → Secret, role and schema, and what the status says when something is wrong."""

import base64
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.network import MACHINE
from tests.harness.shell import wait_for
from tests.harness.tenants import KEYS, restart_operator
from tests.harness.world import ADMIN_PASSWORD, SERVER_NAME, World, secret, tenant

from vaultbrix.postgres import scram


@pytest.fixture
def wrong_password(world: World) -> Iterator[None]:
    """The operator's Secret holds a wrong password; mended afterwards."""
    world.set_admin_password("no-such-password")
    yield
    world.set_admin_password(ADMIN_PASSWORD)
    restart_operator(world)
    world.api.await_condition("pgs", SERVER_NAME, "", patience=60)


def test_a_tenant_gets_role_schema_and_a_secret_with_all_keys(world: World) -> None:
    team = world.team()
    name = world.tenant(team, connectionLimit=7, settings={"statement_timeout": "30s"})
    role = f"tenant_{name.replace('-', '_')}"
    data = world.api.get("secret", f"{name}-db", team)["data"]
    assert set(data) == KEYS
    assert base64.b64decode(data["username"]).decode() == role
    (attributes,) = world.postgres.query(
        "SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolconnlimit, rolpassword ^@ 'SCRAM-SHA-256$'"
        " FROM pg_authid WHERE rolname = %s",
        [role],
    )
    assert attributes == (True, False, False, False, 7, True)
    (settings,) = world.postgres.query(
        "SELECT setconfig FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = setrole WHERE rolname = %s", [role]
    )
    assert {"pgaudit.log=all", f"search_path={role}", "statement_timeout=30s"} <= set(settings[0])
    assert world.postgres.query("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = %s", [role]) == [
        (role,)
    ]


def test_the_password_is_in_the_secret_and_nowhere_else(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    password = world.password(team, name)
    ((verifier,),) = world.postgres.query(
        "SELECT rolpassword FROM pg_authid WHERE rolname = %s", [f"tenant_{name.replace('-', '_')}"]
    )
    objects = "".join(
        world.api.kubectl("get", kind, "-A", "-o", "json") for kind in ("vaultbrix", "events", "networkpolicies")
    )
    for text in (world.postgres.log_text(), world.operator.text(), world.agent.text(), objects):
        assert password not in text
        assert verifier not in text


def test_an_operator_at_rest_writes_nothing(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    before = world.api.get("tenant", name, team)["metadata"]["resourceVersion"]
    restart_operator(world)
    # A tenant that comes later has been worked on, so the first one has too.
    world.tenant(team)
    assert world.api.get("tenant", name, team)["metadata"]["resourceVersion"] == before


DRIFT = {
    "ALTER ROLE {role} CREATEDB CONNECTION LIMIT 1": "CONNECTION LIMIT, an attribute such as SUPERUSER or CREATEROLE",
    "GRANT pg_read_all_data TO {role}": "membership in pg_read_all_data",
    "ALTER ROLE {role} PASSWORD 'mine'": "password",
    "ALTER ROLE {role} IN DATABASE postgres SET search_path = public": "settings in database postgres",
    "ALTER ROLE {role} SET log_statement = 'none'": "setting log_statement",
    "GRANT CREATE ON DATABASE postgres TO {role}": "CREATE on database postgres",
    "ALTER SCHEMA {role} OWNER TO postgres": "owner of the schema",
    "DROP SCHEMA {role}": "schema",
}


def events_about(world: World, kind: str, namespace: str, name: str, reason: str) -> str:
    items = json.loads(world.api.kubectl("-n", namespace, "get", "events", "-o", "json"))["items"]
    about = [e for e in items if e["involvedObject"]["kind"] == kind and e["involvedObject"]["name"] == name]
    return "\n".join(event["message"] for event in about if event["reason"] == reason)


def blamed(world: World, team: str, tenant: str) -> str:
    return events_about(world, "Tenant", team, tenant, "RoleChangedBy")


def test_what_somebody_changed_of_a_role_is_put_back_at_once_with_an_event_that_names_it(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    role = f"tenant_{name.replace('-', '_')}"

    def told(what: str) -> bool:
        return f"role {role} was changed by somebody else and is as specified again: {what}" in events_about(
            world, "Tenant", team, name, "RoleRestored"
        )

    for statement, what in DRIFT.items():
        world.postgres.query(statement.format(role=role))
        wait_for(f"an event names {what}", functools.partial(told, what))
    by_whom = f"role {role} was changed by login postgres"
    wait_for(
        "an event names who, from the record",
        lambda: by_whom in blamed(world, team, name) and "(ALTER SCHEMA)" in blamed(world, team, name),
        tell=lambda: blamed(world, team, name),
    )
    (row,) = world.postgres.query(
        "SELECT rolcreatedb, rolconnlimit, pg_has_role(rolname, 'pg_read_all_data', 'MEMBER'),"
        " has_database_privilege(oid, current_database(), 'CREATE'),"
        " (SELECT count(*) FROM pg_db_role_setting WHERE setrole = r.oid),"
        " (SELECT nspowner = r.oid FROM pg_namespace WHERE nspname = rolname)"
        " FROM pg_roles r WHERE rolname = %s",
        [role],
    )
    assert row == (False, 20, False, False, 1, True)
    assert_password_works(world, team, name)


def test_what_a_rules_login_changed_of_the_tenants_role_is_put_back_at_once(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    role = f"tenant_{name.replace('-', '_')}"
    rule_name = world.rule(team, name, "203.0.113.77/32", login="PerRule")
    world.api.await_condition("accessrule", rule_name, team)
    as_rule = {"secret_name": f"{rule_name}-access"}
    world.psql("203.0.113.77", team, name, f"ALTER ROLE {role} PASSWORD 'mine'", **as_rule).run()
    wait_for("the Tenant says so", lambda: "password" in events_about(world, "Tenant", team, name, "RoleRestored"))
    wait_for(
        "and who it was",
        lambda: (
            f"role {role} was changed by jane@example.com as login {role}_" in blamed(world, team, name)
            and " from 203.0.113.77 at " in blamed(world, team, name)
        ),
        tell=lambda: blamed(world, team, name),
    )
    ((verifier,),) = world.postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role])
    assert scram.matches(world.password(team, name), verifier)
    login = world.secret(team, f"{rule_name}-access")["username"]
    world.postgres.query(f"ALTER ROLE {login} VALID UNTIL 'infinity'")
    wait_for(
        "the rule says so", lambda: "VALID UNTIL" in events_about(world, "AccessRule", team, rule_name, "RoleRestored")
    )
    assert world.psql("203.0.113.77", team, name, "SELECT 1", **as_rule).works()


def assert_password_works(world: World, team: str, name: str) -> None:
    world.rule(team, name, "203.0.113.77/32")
    wait_for("the password of the Secret works", world.psql("203.0.113.77", team, name, "SELECT 1").works)


def test_a_secret_that_was_deleted_comes_back_and_works(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    old = world.password(team, name)
    world.api.delete("secret", f"{name}-db", team)
    restart_operator(world)
    wait_for("the Secret is back", lambda: world.api.get("secret", f"{name}-db", team))
    assert world.password(team, name) != old
    assert_password_works(world, team, name)


def test_a_crash_between_secret_and_role_heals(world: World, mortal: Path) -> None:
    team = world.team()
    mortal.write_text("Secret made")
    name = world.tenant(team, wait=False)
    wait_for("it dies", lambda: not world.operator.running, patience=60, tell=world.operator.text)
    mortal.unlink()
    secret_written = world.password(team, name)
    world.operator.start()
    world.api.await_condition("tenant", name, team, patience=60)
    assert world.password(team, name) == secret_written
    assert_password_works(world, team, name)


def test_an_operator_killed_while_it_puts_a_role_back_leaves_it_as_specified(world: World, mortal: Path) -> None:
    team = world.team()
    name = world.tenant(team)
    role = f"tenant_{name.replace('-', '_')}"

    def as_specified() -> bool:
        return world.postgres.query(
            "SELECT rolcreatedb, pg_has_role(rolname, 'pg_read_all_data', 'MEMBER') FROM pg_roles WHERE rolname = %s",
            [role],
        ) == [(False, False)]

    mortal.write_text("role provisioned")
    world.postgres.query(f"ALTER ROLE {role} CREATEDB PASSWORD 'mine'")
    wait_for("it dies", lambda: not world.operator.running, patience=60, tell=world.operator.text)
    mortal.unlink()
    world.postgres.query(f"GRANT pg_read_all_data TO {role}")
    world.operator.start()
    wait_for("it is as specified", as_specified, patience=60, tell=world.operator.text)
    assert_password_works(world, team, name)
    told = functools.partial(events_about, world, "Tenant", team, name, "RoleRestored")
    wait_for("what came while nobody looked is told", lambda: "membership in pg_read_all_data" in told())


def test_a_slug_that_is_taken_is_left_to_its_owner(world: World) -> None:
    team, other = world.team(), world.team()
    first = world.tenant(team)
    second = world.tenant(other, wait=False, slug=first.replace("-", "_"))
    told = world.api.await_condition("tenant", second, other, status="False", reason="SlugTaken")
    assert f"{team}/{first}" in told["message"]
    # The thief's rule opens nothing: the role is not its to give.
    rule = world.rule(other, second, "203.0.113.78/32")
    world.api.await_condition("accessrule", rule, other, status="False", reason="TenantNotReady")
    world.api.delete("tenant", second, other)
    assert world.api.condition("tenant", first, "Ready", team)["status"] == "True"
    assert_password_works(world, team, first)


def test_a_role_of_somebody_else_is_not_taken_over(world: World) -> None:
    world.postgres.query("CREATE ROLE tenant_foreign LOGIN")
    try:
        team = world.team()
        name = world.tenant(team, wait=False, slug="foreign")
        world.api.await_condition("tenant", name, team, status="False", reason="SlugTaken")
        world.api.delete("tenant", name, team)
        assert world.postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'tenant_foreign'") == [(True,)]
    finally:
        world.postgres.query("DROP ROLE tenant_foreign")


def test_a_secret_of_somebody_else_is_not_overwritten(world: World) -> None:
    team = world.team()
    world.api.apply(secret(team, "mine", {"password": "theirs"}))
    name = world.tenant(team, wait=False, credentials={"secretName": "mine"})
    told = world.api.await_condition("tenant", name, team, status="False", reason="SecretTaken")
    assert "spec.credentials.secretName" in told["message"]
    assert base64.b64decode(world.api.get("secret", "mine", team)["data"]["password"]) == b"theirs"


def test_a_tenant_of_a_missing_server_says_so_and_becomes_ready_when_it_comes(world: World) -> None:
    team = world.team()
    name = world.tenant(team, wait=False, serverRef={"name": "later"})
    told = world.api.await_condition("tenant", name, team, status="False", reason="ServerNotFound")
    assert "PostgresServer later does not exist" in told["message"]
    world.server("later")
    try:
        world.api.await_condition("tenant", name, team)
    finally:
        world.api.delete("tenant", name, team)
        world.api.delete("pgs", "later")


def test_a_wrong_admin_password_is_told_without_the_password(world: World, wrong_password: None) -> None:
    restart_operator(world)
    told = world.api.await_condition("pgs", SERVER_NAME, "", status="False", reason="AuthenticationFailed")
    assert "Secret" in told["message"]
    assert "no-such-password" not in told["message"] + world.operator.text()
    assert "Traceback" not in world.operator.text()[-5000:]


def test_postgresql_that_is_down_is_told_and_others_are_unharmed(world: World) -> None:
    team = world.team()
    good = world.tenant(team)
    world.server("down", host=MACHINE, port=9)
    try:
        bad = world.tenant(team, wait=False, serverRef={"name": "down"})
        told = world.api.await_condition("pgs", "down", "", status="False", reason="Unreachable")
        assert "Traceback" not in told["message"]
        world.api.await_condition("tenant", bad, team, status="False", reason="ServerNotReady")
        assert world.api.condition("tenant", good, "Ready", team)["status"] == "True"
        world.tenant(team)
    finally:
        world.api.delete("tenant", bad, team)
        world.api.delete("pgs", "down")


def test_a_suspended_tenant_loses_login_and_sessions_and_gets_them_back(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    world.rule(team, name, "203.0.113.79/32")
    psql = world.psql("203.0.113.79", team, name, "SELECT 1")
    wait_for("it works", psql.works)
    held = world.psql("203.0.113.79", team, name, "SELECT pg_sleep(600)").hold(world.directory / "suspended.log")
    world.api.apply(tenant(team, name, suspended=True))
    wait_for("the session has ended", lambda: not held.running)
    assert not psql.works()
    world.api.apply(tenant(team, name, suspended=False))
    wait_for("it works again", psql.works)


@pytest.mark.parametrize(("policy", "remains"), [("Retain", True), ("Delete", False)])
def test_deletion_keeps_or_drops_the_data_as_the_policy_says(world: World, policy: str, remains: bool) -> None:
    team = world.team()
    name = world.tenant(team, deletionPolicy=policy)
    role = f"tenant_{name.replace('-', '_')}"
    world.postgres.query(f'CREATE TABLE "{role}".kept(id int); ALTER TABLE "{role}".kept OWNER TO "{role}"')
    world.api.delete("tenant", name, team)
    found = world.postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [role])
    assert found == ([(False,)] if remains else [])
    kept = world.postgres.query("SELECT to_regclass(%s) IS NOT NULL", [f"{role}.kept"])
    assert kept == [(remains,)]


def test_deletion_waits_for_what_others_built_on_the_tenant_and_goes_on_without_it(world: World) -> None:
    team = world.team()
    name = world.tenant(team, deletionPolicy="Delete")
    role = f"tenant_{name.replace('-', '_')}"
    world.postgres.query(f'CREATE TYPE "{role}".mood AS ENUM (\'good\'); ALTER TYPE "{role}".mood OWNER TO "{role}"')
    world.postgres.query(f'CREATE TABLE public.diary(day date, mood "{role}".mood)')
    world.api.delete("tenant", name, team, wait=False)
    told = world.api.await_condition("tenant", name, team, status="False", reason="DependentsRemain")
    assert "table column public.diary.mood" in told["message"]
    assert world.postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [role]) == [(False,)]
    world.postgres.query("DROP TABLE public.diary")
    wait_for("the Tenant is gone", lambda: not world.api.get("tenant", name, team), patience=90)
    assert world.postgres.query("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]) == []


def test_deletion_waits_for_postgresql_and_says_so(world: World) -> None:
    team = world.team()
    name = world.tenant(team, deletionPolicy="Delete")
    world.postgres.process.stop()
    try:
        world.api.delete("tenant", name, team, wait=False)
        world.api.await_condition("tenant", name, team, status="False", reason="Unreachable")
    finally:
        world.postgres.start()
    wait_for("the Tenant is gone", lambda: not world.api.get("tenant", name, team), patience=90)
    role = f"tenant_{name.replace('-', '_')}"
    assert world.postgres.query("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]) == []


def test_a_server_goes_after_its_tenants(world: World) -> None:
    team = world.team()
    world.server("leaving")
    world.api.await_condition("pgs", "leaving", "")
    name = world.tenant(team, serverRef={"name": "leaving"})
    world.api.delete("pgs", "leaving", wait=False)
    told = world.api.await_condition("pgs", "leaving", "", status="False", reason="TenantsRemain")
    assert f"1 Tenant lives here: {team}/{name}" in told["message"]
    assert world.api.condition("tenant", name, "Ready", team)["status"] == "True"
    late = world.tenant(team, wait=False, serverRef={"name": "leaving"})
    told = world.api.await_condition("tenant", late, team, status="False", reason="ServerNotReady")
    assert "is being deleted" in told["message"]
    world.api.delete("tenant", late, team)
    world.api.delete("tenant", name, team)
    wait_for("the server is gone", lambda: not world.api.get("pgs", "leaving"))
    role = f"tenant_{name.replace('-', '_')}"
    assert world.postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [role]) == [(False,)]
