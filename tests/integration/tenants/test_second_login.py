"""The login that holds the other password under ``keepPrevious`` is the tenant, to the gate and at every end."""

from collections.abc import Iterator

import pytest
from psycopg import sql
from tests.harness.approvals import submit
from tests.harness.rotation import Rotated
from tests.harness.shell import wait_for
from tests.harness.world import SERVER_NAME, World

PATIENCE = 120


@pytest.fixture
def second(world: World) -> Iterator[Rotated]:
    """A tenant whose clients use its second login now."""
    rotated = Rotated(world, keepPrevious="1h")
    assert rotated.ask(rotateToken="one")["username"] == rotated.second
    yield rotated
    if not world.operator.running:
        world.operator.start()


def roles(rotated: Rotated) -> list[str]:
    """Which of its two are there."""
    asked = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%s) ORDER BY 1"
    return [name for (name,) in rotated.world.postgres.query(asked, [[rotated.role, rotated.second]])]


def test_what_it_makes_is_the_tenants_and_what_would_be_lost_waits_for_an_approval(second: Rotated) -> None:
    world = second.world
    assert second.client("CREATE TABLE made(id int)", "INSERT INTO made VALUES (1)").works()
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = to_regclass(%s)"
    assert world.postgres.query(owner, [f"{second.role}.made"]) == [(second.role,)]
    for statement in (
        "DROP TABLE made",
        "TRUNCATE made",
        f"DROP OWNED BY {second.second}",
        "ALTER TABLE made ADD n int",
    ):
        done = second.client(statement).run()
        assert done.returncode != 0, statement
        assert "vaultbrix" in done.stderr.lower() or "approval" in done.stderr, done.stderr
    assert world.postgres.query(f"SELECT count(*) FROM {second.role}.made") == [(1,)]
    asked = submit(world, second.team, "by-second", second.name, "DROP TABLE made", execution="Session")
    asked.decide()
    asked.phase("Approved")
    wait_for("the pass is there", lambda: asked.condition("PassIssued").get("status") == "True", tell=asked.tell)
    assert second.client("DROP TABLE made").works()
    asked.phase("Succeeded")
    assert second.client("DROP TABLE IF EXISTS another").run().returncode in (0, 1)


def test_neither_login_makes_itself_more_or_the_other_less(second: Rotated) -> None:
    for login in (second.role, second.second):
        for change in (f"ALTER ROLE {login} PASSWORD 'mine'", f"ALTER ROLE {login} VALID UNTIL 'infinity'"):
            second.client(change).run()
    before = second.secret()
    wait_for("clients get in as the Secret says", second.client().works, patience=60)
    assert second.secret() == before
    for login in (second.role, second.second):
        asked = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%%' OR rolpassword IS NULL FROM pg_authid WHERE rolname = %s"
        assert second.world.postgres.query(asked, [login]) == [(True,)]


def test_it_goes_with_the_data(second: Rotated) -> None:
    assert second.client("CREATE TABLE made(id int)").works()
    second.world.api.patch("tenant", second.name, second.team, {"spec": {"deletionPolicy": "Delete"}})
    second.world.api.delete("tenant", second.name, second.team)
    assert roles(second) == []
    assert second.world.postgres.query("SELECT to_regnamespace(%s) IS NULL", [second.role]) == [(True,)]


def test_whoever_adopts_the_data_does_not_get_the_login_of_before(second: Rotated) -> None:
    world, old = second.world, second.client()
    assert second.client("CREATE TABLE kept AS SELECT 1 AS id").works()
    uid = world.api.get("tenant", second.name, second.team)["metadata"]["uid"]
    world.api.delete("tenant", second.name, second.team)
    world.api.delete("secret", f"{second.name}-db", second.team)
    assert roles(second) == [second.role]
    credentials = {"keepPrevious": "1h"}
    world.tenant(second.team, name=second.name, wait=False, adopt=uid, credentials=credentials)
    heir = world.api.get("tenant", second.name, second.team)["metadata"]["uid"]
    to = {"namespace": second.team, "name": second.name, "uid": heir}
    world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"adoptions": [{"from": uid, "to": to}]}})
    try:
        world.api.await_condition("tenant", second.name, second.team, patience=60)
        world.rule(second.team, second.name, "203.0.113.77/32")
        wait_for("the heir reads what was kept", second.client("TABLE kept").works)
        assert second.secret()["username"] == second.role
        assert not old.works()
        second.ask(rotateToken="two")
        assert second.client("TABLE kept").works()
        assert not old.works()
    finally:
        world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"adoptions": []}})


def test_where_no_object_explains_it_any_more_it_ends_and_the_role_is_told(second: Rotated) -> None:
    world = second.world
    world.operator.stop()
    # As who takes finalizers away by force.
    world.api.patch("tenant", second.name, second.team, {"metadata": {"finalizers": None}})
    world.api.kubectl("-n", second.team, "delete", "tenant", second.name)
    world.operator.start()

    def told() -> bool:
        found = world.api.get("pgs", SERVER_NAME).get("status", {}).get("orphans", [])
        return ("Login", second.role) in {(orphan["kind"], orphan["name"]) for orphan in found}

    wait_for("the role is told", told, patience=PATIENCE, tell=lambda: world.api.get("pgs", SERVER_NAME)["status"])
    wait_for("the login is gone", lambda: roles(second) == [second.role], patience=PATIENCE)
    world.postgres.query(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(second.role)))
