"""vaultbrix rotate, as a person runs it."""

from pathlib import Path

from tests.harness.command_line import READ, Person, may
from tests.harness.rotation import Rotated
from tests.harness.shell import wait_for
from tests.harness.world import ADMIN_PASSWORD, World


def test_a_person_replaces_the_password_and_is_told_where_it_is_and_never_what_it_is(
    world: World, tmp_path: Path
) -> None:
    rotated = Rotated(world)
    jane = Person.admin(world, rotated.team)
    before = rotated.secret()
    session = rotated.client("SELECT 'in'", "SELECT pg_sleep(3600)").hold(tmp_path / "session")
    wait_for("the session is there", lambda: "in" in session.text())
    assert "would be asked for" in jane.succeeds("rotate", rotated.name, "--dry-run")
    assert rotated.secret() == before
    said = jane.succeeds("rotate", rotated.name)
    after = rotated.secret()
    assert after["password"] != before["password"]
    assert f"Secret {rotated.name}-db has a new password for {rotated.role}; the one before is not good" in said
    assert session.running
    leaked = jane.succeeds("rotate", rotated.name, "--end-sessions")
    assert "the sessions that began before have ended" in leaked
    wait_for("the session has ended", lambda: not session.running)
    for password in (before["password"], after["password"], rotated.secret()["password"]):
        assert password not in said + leaked
    rotated.edit(keepPrevious="1h")
    assert f"for {rotated.second}; the one before is good until " in jane.succeeds("rotate", rotated.name)
    assert "a new password is asked for" in jane.succeeds("rotate", rotated.name, "--no-wait")


def test_who_may_not_update_the_tenant_may_not_rotate_and_what_is_missing_is_named(world: World) -> None:
    rotated = Rotated(world)
    before = rotated.secret()
    reader = Person.of(world, rotated.team, may(READ, "tenants"))
    assert "forbidden" in reader.fails("rotate", rotated.name, code=1).lower()
    assert rotated.secret() == before
    jane = Person.admin(world, rotated.team)
    assert "nobody" in jane.fails("rotate", "nobody", code=1)
    assert "--timeout soon" in jane.fails("rotate", rotated.name, "--timeout", "soon", code=2)
    assert rotated.secret() == before


def test_an_operator_that_is_away_is_told_as_that(world: World) -> None:
    rotated = Rotated(world)
    world.operator.stop()
    said = Person.admin(world, rotated.team).fails("rotate", rotated.name, "--timeout", "2s", code=1)
    assert "is asked for, but not there after 2s" in said
    assert "is the operator running?" in said
    world.operator.start()
    wait_for("it is there", lambda: rotated.status().get("rotateToken") is not None, patience=60)


def test_the_admins_password_is_replaced_by_editing_its_secret(world: World) -> None:
    team = world.team()
    first = world.tenant(team)
    world.postgres.set_password("another-password-of-the-admin")
    world.set_admin_password("another-password-of-the-admin")
    try:
        world.tenant(team)
    finally:
        world.postgres.set_password(ADMIN_PASSWORD)
        world.set_admin_password(ADMIN_PASSWORD)
    world.tenant(team)
    assert world.api.condition("tenant", first, "Ready", team)["status"] == "True"
    assert "another-password-of-the-admin" not in world.operator.text() + world.postgres.log_text()
