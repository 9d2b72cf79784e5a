"""Whoever takes locks without end, and comes back as soon as it was ended, never costs another tenant a login."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.harness.hoarding import KINDS, Hoarding, busy_machine, logins, many_tables
from tests.harness.shell import wait_for
from tests.harness.world import SERVER_NAME, World, server

GREEDY = tuple(f"203.0.113.{number}" for number in range(150, 156))
NEIGHBOUR = "203.0.113.160"
SESSIONS = 50
LOGINS = 20
# Within the limit of a tenant; so many tenants hold more than all may together.
WITHIN = ("SELECT count(pg_advisory_lock(pg_backend_pid(), i)) FROM generate_series(1, 9900) i", "SELECT pg_sleep(600)")


@dataclass(frozen=True)
class Scene:
    """Tenants without measure, each with an address of its own, and one that logs in."""

    world: World
    team: str
    greedy: tuple[str, ...]
    neighbour: str

    def hoarding(self, number: int, statements: tuple[str, ...], sessions: int) -> Hoarding:
        """One of the tenants without measure, with so many sessions that send these."""
        return Hoarding(self.world, GREEDY[number], self.team, self.greedy[number], statements, sessions)

    def neighbour_is_never_refused(self, *attacks: Hoarding) -> None:
        """It logs in again and again, while sessions of the others end again and again."""
        said = logins(self.world, NEIGHBOUR, self.team, self.neighbour, LOGINS)
        print({"refused": said["refused"], "slowest": max(said["seconds"]), "ended": [a.ended for a in attacks]})
        assert said["refused"] == 0, said["said"]
        for attack in attacks:
            wait_for("its sessions were ended", lambda a=attack: a.ended["57P01"], tell=self.world.agent.text)

    def the_table_never_fills(self, *attacks: Hoarding) -> None:
        """So long as there is a processor for the watchdog when it is due, which tests beside this one may take."""
        self.neighbour_is_never_refused(*attacks)
        assert not any(attack.ended["53200"] for attack in attacks), "the lock table was full"


@pytest.fixture(scope="module")
def scene(running: World) -> Iterator[Scene]:
    running.heal()
    running.clear()
    running.api.apply(server(limits={"maxRulesPerTenant": 1000}))
    team = running.team()
    greedy = tuple(running.tenant(team, connectionLimit=SESSIONS) for _ in GREEDY)
    neighbour = running.tenant(team)
    for tenant, address in zip((*greedy, neighbour), (*GREEDY, NEIGHBOUR), strict=True):
        running.api.await_condition("accessrule", running.rule(team, tenant, f"{address}/32"), team)
    with many_tables(running):
        yield Scene(running, team, greedy, neighbour)
    running.api.apply(server())
    running.heal()


def test_a_neighbour_gets_in_whatever_else_the_machine_does(scene: Scene) -> None:
    with scene.hoarding(0, KINDS["shared"], SESSIONS) as attack:
        scene.neighbour_is_never_refused(attack)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_many_sessions_that_come_back_at_once(scene: Scene, kind: str) -> None:
    with scene.hoarding(0, KINDS[kind], SESSIONS) as attack:
        scene.the_table_never_fills(attack)


@pytest.mark.soak
@pytest.mark.parametrize("sessions", [1, 2])
def test_few_sessions_that_have_the_machine_for_themselves(scene: Scene, sessions: int) -> None:
    with scene.hoarding(0, KINDS["advisory"], sessions) as attack:
        scene.the_table_never_fills(attack)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["advisory", "shared"])
def test_a_machine_that_is_busy_with_something_else(scene: Scene, kind: str) -> None:
    with busy_machine(2), scene.hoarding(0, KINDS[kind], SESSIONS) as attack:
        scene.the_table_never_fills(attack)


@pytest.mark.soak
def test_several_tenants_at_once(scene: Scene) -> None:
    with (
        scene.hoarding(0, KINDS["advisory"], 15) as first,
        scene.hoarding(1, KINDS["shared"], 15) as second,
        scene.hoarding(2, KINDS["subtransactions"], 15) as third,
    ):
        scene.the_table_never_fills(first, second, third)


def test_tenants_that_are_each_within_their_limit_are_not_together_beyond_what_all_may(scene: Scene) -> None:
    attacks = [scene.hoarding(number, WITHIN, 1) for number in range(len(GREEDY))]
    entered: list[Hoarding] = []

    def told() -> str:
        (agent,) = scene.world.api.get("pgs", SERVER_NAME, "")["status"]["agents"]
        ended = agent.get("watchdog", {}).get("ended", [])
        return "".join(e["message"] for e in ended if e["limit"] == "lock table")

    try:
        for attack in attacks:
            entered.append(attack.__enter__())
        said = logins(scene.world, NEIGHBOUR, scene.team, scene.neighbour, LOGINS)
        assert said["refused"] == 0, said["said"]
        message = wait_for("the server's status tells", told, tell=scene.world.agent.text)
        assert "while all tenants hold 5" in message
        assert "(limit 51,200)" in message
    finally:
        for attack in entered:
            attack.__exit__()
