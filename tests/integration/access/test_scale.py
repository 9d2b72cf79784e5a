"""Many objects at once: all are enforced, and all are gone when they are deleted. 10,000 in ``make soak``."""

import pytest
from tests.harness.shell import run, wait_for
from tests.harness.world import World, rule

# As many as a tenant may have by default.
RULES_OF_A_TENANT = 50


def entries(world: World) -> int:
    """How many of the test's addresses the kernel lets in."""
    saved = run(*world.network.inside("server", ["ipset", "save", "vbx-allow4"])).stdout
    return saved.count("add vbx-allow4 198.18.")


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])
def test_many_rules_open_together_and_close_together(world: World, count: int) -> None:
    team = world.team()
    tenants = [world.tenant(team, wait=False) for _ in range(count // RULES_OF_A_TENANT)]
    path = f"/apis/vaultbrix.com/v1alpha1/namespaces/{team}/accessrules"
    for number in range(count):
        address = f"198.18.{number // 250}.{number % 250 + 1}/32"
        tenant = tenants[number // RULES_OF_A_TENANT]
        world.api.request("POST", path, rule(team, f"many-{number}", tenant, address))
    wait_for("all are open in the kernel", lambda: entries(world) == count, patience=60 + count / 10, pause=0.5)
    block = world.postgres.hba_file.read_text()
    assert block.count(" 198.18.") == count
    for number in (0, count // 2, count - 1):
        world.api.await_condition("accessrule", f"many-{number}", team, patience=60 + count / 10)
    world.api.request("DELETE", path)
    wait_for("all are closed in the kernel", lambda: entries(world) == 0, patience=60 + count / 10, pause=0.5)
    assert " 198.18." not in world.postgres.hba_file.read_text()
