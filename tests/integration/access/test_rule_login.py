"""A rule with a login of its own, end to end: made when it opens, good for its address only, gone when it ends."""

import random
import time
from collections.abc import Callable

import pytest
from tests.harness.direct_access import held_session, is_reset
from tests.harness.shell import wait_for
from tests.harness.tenants import KEYS, restart_operator
from tests.harness.world import World, in_seconds, rule, secret, tenant

from vaultbrix.access.decisions import rule_login


def role_of(tenant_name: str) -> str:
    return f"tenant_{tenant_name.replace('-', '_')}"


def login_of(world: World, team: str, tenant_name: str, name: str) -> str:
    return rule_login(role_of(tenant_name), world.api.get("accessrule", name, team)["metadata"]["uid"])


def roles(world: World, *names: str) -> list[str]:
    """Those of these roles that exist."""
    rows = world.postgres.query("SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%s)", [list(names)])
    return [row[0] for row in rows]


def opened(world: World, team: str, tenant_name: str, address: str, **spec: object) -> tuple[str, str]:
    """A rule with a login of its own, ready; returns its name and its login's."""
    name = world.rule(team, tenant_name, f"{address}/32", login="PerRule", **spec)
    world.api.await_condition("accessrule", name, team)
    return name, login_of(world, team, tenant_name, name)


def gone(world: World, team: str, name: str, login: str) -> None:
    wait_for("the login is gone", lambda: not roles(world, login), patience=60, tell=world.operator.text)
    wait_for("its Secret is gone", lambda: not world.secret(team, f"{name}-access"))
    assert world.postgres.query("SELECT 1 FROM vaultbrix.rule_login WHERE login = %s", [login]) == []


