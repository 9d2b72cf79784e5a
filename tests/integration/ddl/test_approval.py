"""DDLApprovals by the operator: from the decision to a true end, by a Job or by the tenant's own session."""

import itertools
import subprocess
from collections.abc import Iterator

import pytest
from tests.harness.approvals import Approval, submit
from tests.harness.ddl_job import end
from tests.harness.shell import wait_for
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.world import World

numbers = itertools.count(1)
ADDRESS = "203.0.113.180"


@pytest.fixture(scope="module")
def shared(running: World) -> TenantWithTables:
    """A tenant with an open rule."""
    running.heal()
    place = TenantWithTables(running)
    running.api.await_condition("accessrule", running.rule(place.team, place.tenant, f"{ADDRESS}/32"), place.team)
    return place


@pytest.fixture
def place(shared: TenantWithTables) -> Iterator[TenantWithTables]:
    shared.world.heal()
    if not shared.there("victim"):
        shared.sql("CREATE TABLE victim(id int, v text)")
    yield shared


def sends(place: TenantWithTables, *statements: str) -> "subprocess.CompletedProcess[str]":
    """The tenant's own session."""
    return place.world.psql(ADDRESS, place.team, place.tenant, *statements).run()


def ended(made: Approval, *phases: str) -> dict[str, object]:
    """The status at the end, with nothing left of the run."""
    status = made.phase(*phases)
    wait_for("nothing is left of it", lambda: not made.left(), tell=made.left)
    return status


def test_a_job_runs_it_once_and_the_status_says_what_ran(place: TenantWithTables) -> None:
    made = place.submit("ALTER TABLE victim ADD w int; DROP TABLE victim")
    made.rehearsed()
    made.decide()
    made.phase("Running")
    assert made.condition("PassIssued")["status"] == "True"
    assert made.pod().run() == 0
    status = ended(made, "Succeeded")
    assert (status["executed"], status["jobName"]) == (2, f"ddl-{made.uid}")
    assert "progress" not in status
    assert not place.there("victim")


def test_a_job_that_fails_says_where_and_nothing_stays(place: TenantWithTables) -> None:
    made = place.submit("ALTER TABLE victim ADD w int; DROP TABLE missing")
    made.decide()
    assert made.pod().run() == 3
    status = ended(made, "Failed")
    assert (status["error"]["sqlstate"], status["error"]["statement"]) == ("42P01", 2)  # type: ignore[index]
    assert status.get("executed", 0) == 0
    assert made.condition("Ready")["reason"] == "StatementFailed"


def test_one_by_one_what_ran_is_counted_and_a_statement_nobody_knows_of_is_not_run_again(
    place: TenantWithTables,
) -> None:
    made = place.submit("INSERT INTO victim VALUES (1, 'x'); CREATE INDEX CONCURRENTLY late ON victim(v); SELECT 1")
    made.decide()
    made.phase("Running")
    pod = made.pod()
    with place.world.postgres.connect() as holder:
        holder.execute("BEGIN")
        holder.execute(f"INSERT INTO {place.role}.victim VALUES (2, 'y')".encode())
        process = pod.start()
        progress = wait_for(
            "its progress is told", lambda: made.status.get("progress", {}).get("phase") and made.status["progress"],
            tell=made.tell,
        )  # fmt: skip
        assert (progress["statement"], progress["of"]) == (2, 3)
        assert "CREATE INDEX CONCURRENTLY" in progress["phase"]
        process.kill()
        holder.execute("ROLLBACK")
    assert made.pod("again").run() == 3
    status = ended(made, "Failed")
    assert (status["executed"], made.condition("Ready")["reason"]) == (1, "Interrupted")
    assert "statement 2" in made.condition("Ready")["message"]
    place.world.postgres.query(f"DROP TABLE {place.role}.victim")


