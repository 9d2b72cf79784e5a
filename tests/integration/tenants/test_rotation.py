"""Passwords that are replaced while clients are at work, and whoever does it dies."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.harness.rotation import Rotated
from tests.harness.shell import wait_for
from tests.harness.tenants import restart_operator
from tests.harness.world import World

from vaultbrix.api.meta import rfc3339
from vaultbrix.tenants.rotation.decisions import ANNOTATION


def test_a_token_replaces_the_password_once_and_sessions_go_on(world: World, tmp_path: Path) -> None:
    rotated = Rotated(world)
    old_client, before = rotated.client(), rotated.secret()
    session = rotated.client("SELECT 'in'", "SELECT pg_sleep(3600)").hold(tmp_path / "session")
    wait_for("the session is there", lambda: "in" in session.text())
    status = rotated.ask(rotateToken="one")
    after = rotated.secret()
    assert status["username"] == after["username"] == before["username"] == rotated.role
    assert "previousUntil" not in status
    assert after["password"] != before["password"]
    assert after["password"] in after["uri"]
    assert rotated.client().works()
    assert not old_client.works()
    assert session.running
    (told,) = rotated.events("CredentialsRotated")
    assert f"Secret {rotated.name}-db has a new password for {rotated.role}" in told
    restart_operator(world)
    world.tenant(rotated.team)
    assert rotated.secret() == after
    # Nobody else changed the role, and nobody is told so.
    assert rotated.events("RoleRestored") == []
    for text in (world.postgres.log_text(), world.operator.text(), world.agent.text(), told):
        assert after["password"] not in text
        assert before["password"] not in text


def test_with_keep_previous_no_login_fails_neither_with_the_secret_nor_with_what_it_said_before(world: World) -> None:
    rotated = Rotated(world, keepPrevious="1h")
    usernames = [rotated.secret()["username"]]
    for number in range(4):
        with rotated.logging_in() as failures, rotated.logging_in(rotated.client()) as failures_of_before:
            status = rotated.ask(rotateToken=f"token {number}")
            assert "previousUntil" in status
        assert failures == failures_of_before == []
        usernames.append(status["username"])
    assert usernames == [rotated.role, rotated.second, rotated.role, rotated.second, rotated.role]
    assert rotated.events("RoleRestored") == []
    counted = "SELECT current_user, session_user, current_setting('search_path')"
    rotated.ask(rotateToken="last")
    assert rotated.client(counted).run().stdout.strip() == f"{rotated.role}|{rotated.second}|{rotated.role}"


def test_a_leak_ends_sessions_and_both_passwords_of_before_whatever_is_kept(world: World, tmp_path: Path) -> None:
    rotated = Rotated(world, keepPrevious="1h")
    older = rotated.client("SELECT 'in'", "SELECT pg_sleep(3600)")
    rotated.ask(rotateToken="one")
    old = rotated.client("SELECT 'in'", "SELECT pg_sleep(3600)")
    sessions = [client.hold(tmp_path / str(n)) for n, client in enumerate((older, old))]
    wait_for("both sessions are there", lambda: all("in" in session.text() for session in sessions))
    status = rotated.ask(revokeToken="leak")
    assert "previousUntil" not in status
    wait_for("both sessions have ended", lambda: not any(session.running for session in sessions))
    assert not older.works()
    assert not old.works()
    later = rotated.client("SELECT 'in'", "SELECT pg_sleep(3600)").hold(tmp_path / "later")
    wait_for("whoever has the new password is in", lambda: "in" in later.text())
    restart_operator(world)
    world.tenant(rotated.team)
    assert later.running
    assert any(
        "revokeToken: the sessions that began before have ended" in m for m in rotated.events("CredentialsRotated")
    )


@pytest.mark.parametrize(
    ("keep", "step"),
    [
        ("0s", "Secret replaced"),
        ("0s", "role provisioned"),
        ("1h", "second login provisioned"),
        ("1h", "Secret replaced"),
        ("1h", "role provisioned"),
    ],
)
def test_whoever_dies_in_a_step_leaves_a_password_that_works_and_heals(
    world: World, mortal: Path, keep: str, step: str
) -> None:
    rotated = Rotated(world, keepPrevious=keep)
    old = rotated.client()
    mortal.write_text(step)
    rotated.edit(rotateToken="one")
    wait_for("it dies", lambda: not world.operator.running, patience=60, tell=world.operator.text)
    mortal.unlink()
    assert old.works() or rotated.client().works()
    if keep != "0s":
        assert old.works()
        assert rotated.client().works()
    world.operator.start()
    rotated.await_done(rotateToken="one")
    assert rotated.client().works()
    assert old.works() is (keep != "0s")
    assert rotated.events("RoleRestored") == []
    assert rotated.status()["rotatedAt"] == json.loads(annotation(rotated))["rotatedAt"]


@pytest.mark.parametrize("step", ["Secret replaced", "role provisioned", "sessions of a leak ended"])
def test_whoever_dies_after_a_leak_has_the_sessions_ended_all_the_same(
    world: World, mortal: Path, tmp_path: Path, step: str
) -> None:
    rotated = Rotated(world)
    client = rotated.client("SELECT 'in'", "SELECT pg_sleep(3600)")
    session = client.hold(tmp_path / "session")
    wait_for("the session is there", lambda: "in" in session.text())
    mortal.write_text(step)
    rotated.edit(revokeToken="leak")
    wait_for("it dies", lambda: not world.operator.running, patience=60, tell=world.operator.text)
    mortal.unlink()
    world.operator.start()
    rotated.await_done(revokeToken="leak")
    wait_for("the session has ended", lambda: not session.running)
    assert not client.works()
    assert rotated.client().works()


def annotation(rotated: Rotated) -> str:
    found = rotated.world.api.get("secret", f"{rotated.name}-db", rotated.team)["metadata"]["annotations"][ANNOTATION]
    return str(found)


def test_an_operator_that_was_away_when_it_was_due_rotates_once(world: World) -> None:
    rotated = Rotated(world, rotateEvery="1h")
    before = rotated.secret()
    world.operator.stop()
    past = rfc3339(datetime.now(UTC) - timedelta(hours=5))
    note = json.dumps({**json.loads(annotation(rotated)), "rotatedAt": past})
    path = f"/api/v1/namespaces/{rotated.team}/secrets/{rotated.name}-db"
    world.api.request("PATCH", path, {"metadata": {"annotations": {ANNOTATION: note, "example.com/mine": "stays"}}})
    world.operator.start()
    wait_for("it is rotated", lambda: rotated.secret()["password"] != before["password"], patience=60)
    wait_for("it is told", lambda: any("rotateEvery is 1h" in m for m in rotated.events("CredentialsRotated")))
    after = rotated.secret()
    restart_operator(world)
    world.tenant(rotated.team)
    assert rotated.secret() == after
    assert len(rotated.events("CredentialsRotated")) == 1
    kept = world.api.get("secret", f"{rotated.name}-db", rotated.team)["metadata"]["annotations"]
    assert kept["example.com/mine"] == "stays"


def test_while_postgresql_is_down_the_secret_stays_as_it_is(world: World) -> None:
    rotated = Rotated(world)
    before = rotated.secret()
    world.postgres.stop()
    try:
        rotated.edit(rotateToken="one")
        world.api.await_condition("tenant", rotated.name, rotated.team, status="False", patience=60)
        assert rotated.secret() == before
    finally:
        world.postgres.start()
    rotated.await_done(rotateToken="one")
    assert rotated.secret()["password"] != before["password"]
    assert rotated.client().works()


def test_what_somebody_changes_of_the_second_login_is_put_back(world: World) -> None:
    rotated = Rotated(world, keepPrevious="1h")
    rotated.ask(rotateToken="one")
    world.postgres.query(f"ALTER ROLE {rotated.second} CREATEDB PASSWORD 'mine'")
    told = f"role {rotated.second} was changed by somebody else and is as specified again: "
    wait_for("it is told", lambda: any(m.startswith(told) for m in rotated.events("RoleRestored")))
    wait_for("it is put back", rotated.client().works)
    rotated.ask(rotateToken="two")
    # The password of before is known to nobody here: a verifier that is another's is taken away.
    world.postgres.query(f"ALTER ROLE {rotated.second} PASSWORD 'mine' VALID UNTIL 'infinity'")
    wait_for(
        "it is ended",
        lambda: (
            world.postgres.query(
                "SELECT rolpassword IS NULL, rolvaliduntil < 'infinity' FROM pg_authid WHERE rolname = %s",
                [rotated.second],
            )
            == [(True, True)]
        ),
    )


def test_keep_previous_that_is_taken_back_ends_the_password_of_before_and_its_login(world: World) -> None:
    rotated = Rotated(world, keepPrevious="1h")
    rotated.ask(rotateToken="one")
    old = rotated.client()
    rotated.ask(rotateToken="two")
    assert old.works()
    rotated.edit(keepPrevious="0s")
    there = "SELECT count(*) FROM pg_roles WHERE rolname = %s"
    wait_for("the second login is gone", lambda: world.postgres.query(there, [rotated.second]) == [(0,)])
    assert not old.works()
    assert rotated.client().works()


def test_suspension_and_the_end_of_the_tenant_take_the_second_login_along(world: World) -> None:
    rotated = Rotated(world, keepPrevious="1h")
    rotated.ask(rotateToken="one")
    logins = "SELECT rolname::text, rolcanlogin FROM pg_roles WHERE rolname = ANY(%s) ORDER BY 1"
    both = [[rotated.role, rotated.second]]
    world.api.patch("tenant", rotated.name, rotated.team, {"spec": {"suspended": True}})
    wait_for("nobody logs in", lambda: [can for _, can in world.postgres.query(logins, both)] == [False, False])
    world.api.patch("tenant", rotated.name, rotated.team, {"spec": {"suspended": False}})
    wait_for("it is let in again", rotated.client().works)
    world.api.delete("tenant", rotated.name, rotated.team)
    assert world.postgres.query(logins, both) == [(rotated.role, False)]