def test_it_connects_as_the_tenant_with_its_own_login_from_its_address_and_no_other(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    name, login = opened(world, team, acme, "203.0.113.120")
    status = world.api.get("accessrule", name, team)["status"]
    assert status["secretName"] == f"{name}-access"
    data = world.secret(team, status["secretName"])
    assert set(data) == KEYS
    assert (data["username"], data["schema"]) == (login, role_of(acme))
    (owner,) = world.api.get("secret", status["secretName"], team)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("AccessRule", name)

    mine = {"secret_name": status["secretName"]}
    asked = ("SELECT current_user, session_user", "CREATE TABLE made(id int)")
    done = world.psql("203.0.113.120", team, acme, *asked, **mine).run()
    assert done.stdout.splitlines() == [f"{role_of(acme)}|{login}", "CREATE TABLE"], done.stderr
    owner_of = "SELECT relowner::regrole::text FROM pg_class WHERE oid = %s::regclass"
    assert world.postgres.query(owner_of, [f"{role_of(acme)}.made"]) == [(role_of(acme),)]
    # Out of the tenant's role it is not the owner, which PostgreSQL says before the gate does.
    for attempt, state in {
        "RESET ROLE": "VBX01",
        "SET ROLE NONE": "42501",
        f"SET SESSION AUTHORIZATION {login}": "42501",
        "SELECT 1": "VBX01",
    }.items():
        refused = world.psql("203.0.113.120", team, acme, attempt, f"DROP TABLE {role_of(acme)}.made", **mine).run()
        assert f"ERROR:  {state}:" in refused.stderr, attempt
    assert world.postgres.query(owner_of, [f"{role_of(acme)}.made"])

    assert "pg_hba.conf" in world.psql("203.0.113.120", team, acme, "SELECT 1").run().stderr
    assert is_reset(world, "198.51.100.120")
    other = world.rule(team, acme, "198.51.100.120/32")
    world.api.await_condition("accessrule", other, team)
    assert "pg_hba.conf" in world.psql("198.51.100.120", team, acme, "SELECT 1", **mine).run().stderr


def test_a_login_for_jobs_address_is_no_way_in(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    name, login = opened(world, team, acme, "203.0.113.121")
    lines = [line.split() for line in world.postgres.hba_file.read_text().splitlines() if f'"{login}"' in line]
    assert [line[3] for line in lines] == ["203.0.113.121/32"]
    assert world.postgres.query("SELECT pg_has_role(%s, 'vaultbrix_jobs', 'MEMBER')", [login]) == [(False,)]
    assert world.secret(team, f"{name}-access")["password"] not in world.operator.text() + world.postgres.log_text()


@pytest.mark.parametrize(("ttl", "hours"), [("3h", 2), ("30m", 0)])
def test_the_login_lasts_as_long_as_the_rule_be_it_extended_or_shortened(world: World, ttl: str, hours: int) -> None:
    team = world.team()
    acme = world.tenant(team)
    name, login = opened(world, team, acme, "203.0.113.122")
    before = world.secret(team, f"{name}-access")
    world.api.apply(rule(team, name, acme, "203.0.113.122/32", login="PerRule", ttl=ttl))

    def kept() -> bool:
        end = world.api.get("accessrule", name, team)["status"]["expiresAt"]
        (row,) = world.postgres.query(
            "SELECT rolvaliduntil = %s::timestamptz, extract(hour FROM rolvaliduntil - now())::int"
            " FROM pg_roles WHERE rolname = %s",
            [end, login],
        )
        return row == (True, hours)

    wait_for(f"the login lasts {ttl}", kept)
    assert world.secret(team, f"{name}-access") == before


def test_the_tenants_settings_hold_for_the_login_and_follow_changes(world: World) -> None:
    team = world.team()
    acme = world.tenant(team, settings={"statement_timeout": "31s"}, connectionLimit=3)
    name, login = opened(world, team, acme, "203.0.113.123")
    shown = world.psql("203.0.113.123", team, acme, "SHOW statement_timeout", secret_name=f"{name}-access")
    assert shown.run().stdout.strip() == "31s"
    world.api.apply(tenant(team, acme, settings={"statement_timeout": "32s"}, connectionLimit=4))
    wait_for("the login follows", lambda: shown.run().stdout.strip() == "32s")
    assert world.postgres.query("SELECT rolconnlimit FROM pg_roles WHERE rolname = %s", [login]) == [(4,)]


def test_nothing_is_made_before_the_rule_begins(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    name = world.rule(team, acme, "203.0.113.124/32", login="PerRule", startsAt=in_seconds(6))
    world.api.await_condition("accessrule", name, team, status="False", reason="NotYet")
    assert world.api.condition("accessrule", name, "LoginReady", team)["status"] == "False"
    assert not world.secret(team, f"{name}-access")
    login = login_of(world, team, acme, name)
    assert roles(world, login) == []
    world.api.await_condition("accessrule", name, team)
    assert roles(world, login) == [login]


def revoke(world: World, team: str, acme: str, name: str) -> None:
    world.api.apply(rule(team, name, acme, "203.0.113.125/32", login="PerRule", revoked=True))


def delete(world: World, team: str, acme: str, name: str) -> None:
    world.api.delete("accessrule", name, team)


def suspend(world: World, team: str, acme: str, name: str) -> None:
    world.api.apply(tenant(team, acme, suspended=True))


def delete_tenant(world: World, team: str, acme: str, name: str) -> None:
    world.api.delete("tenant", acme, team)


def widen(world: World, team: str, acme: str, name: str) -> None:
    world.api.apply(rule(team, name, acme, "203.0.0.0/16", login="PerRule"))


def shorten(world: World, team: str, acme: str, name: str) -> None:
    world.api.apply(rule(team, name, acme, "203.0.113.125/32", login="PerRule", ttl="1s"))


@pytest.mark.parametrize("ending", [revoke, delete, suspend, delete_tenant, widen, shorten])
def test_however_a_rule_ends_its_login_goes_with_sessions_and_all_it_made(
    world: World, ending: Callable[[World, str, str, str], None]
) -> None:
    team = world.team()
    acme = world.tenant(team)
    name, login = opened(world, team, acme, "203.0.113.125")
    hostile = (
        f"GRANT CREATE, USAGE ON SCHEMA {role_of(acme)} TO {login}", "SET ROLE NONE",
        "CREATE TABLE outside(id int)", "SELECT lo_create(0)", "SELECT pg_sleep(600)",
    )  # fmt: skip
    session = world.psql("203.0.113.125", team, acme, *hostile, secret_name=f"{name}-access").hold(
        world.directory / f"{name}.log"
    )
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = to_regclass(%s)"
    made = f"{role_of(acme)}.outside"
    wait_for("it works", lambda: world.postgres.query(owner, [made]) == [(login,)], tell=session.text)
    ending(world, team, acme, name)
    wait_for("the session has ended", lambda: not session.running)
    gone(world, team, name, login)
    assert world.postgres.query(owner, [made]) == [(role_of(acme),)]
    if ending is not delete:
        told = world.api.await_condition("accessrule", name, team, type_="LoginReady", status="False")
        assert told["reason"] in ("LoginDropped", "Waiting")
        assert "secretName" not in world.api.get("accessrule", name, team)["status"]
        world.api.delete("accessrule", name, team)
    if ending is suspend:
        world.api.apply(tenant(team, acme, suspended=False))


def test_a_rule_of_a_suspended_tenant_gets_a_login_again_when_it_opens_again(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    name, login = opened(world, team, acme, "203.0.113.126")
    suspend(world, team, acme, name)
    gone(world, team, name, login)
    world.api.apply(tenant(team, acme, suspended=False))
    world.api.await_condition("accessrule", name, team)
    assert world.psql("203.0.113.126", team, acme, "SELECT 1", secret_name=f"{name}-access").works()


def test_a_role_of_somebody_else_is_left_alone_and_it_says_so(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    name = world.rule(team, acme, "203.0.113.127/32", login="PerRule", startsAt=in_seconds(6))
    login = login_of(world, team, acme, name)
    world.postgres.query(f"CREATE ROLE {login} CONNECTION LIMIT 7")
    try:
        told = world.api.await_condition(
            "accessrule", name, team, type_="LoginReady", status="False", reason="LoginTaken"
        )
        assert login in told["message"]
        world.api.await_condition("accessrule", name, team, status="False", reason="LoginTaken")
        world.api.delete("accessrule", name, team)
        assert world.postgres.query(
            "SELECT rolcanlogin, rolconnlimit, rolvaliduntil FROM pg_roles WHERE rolname = %s", [login]
        ) == [(False, 7, None)]
    finally:
        world.postgres.query(f"DROP ROLE {login}")


def test_a_secret_of_somebody_else_is_left_alone_and_it_says_so(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    world.api.apply(secret(team, "taken-access", {"password": "theirs"}))
    world.rule(team, acme, "203.0.113.128/32", login="PerRule", name="taken")
    told = world.api.await_condition("accessrule", "taken", team, status="False", reason="SecretTaken")
    assert "another name" in told["message"]
    assert roles(world, login_of(world, team, acme, "taken")) == []
    world.api.delete("accessrule", "taken", team)
    assert world.secret(team, "taken-access") == {"password": "theirs"}


def test_a_crash_between_secret_and_login_heals(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    world.postgres.process.stop()
    try:
        name = world.rule(team, acme, "203.0.113.129/32", login="PerRule")
        world.api.await_condition("accessrule", name, team, type_="LoginReady", status="False", reason="Unreachable")
        written = world.secret(team, f"{name}-access")
        assert written["password"]
        world.operator.kill()
    finally:
        world.postgres.start()
    world.operator.start()
    world.api.await_condition("accessrule", name, team, patience=90)
    assert world.secret(team, f"{name}-access") == written
    assert world.psql("203.0.113.129", team, acme, "SELECT 1", secret_name=f"{name}-access").works()


def test_an_operator_killed_at_any_moment_leaves_every_login_whole_or_gone(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    moments = random.Random(5)
    names = []
    for number in range(5):
        names.append(world.rule(team, acme, f"203.0.113.{130 + number}/32", login="PerRule"))
        time.sleep(moments.uniform(0, 1.0))
        restart_operator(world)
    logins = [login_of(world, team, acme, name) for name in names]
    for name in names:
        world.api.await_condition("accessrule", name, team, patience=90)
        data = world.secret(team, f"{name}-access")
        address = world.api.get("accessrule", name, team)["spec"]["cidrs"][0].split("/")[0]
        assert world.psql(address, team, acme, "SELECT 1", secret_name=f"{name}-access").works(), data["username"]
    for name in names:
        world.api.delete("accessrule", name, team, wait=False)
        time.sleep(moments.uniform(0, 0.5))
        restart_operator(world)
    wait_for("all logins are gone", lambda: not roles(world, *logins), patience=90, tell=world.operator.text)
    wait_for("all rules are gone", lambda: not any(world.api.get("accessrule", n, team) for n in names), patience=60)


def test_a_login_whose_rule_vanished_unseen_is_swept_with_what_it_made(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    name, login = opened(world, team, acme, "203.0.113.136")
    world.operator.kill()
    world.api.patch("accessrule", name, team, {"metadata": {"finalizers": None}})
    world.api.delete("accessrule", name, team)
    world.postgres.query(f"CREATE TABLE {role_of(acme)}.left(); ALTER TABLE {role_of(acme)}.left OWNER TO {login}")
    world.operator.start()
    wait_for("the login is gone", lambda: not roles(world, login), patience=60, tell=world.operator.text)
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = %s::regclass"
    assert world.postgres.query(owner, [f"{role_of(acme)}.left"]) == [(role_of(acme),)]


def test_a_rule_that_ends_while_postgresql_is_down_is_told_so_and_dropped_later(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    name, login = opened(world, team, acme, "203.0.113.137")
    world.postgres.process.stop()
    try:
        revoke(world, team, acme, name)
        world.api.await_condition("accessrule", name, team, type_="LoginReady", status="False", reason="Unreachable")
        assert world.api.get("accessrule", name, team)["status"]["phase"] == "Revoked"
    finally:
        world.postgres.start()
    gone(world, team, name, login)
    finalizers = lambda: world.api.get("accessrule", name, team)["metadata"].get("finalizers", [])  # noqa: E731
    wait_for("nothing holds the rule any more", lambda: not finalizers())


def test_rules_at_rest_are_not_written_whatever_their_login(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    own, _ = opened(world, team, acme, "203.0.113.138")
    shared = world.rule(team, acme, "203.0.113.139/32")
    world.api.await_condition("accessrule", shared, team)

    def versions() -> list[str]:
        return [world.api.get("accessrule", n, team)["metadata"]["resourceVersion"] for n in (own, shared)]

    time.sleep(2)
    before = versions()
    restart_operator(world)
    # One that comes later has been worked on, so those have too.
    opened(world, team, acme, "203.0.113.140")
    assert versions() == before


def test_another_rules_sessions_outlive_this_one(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    name, login = opened(world, team, acme, "203.0.113.141")
    shared = world.rule(team, acme, "203.0.113.141/32")
    world.api.await_condition("accessrule", shared, team)
    session = held_session(world, "203.0.113.141", team, acme, "outlives")
    world.api.delete("accessrule", name, team)
    gone(world, team, name, login)
    assert session.running
    session.kill()