def test_an_effect_that_grew_since_it_was_shown_is_refused_and_named(place: TenantWithTables) -> None:
    made = place.submit("CREATE TABLE spare(id int);\nDROP TABLE victim CASCADE")
    made.rehearsed()
    place.sql("CREATE VIEW grown AS SELECT id FROM victim")
    made.decide()
    assert made.pod().run() == 3
    ended(made, "Failed")
    told = made.condition("Ready")
    assert told["reason"] == "EffectGrew"
    assert told["message"].startswith("statement 2, line 2: nothing ran: ")
    assert f"view {place.role}.grown" in told["message"]
    error = made.status["error"]
    assert (error["sqlstate"], error["statement"], error["line"]) == ("VBX01", 2, 2)
    assert f"view {place.role}.grown" in error["message"]
    assert place.there("victim")
    place.world.postgres.query(f"DROP TABLE {place.role}.victim CASCADE")


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        ({"by": "jane@example.com"}, "SelfApproval"),
        ({"sha256": "0" * 64}, "OutdatedDecision"),
        ({"verdict": "Denied", "message": "not on a Friday"}, "Denied"),
    ],
)
def test_what_no_other_admin_approved_as_shown_runs_nowhere(
    place: TenantWithTables, decision: dict[str, str], reason: str
) -> None:
    for execution in ("Job", "Session"):
        made = place.submit("DROP TABLE victim", execution=execution)
        made.decide(**decision)
        ended(made, "Denied")
        assert made.condition("Ready")["reason"] == reason
        assert not made.job()
        assert "VBX01" in sends(place, "DROP TABLE victim").stderr
    assert place.there("victim")


def test_the_tenant_runs_what_was_approved_once_and_the_status_follows(place: TenantWithTables) -> None:
    made = place.submit("ALTER TABLE victim DROP COLUMN v;\nDROP TABLE victim", execution="Session")
    made.rehearsed()
    assert "VBX01" in sends(place, "ALTER TABLE victim DROP COLUMN v").stderr
    made.decide()
    wait_for("the pass is open", lambda: made.condition("PassIssued").get("status") == "True", tell=made.tell)
    assert made.status["phase"] == "Approved"
    assert sends(place, "ALTER TABLE victim DROP COLUMN v").returncode == 0
    wait_for("it is counted", lambda: made.status.get("executed") == 1, tell=made.tell)
    place.world.postgres.query(f"ALTER TABLE {place.role}.victim ADD COLUMN v text")
    assert "VBX01" in sends(place, "ALTER TABLE victim DROP COLUMN v").stderr
    assert sends(place, "DROP TABLE victim").returncode == 0
    status = ended(made, "Succeeded")
    assert (status["executed"], status.get("jobName")) == (2, None)


def test_a_session_that_is_not_used_in_time_expires_and_says_how_far_it_came(place: TenantWithTables) -> None:
    made = place.submit("ALTER TABLE victim DROP COLUMN v; DROP TABLE victim", execution="Session", validFor="5s")
    made.decide()
    wait_for("the pass is open", lambda: made.condition("PassIssued").get("status") == "True", tell=made.tell)
    assert sends(place, "ALTER TABLE victim DROP COLUMN v").returncode == 0
    ended(made, "Expired")
    assert "1 of its gated statements" in made.condition("Ready")["message"]
    assert "VBX01" in sends(place, "DROP TABLE victim").stderr
    place.world.postgres.query(f"DROP TABLE {place.role}.victim")


def test_a_session_that_is_withdrawn_lets_nothing_through_any_more(place: TenantWithTables) -> None:
    made = place.submit("DROP TABLE victim", execution="Session")
    made.decide()
    wait_for("the pass is open", lambda: made.condition("PassIssued").get("status") == "True", tell=made.tell)
    made.delete()
    assert "VBX01" in sends(place, "DROP TABLE victim").stderr


def test_a_session_that_needs_no_pass_is_over_with_its_approval(place: TenantWithTables) -> None:
    made = place.submit("INSERT INTO victim VALUES (1, 'x')", execution="Session")
    made.decide()
    ended(made, "Succeeded")
    assert "asks for a pass" in made.condition("Ready")["message"]


def test_two_approvals_of_the_same_text_let_it_through_twice_and_no_more(place: TenantWithTables) -> None:
    text = "ALTER TABLE victim ALTER id SET DEFAULT 1"
    both = [place.submit(text, execution="Session") for _ in range(2)]
    for made in both:
        made.decide()
    for made in both:
        wait_for("the pass is open", lambda m=made: m.condition("PassIssued").get("status") == "True", tell=made.tell)
    assert sends(place, text).returncode == 0
    assert sends(place, text).returncode == 0
    assert "VBX01" in sends(place, text).stderr
    for made in both:
        ended(made, "Succeeded")


