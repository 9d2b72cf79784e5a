"""An agent that dies right after each of its side effects: nothing outlives its rule, and nothing open is lost."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.harness import die_after_step, troubles
from tests.harness.direct_access import held_session, is_reset
from tests.harness.greedy_tenant import MANY_LOCKS, Attack
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.world import World, in_seconds, rule

BEGINNING = ["remembered", "pg_hba.conf written", "PostgreSQL told to reload"]
OPENING = [*BEGINNING, "let in by the kernel", "load confirmed", "reported"]
ENDING = ["shut out by the kernel", "connections listed", "sessions listed", "sessions ended"]
ASKING = ["sessions listed", "sessions ended"]
CLOSING = [*BEGINNING, *ENDING, "load confirmed", "reported"]
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

    def dies(self, step: str, action: Callable[[], object], done: Callable[[], bool] = lambda: False) -> None:
        """Have the agent die after that step of what the action brings about, and start it again.

        Where what is ``done`` came about without that step, it is killed then.
        """
        agent = self.world.agent
        self.trap.write_text(step)
        action()
        wait_for(f"it dies when {step}", lambda: not agent.running or done(), patience=60, tell=agent.text)
        agent.kill()
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
    # On a busy machine PostgreSQL may be too slow to be asked, and the kernel ends the session alone.
    done = (lambda: not guest.running) if step in ASKING else (lambda: False)
    if end == "revoked":
        revoked = rule(team, name, scene.guest, f"{GUEST}/32", revoked=True, **terms)
        scene.dies(step, lambda: world.api.apply(revoked), done)
    else:
        scene.dies(step, lambda: None, done)
    wait_for("the guest's session has ended", lambda: not guest.running, tell=world.agent.text)
    wait_for("the guest is out", lambda: is_reset(world, GUEST))
    told = world.api.await_condition("accessrule", name, team, type_="Enforced", status="False", patience=60)
    assert told["reason"] == "Closed"
    assert f'"tenant_{scene.guest.replace("-", "_")}"' not in world.postgres.hba_file.read_text()
    assert scene.session.running


@pytest.mark.parametrize("step", ["sessions looked at", "sessions that take too much ended", "reported"])
def test_an_agent_that_dies_while_it_ends_who_takes_too_much_goes_on_where_it_was(scene: Scene, step: str) -> None:
    world = scene.world
    name = world.rule(scene.team, scene.guest, f"{GUEST}/32")
    world.api.await_condition("accessrule", name, scene.team)
    attacks: list[Attack] = []

    def attack() -> None:
        attacks.append(Attack(world, GUEST, scene.team, scene.guest, MANY_LOCKS))
        attacks[0].__enter__()

    try:
        scene.dies(step, attack)
        before = attacks[0].ended
        wait_for("it was ended", lambda: attacks[0].ended > before, tell=world.agent.text)
        wait_for("it is told", lambda: told(world, scene.team, name) > 0, tell=world.agent.text)
    finally:
        attacks[0].__exit__(None, None, None)
    world.api.delete("accessrule", name, scene.team)
    wait_for("the guest is out", lambda: is_reset(world, GUEST))
    assert scene.session.running


def told(world: World, team: str, name: str) -> int:
    """How many sessions of a rule the watchdog has ended, as the agent reports."""
    return sum(agent["endedByWatchdog"] for agent in world.api.get("accessrule", name, team)["status"]["agents"])


@pytest.mark.parametrize("step", ["sessions ended", "connections cut"])
def test_an_agent_that_dies_while_a_backend_does_not_end_still_ends_its_session(scene: Scene, step: str) -> None:
    world, team = scene.world, scene.team
    name = f"stuck-{step.split(maxsplit=1)[0]}"
    world.rule(team, scene.guest, f"{GUEST}/32", name=name)
    world.api.await_condition("accessrule", name, team)
    guest = held_session(world, GUEST, team, scene.guest, name)
    role = f"tenant_{scene.guest.replace('-', '_')}"
    ((backend,),) = world.postgres.query("SELECT pid FROM pg_stat_activity WHERE usename = %s", [role])
    with troubles.stopped(int(backend)):
        revoked = rule(team, name, scene.guest, f"{GUEST}/32", revoked=True)
        scene.dies(step, lambda: world.api.apply(revoked), lambda: not guest.running)
        wait_for("the guest's session has ended", lambda: not guest.running, tell=world.agent.text)
    assert scene.session.running


@pytest.mark.parametrize("trouble", ["locks", "connections"])
def test_an_agent_that_comes_back_while_nobody_can_log_in_ends_what_has_ended(scene: Scene, trouble: str) -> None:
    world, team = scene.world, scene.team
    world.rule(team, scene.guest, f"{GUEST}/32", name=trouble)
    world.api.await_condition("accessrule", trouble, team)
    guest = held_session(world, GUEST, team, scene.guest, trouble)
    scene.trap.write_text("remembered")
    world.api.apply(rule(team, trouble, scene.guest, f"{GUEST}/32", revoked=True))
    wait_for("it dies", lambda: not world.agent.running, tell=world.agent.text)
    scene.trap.unlink()
    taken = troubles.locks_taken if trouble == "locks" else troubles.connections_taken
    with taken(world):
        # Its connection to PostgreSQL died with it, and it gets no other.
        world.agent.start()
        wait_for("the guest's session has ended", lambda: not guest.running, tell=world.agent.text)
        assert scene.session.running
    wait_for("the guest is out", lambda: is_reset(world, GUEST))
