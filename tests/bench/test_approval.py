"""What the admission policies cost a write, and how long an approved rule takes to let somebody in.

``make bench-approval`` prints a table and writes tests/bench/results/approval.json. Policies are on and off in turn, in
the same run; what is written is an AccessRule, on which most of them look.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness.bench import results
from tests.harness.bench.api import Api
from tests.harness.bench.clients import Clients, conninfo, percentiles
from tests.harness.policed import TESTER, Policed, policed_world
from tests.harness.shell import wait_for
from tests.harness.world import World, rule

WRITES = int(os.environ.get("VAULTBRIX_BENCH_WRITES", "300"))
ROUNDS = 3
APPROVALS = int(os.environ.get("VAULTBRIX_BENCH_APPROVALS", "100"))
ADDRESS = "203.0.113.7"


@pytest.fixture(scope="module")
def policed(world: World) -> Iterator[Policed]:
    with policed_world(world) as made:
        yield made


class Team:
    """A namespace with a tenant, written to over one connection."""

    def __init__(self, policed: Policed) -> None:
        self.api, self.team, self.tenant = Api(policed.world), policed.place.team, policed.place.tenant
        self.path = f"/apis/vaultbrix.com/v1alpha1/namespaces/{self.team}/accessrules"

    def write_seconds(self, prefix: str) -> list[float]:
        """How long each of many writes takes: a rule that has ended is created, changed and deleted."""
        taken = []
        for number in range(WRITES):
            name = f"{prefix}-{number}"
            body = rule(self.team, name, self.tenant, f"{ADDRESS}/32", expiresAt="2026-01-01T00:00:00Z")
            for method, path, content in (
                ("POST", self.path, body),
                ("PATCH", f"{self.path}/{name}", {"spec": {"cidrs": ["203.0.113.8/32"]}}),
                ("DELETE", f"{self.path}/{name}", None),
            ):
                begun = time.perf_counter()
                self.api(method, path, content)
                taken.append(time.perf_counter() - begun)
        return taken


def switch(policed: Policed, *, on: bool) -> None:
    """Have the policies there or not, and wait until the API server goes by that."""
    if on:
        policed.install()
    else:
        policed.remove()
    place, api = policed.place, policed.world.api
    # No people write a status.
    write = ("patch", "tenant", place.tenant, "-n", place.team, "--subresource=status", "--type=merge", "-p")
    change = '{"status": {"observedGeneration": 99}}'
    wait_for(
        "it is seen",
        lambda: ("denied request" in api.kubectl(*write, change, "--dry-run=server", check=False)) is on,
        tell=lambda: api.kubectl(*write, change, "--dry-run=server", check=False),
    )


@pytest.mark.timeout(1800)
def test_what_admission_costs_a_write(policed: Policed) -> None:
    world, team = policed.world, Team(policed)
    world.operator.stop()
    world.agent.stop()
    taken: dict[str, list[float]] = {"on": [], "off": []}
    try:
        for number in range(ROUNDS):
            for state in taken:
                switch(policed, on=state == "on")
                taken[state] += team.write_seconds(f"{state}-{number}")
    finally:
        switch(policed, on=True)
        world.heal()
    figures = {f"admission_{state}_ms": percentiles(seconds) for state, seconds in taken.items()}
    results.keep("approval", figures)
    for name, value in figures.items():
        print(f"{name:24} {value}")


@pytest.mark.timeout(1800)
def test_from_the_approval_to_the_open_door(policed: Policed) -> None:
    world, team = policed.world, Team(policed)
    policed.enforced("True", patience=90)
    policed.want("Required")
    clients = Clients(world, ADDRESS)
    opened: list[float] = []
    where = conninfo(world, team.team, team.tenant)
    for number in range(APPROVALS):
        name = f"asked-{number}"
        team.api("POST", team.path, rule(team.team, name, team.tenant, f"{ADDRESS}/32", requestedBy="jane@example.com"))
        shown = wait_for("it is shown", lambda n=name: sha256(world, team, n))
        client = clients.start("session", conninfo=where)
        time.sleep(0.05)
        decision = {"verdict": "Approved", "by": TESTER, "sha256": shown}
        begun = time.time()
        team.api("PATCH", f"{team.path}/{name}", {"spec": {"decision": decision}})
        opened.append(clients.when(client, "in") - begun)
        team.api("DELETE", f"{team.path}/{name}")
        clients.when(client, "out")
    policed.want("None")
    figures = {"approved_to_open_ms": percentiles(opened)}
    results.keep("approval", figures)
    print(f"{'approved_to_open_ms':24} {figures['approved_to_open_ms']}")


def sha256(world: World, team: Team, name: str) -> Any:
    """What the status shows to decide on, once it is there."""
    return world.api.get("accessrule", name, team.team).get("status", {}).get("sha256")
