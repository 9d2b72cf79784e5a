"""A migration tool as a client on the internet: let in by a rule, held by the gate, cut off with the rule."""

from pathlib import Path

from tests.harness.approvals import submit
from tests.harness.migration_project import Project
from tests.harness.migration_tools import Alembic
from tests.harness.network import SERVER
from tests.harness.shell import wait_for
from tests.harness.tool_client import Login
from tests.harness.world import JANE, PORT, World


def test_tool_migrates_through_a_rule_from_its_address_and_is_held_by_the_gate(world: World, tmp_path: Path) -> None:
    team = world.team()
    tenant = world.tenant(team)
    secret = world.secret(team, f"{tenant}-db")
    client = tuple(world.network.inside(world.network.client(JANE), []))
    authority = world.postgres.authority
    login = Login(SERVER, PORT, secret["username"], secret["password"], authority, "verify-ca", client)
    project = Project(world.postgres, Alembic(tmp_path, login))
    project.tool.release(1)
    outside = project.tool.migrate()
    assert "Connection refused" in outside.stderr
    rule = world.rule(team, tenant, f"{JANE}/32")
    world.api.await_condition("ar", rule, team)
    project.migrated()
    project.tool.release(3)
    assert "requires an approved DDLApproval" in project.tool.migrate().stderr
    approval = submit(world, team, "drop", tenant, project.tool.text(3), execution="Session")
    assert any("obsolete" in name for name in approval.rehearsed()["drops"])
    approval.decide()
    wait_for("the tenant may run it", lambda: approval.condition("PassIssued").get("status") == "True")
    project.migrate()
    assert not project.state().obsolete
    approval.phase("Succeeded")
