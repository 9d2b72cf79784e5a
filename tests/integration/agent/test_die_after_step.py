"""An agent that dies right after each of its side effects: nothing outlives its rule, and nothing open is lost."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.harness import die_after_step
from tests.harness.direct_access import held_session, is_reset
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.world import World, in_seconds, rule

BEGINNING = ["remembered", "pg_hba.conf written", "PostgreSQL told to reload"]
OPENING = [*BEGINNING, "let in by the kernel", "load confirmed", "reported"]
CLOSING = [*BEGINNING, "shut out by the kernel", "sessions ended", "load confirmed", "reported"]
BYSTANDER, GUEST = "203.0.113.60", "203.0.113.61"


@dataclass(frozen=True)
class Scene:
    """Two tenants: one whose rule is open all the time with a session, and one whose rule comes and goes."""

    world: World
    team: str
    bystander: str
    guest: str
    session: Process
    trap: Path

    def dies(self, step: str, action: Callable[[], object]) -> None:
        """Have the agent die after that step of what the action brings about, and start it again."""
        self.trap.write_text(step)
        action()
        wait_for(f"it dies when {step}", lambda: not self.world.agent.running, tell=self.world.agent.text)
        self.trap.unlink()
        # A connection of the bystander never depends on the agent.
        assert self.session.running
        assert self.world.psql(BYSTANDER, self.team, self.bystander, "SELECT 1").works()
        self.world.agent.start()


@pytest.fixture(scope="module")
def mortal(running: World) -> Iterator[tuple[World, Path]]:
    """The world with an agent that dies when a file says so."""
    world = running
    world.heal()
    trap = world.directory / "trap"
    command = list(world.agent.command)
    at = command.index("agent")
    world.agent.stop()
    world.agent.command[at - 3 : at] = [sys.executable, die_after_step.__file__, str(trap)]
    world.agent.start()
    yield world, trap
    trap.unlink(missing_ok=True)
    world.agent.stop()
    world.agent.command[:] = command
    world.heal()


@pytest.fixture(scope="module")
def scene(mortal: tuple[World, Path]) -> Iterator[Scene]:
    world, trap = mortal
    team = world.team()
    bystander, guest = world.tenant(team), world.tenant(team)
    name = world.rule(team, bystander, f"{BYSTANDER}/32")
    world.api.await_condition("accessrule", name, team)
    session = held_session(world, BYSTANDER, team, bystander, "bystander")
    yield Scene(world, team, bystander, guest, session, trap)
    session.kill()


@pytest.mark.parametrize("step", OPENING)
def test_an_agent_that_dies_while_it_opens_goes_on_where_it_was(scene: Scene, step: str) -> None:
    world = scene.world
    scene.dies(step, lambda: world.rule(scene.team, scene.guest, f"{GUEST}/32", name="guest"))
    world.api.await_condition("accessrule", "guest", scene.team)
    assert world.psql(GUEST, scene.team, scene.guest, "SELECT 1").works()
    world.api.delete("accessrule", "guest", scene.team)
    wait_for("the guest is out", lambda: is_reset(world, GUEST))


@pytest.mark.parametrize("step", CLOSING)
@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_an_agent_that_dies_while_it_closes_leaves_nothing_open(scene: Scene, step: str, end: str) -> None:
    world, team = scene.world, scene.team
    name = f"{end}-{CLOSING.index(step)}"
    terms = {"expiresAt": in_seconds(15)} if end == "expired" else {"ttl": "1h"}
    world.rule(team, scene.guest, f"{GUEST}/32", name=name, **terms)
    world.api.await_condition("accessrule", name, team)
    guest = held_session(world, GUEST, team, scene.guest, name)
    if end == "revoked":
        scene.dies(step, lambda: world.api.apply(rule(team, name, scene.guest, f"{GUEST}/32", revoked=True, **terms)))
    else:
        scene.dies(step, lambda: None)
    wait_for("the guest's session has ended", lambda: not guest.running, tell=world.agent.text)
    wait_for("the guest is out", lambda: is_reset(world, GUEST))
    told = world.api.await_condition("accessrule", name, team, type_="Enforced", status="False")
    assert told["reason"] == "Closed"
    assert f'"tenant_{scene.guest.replace("-", "_")}"' not in world.postgres.hba_file.read_text()
    assert scene.session.running
