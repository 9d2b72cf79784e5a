"""How long a revoked session lives while PostgreSQL is in trouble, beside the same without trouble in the same run.

``make bench-harm`` prints a table and writes tests/bench/results/harm.json. All sessions come from one address, so that
each end has to tell its own session from its neighbours'.
"""

import json
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from tests.harness import troubles
from tests.harness.bench import results
from tests.harness.bench.api import Api
from tests.harness.bench.clients import Clients, conninfo, percentiles
from tests.harness.shell import wait_for
from tests.harness.world import World, rule

TRIES = 40
ADDRESS = "203.0.113.7"


def backends(world: World) -> list[int]:
    return [
        pid for (pid,) in world.postgres.query("SELECT pid FROM pg_stat_activity WHERE usename LIKE 'tenant\\_%%'", [])
    ]


def troubled(world: World, trouble: str) -> AbstractContextManager[None]:
    match trouble:
        case "locktable_full":
            return troubles.locks_taken(world)
        case "connections_full":
            return troubles.connections_taken(world)
        case "postmaster_stopped":
            return troubles.stopped(world.postgres.process.pid)
        case "backend_stopped":
            return troubles.stopped(*backends(world))
    return nullcontext()


def revoked(
    world: World, clients: Clients, team: str, tenants: list[str], trouble: str
) -> tuple[list[float], list[float]]:
    """Seconds from the deletion of a rule until its session is dead, one after the other, and until it is answered.

    What the API server takes for its answer is in the first, too: nobody ends a session before it has told of it.
    """
    api = Api(world)
    path = f"/apis/vaultbrix.com/v1alpha1/namespaces/{team}/accessrules"
    for tenant in tenants:
        api("POST", path, rule(team, tenant, tenant, f"{ADDRESS}/32"))
    sessions = [clients.start("session", conninfo=conninfo(world, team, tenant)) for tenant in tenants]
    for session in sessions:
        clients.when(session, "in")
    # The agent has looked at all of them.
    time.sleep(6)
    ended, answered = [], []
    # A connection that waited for all that may have been closed.
    api = Api(world)
    with troubled(world, trouble):
        for tenant, session in zip(tenants, sessions, strict=True):
            begun = time.time()
            api("DELETE", f"{path}/{tenant}")
            answered.append(time.time() - begun)
            ended.append(clients.when(session, "out") - begun)
            time.sleep(0.2)
    return ended, answered


def repaired(world: World, tenant: str) -> float:
    """Seconds until a role that somebody changed is as specified again."""
    role = f"tenant_{tenant.replace('-', '_')}"
    begun = time.time()
    world.postgres.query(f"ALTER ROLE {role} CREATEDB")

    def is_right() -> bool:
        ((wrong,),) = world.postgres.query("SELECT rolcreatedb FROM pg_roles WHERE rolname = %s", [role])
        return not wrong

    wait_for("it is as specified", is_right, pause=0.01)
    return time.time() - begun


@pytest.mark.timeout(3600)
def test_harm(world: World) -> None:
    clients = Clients(world, ADDRESS)
    team = world.team()
    tenants = [world.tenant(team, wait=False) for _ in range(TRIES)]
    for tenant in tenants:
        world.api.await_condition("tenant", tenant, team, patience=120)
    figures: dict[str, Any] = {}
    for trouble in ("untroubled", "locktable_full", "connections_full", "backend_stopped", "postmaster_stopped"):
        ended, answered = revoked(world, clients, team, tenants, trouble)
        figures[f"revoke_{trouble}_ms"] = percentiles(ended)
        figures[f"revoke_{trouble}_answered_ms"] = percentiles(answered)
        print(json.dumps(figures), flush=True)
        world.heal()
    clients.stop()
    figures["drift_repaired_ms"] = percentiles([repaired(world, tenants[number]) for number in range(TRIES)])
    results.keep("harm", figures)
    print(f"\n{'revoked → session dead, and drift':<38}{'p50 ms':>9}{'p99 ms':>9}")
    for name, figure in figures.items():
        print(f"{name:<38}{figure['p50']:>9}{figure['p99']:>9}")
