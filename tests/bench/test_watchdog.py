"""What the watchdog costs with 1,000 sessions, and how a neighbour logs in while one tenant takes all it can get.

``make bench-harm`` prints them and writes tests/bench/results/harm.json.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from tests.harness.bench import results
from tests.harness.bench.clients import Clients, conninfo, percentiles
from tests.harness.bench.usage import cpu_seconds
from tests.harness.greedy_tenant import ALL_LOCKS, LOG_FLOOD, TEMPORARY_FILES, Attack
from tests.harness.shell import TOP, run, wait_for
from tests.harness.world import World, server

SESSIONS = 1_000
SESSIONS_OF_A_TENANT = 40
MEASURED_SECONDS = 25
LOGINS = 100
CONNECTIONS_AT_ONCE = 100
GREEDY, NEIGHBOUR = "203.0.113.150", "203.0.113.152"
# The last part of the first address of the crowd.
CROWD = 160


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    try:
        world.start()
        world.postgres.query("ALTER SYSTEM SET max_connections = 1200")
        world.postgres.stop()
        world.postgres.start()
        session = {"maxLocks": 10_000, "maxTempSpace": "200Mi", "maxLogPerMinute": "1Gi"}
        limits = {"maxRulesPerTenant": 1000, "session": session}
        world.api.apply(server(limits=limits))
        world.heal()
        yield world
    finally:
        world.stop()


def with_rule(world: World, team: str, address: str, **spec: Any) -> str:
    """A tenant that is let in from an address."""
    tenant = world.tenant(team, **spec)
    world.api.await_condition("accessrule", world.rule(team, tenant, f"{address}/32"), team)
    return tenant


def login_ms(world: World, where: str) -> dict[str, float]:
    script = str(TOP / "tests/harness/bench/logins.py")
    world.network.client(NEIGHBOUR)
    said = run(*world.network.inside(NEIGHBOUR, [sys.executable, script, where, str(LOGINS)]), timeout=600).stdout
    logins = json.loads(said)
    return {**percentiles(logins["seconds"]), "refused": logins["refused"]}


def cpu_percent(world: World) -> dict[str, float]:
    """Processor time of the whole agent, and of the watchdog's backend in PostgreSQL, in percent of one processor."""
    while True:
        backend = watching(world)
        before, begun = (cpu_seconds([world.agent.pid]), cpu_seconds([backend])), time.monotonic()
        time.sleep(MEASURED_SECONDS)
        # Another connection takes its place every minute.
        if watching(world) == backend:
            break
    spent = time.monotonic() - begun
    after = (cpu_seconds([world.agent.pid]), cpu_seconds([backend]))
    agent, postgres = (round(100 * (b - a) / spent, 2) for a, b in zip(before, after, strict=True))
    return {"agent": agent, "postgresql": postgres}


def watching(world: World) -> int:
    """The process of the watchdog's connection."""
    (pid, *_) = world.postgres.query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'vaultbrix-watchdog' ORDER BY backend_start DESC"
    )
    return int(pid[0])


@pytest.mark.timeout(3600)
def test_watchdog(world: World) -> None:
    team = world.team()
    neighbour = conninfo(world, team, with_rule(world, team, NEIGHBOUR))
    greedy = with_rule(world, team, GREEDY, connectionLimit=500)
    logins = {"calm": login_ms(world, neighbour)}
    under_attack: dict[str, Any] = {}
    attacks = {"locks": ALL_LOCKS, "temporary files": TEMPORARY_FILES, "log": LOG_FLOOD}
    for name, statements in attacks.items():
        with Attack(world, GREEDY, team, greedy, statements) as attack:
            wait_for("it was ended once", lambda a=attack: a.ended, patience=120, tell=world.agent.text)
            under_attack[name] = login_ms(world, neighbour)
        assert attack.ended
    with crowding(world, conninfo(world, team, greedy)):
        under_attack["connections"] = login_ms(world, neighbour)
    keep({"neighbour_login_ms": {**logins, "under_attack": under_attack}})
    cpu = {"0 sessions": cpu_percent(world)}
    with crowd(world, team):
        cpu[f"{SESSIONS:,} sessions"] = cpu_percent(world)
    keep({"watchdog_cpu_percent": cpu})


def keep(figures: dict[str, Any]) -> None:
    """Print figures, and leave them beside those of others."""
    results.keep("harm", figures)
    print(json.dumps(figures, indent=1), flush=True)


@contextmanager
def crowding(world: World, where: str) -> Iterator[None]:
    """A tenant that connects far more often than it may, and again at once."""
    clients, over = Clients(world, GREEDY), threading.Event()

    def connect() -> None:
        while not over.is_set():
            for _ in range(CONNECTIONS_AT_ONCE):
                clients.start("session", conninfo=where)
            over.wait(1)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        clients.stop()


@contextmanager
def crowd(world: World, team: str) -> Iterator[None]:
    """SESSIONS open sessions, of many tenants, that sleep; from many addresses, each of which may have a hundred."""
    with ExitStack() as open_:
        for number in range(SESSIONS // SESSIONS_OF_A_TENANT):
            address = f"203.0.113.{CROWD + number}"
            where = conninfo(world, team, with_rule(world, team, address, connectionLimit=SESSIONS_OF_A_TENANT))
            clients = Clients(world, address)
            open_.callback(clients.stop)
            for _ in range(SESSIONS_OF_A_TENANT):
                clients.start("session", conninfo=where)
        wait_for("all are in", lambda: sleeping(world) == SESSIONS, patience=300, pause=1)
        yield


def sleeping(world: World) -> int:
    ((count,),) = world.postgres.query(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%%' AND client_addr IS NOT NULL"
    )
    return int(count)
