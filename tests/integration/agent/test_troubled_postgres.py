"""A session ends with its rule though PostgreSQL helps nobody; a neighbour's from the same address goes on."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg
import pytest
from tests.harness import troubles
from tests.harness.direct_access import held_session
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.world import World, in_seconds, rule, server

# One address for both, as behind a NAT.
SHARED = "203.0.113.150"


@dataclass
class Scene:
    """Two tenants with a rule and a session each, both from one address."""

    world: World
    team: str
    guest: str
    neighbour: str
    session: Process
    neighbours: Process
    backend: int

    @property
    def role(self) -> str:
        return f"tenant_{self.guest.replace('-', '_')}"

    def revoke(self) -> float:
        """Revoke the guest's rule; returns when."""
        begun = time.time()
        self.world.api.apply(rule(self.team, self.guest, self.guest, f"{SHARED}/32", revoked=True))
        return begun

    def expire(self, seconds: float) -> float:
        """Let the guest's rule end so soon; returns when."""
        at = in_seconds(seconds)
        self.world.api.apply(rule(self.team, self.guest, self.guest, f"{SHARED}/32", expiresAt=at))

        def known() -> bool:
            status = self.world.api.get("accessrule", self.guest, self.team)["status"]
            return datetime.fromisoformat(status["expiresAt"]) == datetime.fromisoformat(at)

        wait_for("the deadline is known", known)
        return datetime.fromisoformat(at).timestamp()

    def ends(self, begun: float, what: str) -> None:
        """The guest's client is cut off, and only that one."""
        wait_for("the guest is cut off", lambda: not self.session.running, pause=0.005, tell=self.world.agent.text)
        print(f"\n{what}: {(time.time() - begun) * 1000:.0f} ms until psql has ended")
        assert self.neighbours.running, "another rule lets the neighbour in"

    def is_gone(self) -> bool:
        """Whether PostgreSQL has no session of the guest's any more, and room to say so."""
        try:
            return not self.world.postgres.query("SELECT FROM pg_stat_activity WHERE usename = %s", [self.role])
        except psycopg.OperationalError:
            return False


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    yield from scenes(world)


def scenes(world: World) -> Generator[Scene, None, None]:
    """The one scene; its clients end when it is left."""
    team = world.team()
    guest, neighbour = world.tenant(team), world.tenant(team)
    for tenant in (guest, neighbour):
        world.rule(team, tenant, f"{SHARED}/32", name=tenant)
        world.api.await_condition("accessrule", tenant, team)
    neighbours = held_session(world, SHARED, team, neighbour, "neighbour")
    session = held_session(world, SHARED, team, guest, "guest")
    made = Scene(world, team, guest, neighbour, session, neighbours, 0)
    ((made.backend,),) = world.postgres.query("SELECT pid FROM pg_stat_activity WHERE usename = %s", [made.role])
    # What the agent knows of the sessions when PostgreSQL says no more.
    wait_for("the agent has seen both", lambda: counted(made) == 2)
    try:
        yield made
    finally:
        for process in (session, neighbours):
            process.kill()


def counted(scene: Scene) -> int:
    """Open sessions that the agent tells of both rules."""
    agents = [
        agent
        for tenant in (scene.guest, scene.neighbour)
        for agent in scene.world.api.get("accessrule", tenant, scene.team)["status"].get("agents", ())
    ]
    return sum(agent["openSessions"] for agent in agents)


@contextmanager
def own_locks(scene: Scene) -> Iterator[None]:
    """The guest itself holds all locks, and may."""
    scene.world.api.apply(server(limits={"session": {"maxLocks": 10_000_000}}))
    try:
        scene.session.kill()
        wait_for("the earlier session is gone", scene.is_gone)
        scene.session = scene.world.psql(SHARED, scene.team, scene.guest, troubles.HOLDS_ALL_LOCKS).hold(
            scene.world.directory / "locks.log"
        )
        wait_for("nobody can log in", lambda: not troubles.can_log_in(scene.world), tell=scene.session.text)
        yield
    finally:
        scene.world.api.apply(server())


Trouble = Callable[[Scene], AbstractContextManager[None]]
TROUBLES: dict[str, Trouble] = {
    "the lock table is full": lambda scene: troubles.locks_taken(scene.world),
    "the guest holds all locks": own_locks,
    "all connections are taken": lambda scene: troubles.connections_taken(scene.world),
    "the backend is stopped": lambda scene: troubles.stopped(scene.backend),
    "the postmaster is stopped": lambda scene: troubles.stopped(scene.world.postgres.process.pid),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_revoked_session_ends_though(scene: Scene, trouble: str) -> None:
    with TROUBLES[trouble](scene):
        scene.ends(scene.revoke(), f"revoked, {trouble}")
    wait_for("its backend has ended too", scene.is_gone)
    assert not scene.world.psql(SHARED, scene.team, scene.guest, "SELECT 1").works()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_session_ends_at_its_deadline_though(scene: Scene, trouble: str) -> None:
    if trouble == "the guest holds all locks":
        with TROUBLES[trouble](scene):
            scene.ends(scene.expire(5), f"expired, {trouble}")
    else:
        at = scene.expire(10)
        with TROUBLES[trouble](scene):
            scene.ends(at, f"expired, {trouble}")
    wait_for("its backend has ended too", scene.is_gone)
    assert not scene.world.psql(SHARED, scene.team, scene.guest, "SELECT 1").works()


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_session_ends_though_the_disk_is_full(world: World, end: str) -> None:
    with troubles.small_disk(world) as disk:
        made = next(scene := scenes(world))
        at = made.expire(10) if end == "expired" else None
        disk.fill()
        made.ends(at or made.revoke(), f"{end}, the disk is full")
        scene.close()


def test_what_was_revoked_stays_ended_when_postgresql_dies_meanwhile(scene: Scene) -> None:
    postgres = scene.world.postgres
    with troubles.stopped(scene.backend):
        scene.revoke()
        postgres.crash()
    postgres.start()
    wait_for("the guest is cut off", lambda: not scene.session.running, tell=scene.world.agent.text)
    assert not scene.world.psql(SHARED, scene.team, scene.guest, "SELECT 1").works()
    assert scene.world.psql(SHARED, scene.team, scene.neighbour, "SELECT 1").works()