def test_a_tenant_that_is_deleted_meanwhile_leaves_no_approval_without_an_end(world: World) -> None:
    place = TenantWithTables(world)
    pending, waiting, running = (
        place.submit("DROP TABLE b", execution=execution, validFor="15s") for execution in ("Job", "Session", "Job")
    )
    waiting.decide()
    running.decide()
    wait_for("the pass is open", lambda: waiting.condition("PassIssued").get("status") == "True", tell=waiting.tell)
    pod = running.pod()
    world.api.delete("tenant", place.tenant, place.team)
    for made in (running, waiting):
        ended(made, "Failed")
        assert made.condition("Ready")["reason"] == "TenantNotFound"
    process = pod.start()
    assert end(process) != 0
    assert place.there("b")
    assert pending.status["phase"] == "Pending"
    pending.decide()
    pending.phase("Expired", patience=90)


def test_what_only_adds_passes_where_the_tenant_may_and_drift_of_that_is_put_right(world: World) -> None:
    place = TenantWithTables(world)
    address = "203.0.113.181"
    world.api.await_condition("accessrule", world.rule(place.team, place.tenant, f"{address}/32"), place.team)

    def add(column: str) -> str:
        return world.psql(address, place.team, place.tenant, f"ALTER TABLE b ADD {column} int").run().stderr

    assert "VBX01" in add("one")
    world.tenant(place.team, name=place.tenant, ddlPolicy={"autoApprove": ["Additive"]})
    wait_for("it may add", lambda: add("two") == "", tell=lambda: world.operator.text()[-2000:])
    assert "VBX01" in world.psql(address, place.team, place.tenant, "ALTER TABLE b DROP two").run().stderr
    world.postgres.query("DELETE FROM vaultbrix.additive_role WHERE role_name = %s", [place.role])
    world.operator.kill()
    world.operator.start()
    wait_for("it may add again", lambda: add("three") == "", tell=lambda: world.operator.text()[-2000:])
    world.tenant(place.team, name=place.tenant)
    wait_for("it may not", lambda: "VBX01" in add(f"f{next(numbers)}"))
    dropping = world.psql(address, place.team, place.tenant, "CREATE TABLE IF NOT EXISTS made()", "DROP TABLE made")
    assert "VBX01" in dropping.run().stderr
    world.tenant(place.team, name=place.tenant, ddlPolicy={"rebuildable": ["made*"]})
    wait_for("it may drop what it makes", lambda: "VBX01" not in dropping.run().stderr)
    assert "VBX01" in world.psql(address, place.team, place.tenant, "DROP TABLE b").run().stderr


def test_an_approval_that_nobody_ran_leaves_nothing_when_its_namespace_is_gone(world: World) -> None:
    place = TenantWithTables(world)
    made = submit(world, place.team, "gone", place.tenant, "DROP TABLE b")
    own = submit(world, place.team, "own", place.tenant, "DROP TABLE b", execution="Session")
    for approval in (made, own):
        approval.decide()
    made.await_job()
    wait_for("the tenant may run it", lambda: own.condition("PassIssued").get("status") == "True", tell=own.tell)
    uids = [made.uid, own.uid]
    world.operator.kill()
    for name in ("gone", "own"):
        world.api.patch("ddl", name, place.team, {"metadata": {"finalizers": []}})
        world.api.delete("ddl", name, place.team)
    world.operator.start()
    login = f"vaultbrix_d_{uids[0].replace('-', '')}"
    passes = "SELECT 1 FROM vaultbrix.ddl_pass WHERE pass_id = ANY (%s::uuid[]) AND revoked_at IS NULL"
    wait_for(
        "login and passes are swept",
        lambda: (
            not world.postgres.query("SELECT 1 FROM pg_roles WHERE rolname = %s", [login])
            and not world.postgres.query(passes, [uids])
        ),
        patience=90,
        tell=lambda: world.operator.text()[-3000:],
    )
