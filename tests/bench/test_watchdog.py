"""What the watchdog costs with 1,000 sessions, and how a neighbour logs in while one tenant takes all it can get.

Prints figures and writes tests/bench/results/watchdog.json.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness.bench.usage import cpu_seconds
from tests.harness.greedy_tenant import ALL_LOCKS, TEMPORARY_FILES, Attack
from tests.harness.network import SERVER
from tests.harness.shell import TOP, run, wait_for
from tests.harness.world import PORT, World, server

SESSIONS = 1_000
SESSIONS_OF_A_TENANT = 40
MEASURED_SECONDS = 60
LOGINS = 100
GREEDY, NEIGHBOUR, CROWD = "203.0.113.150", "203.0.113.152", "203.0.113.153"
RESULTS = TOP / "tests/bench/results/watchdog.json"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    try:
        world.start()
        world.postgres.query("ALTER SYSTEM SET max_connections = 1200")
        world.postgres.stop()
        world.postgres.start()
        limits = {"maxRulesPerTenant": 1000, "session": {"maxLocks": 10_000, "maxTempSpace": "200Mi"}}
        world.api.apply(server(limits=limits))
        world.heal()
        yield world
    finally:
        world.stop()


def conninfo(world: World, team: str, tenant: str) -> str:
    role = f"tenant_{tenant.replace('-', '_')}"
    password = world.password(team, tenant)
    return f"host={SERVER} port={PORT} dbname=postgres user={role} password={password} sslmode=require"


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
    ordered = sorted(logins["seconds"])
    return {
        "p50": round(statistics.median(ordered) * 1000, 1),
        "p99": round(ordered[int(len(ordered) * 0.99)] * 1000, 1),
        "refused": logins["refused"],
    }


def cpu_percent(world: World) -> dict[str, float]:
    """Processor time of the whole agent, and of the watchdog's backend in PostgreSQL, in percent of one processor."""
    ((backend,),) = world.postgres.query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'vaultbrix-watchdog'"
    )
    before, begun = (cpu_seconds([world.agent.pid]), cpu_seconds([backend])), time.monotonic()
    time.sleep(MEASURED_SECONDS)
    spent = time.monotonic() - begun
    after = (cpu_seconds([world.agent.pid]), cpu_seconds([backend]))
    agent, postgres = (round(100 * (b - a) / spent, 2) for a, b in zip(before, after, strict=True))
    return {"agent": agent, "postgresql": postgres}


def test_watchdog(world: World) -> None:
    team = world.team()
    figures: dict[str, Any] = {"neighbour_login_ms": {}, "watchdog_cpu_percent": {"0 sessions": cpu_percent(world)}}
    neighbour = conninfo(world, team, with_rule(world, team, NEIGHBOUR))
    greedy = with_rule(world, team, GREEDY)
    figures["neighbour_login_ms"]["calm"] = login_ms(world, neighbour)
    for name, statements in (("locks", ALL_LOCKS), ("temporary files", TEMPORARY_FILES)):
        with Attack(world, GREEDY, team, greedy, statements) as attack:
            wait_for("it was ended once", lambda a=attack: a.ended, patience=60, tell=world.agent.text)
            figures["neighbour_login_ms"][f"under_attack, {name}"] = login_ms(world, neighbour)
        assert attack.ended
    clients = crowd(world, team)
    try:
        figures["watchdog_cpu_percent"][f"{SESSIONS:,} sessions"] = cpu_percent(world)
    finally:
        clients.kill()
        clients.wait()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def crowd(world: World, team: str) -> subprocess.Popen[str]:
    """SESSIONS open sessions, of many tenants, that sleep."""
    world.network.client(CROWD)
    clients = subprocess.Popen(
        world.network.inside(CROWD, [sys.executable, str(TOP / "tests/harness/bench/client.py")]),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert clients.stdin is not None
    for _ in range(SESSIONS // SESSIONS_OF_A_TENANT):
        where = conninfo(world, team, with_rule(world, team, CROWD, connectionLimit=SESSIONS_OF_A_TENANT))
        for number in range(SESSIONS_OF_A_TENANT):
            asked = {"do": "session", "number": number, "conninfo": where}
            clients.stdin.write(json.dumps(asked) + "\n")
        clients.stdin.flush()
    wait_for("all are in", lambda: sleeping(world) == SESSIONS, patience=300, pause=1)
    return clients


def sleeping(world: World) -> int:
    ((count,),) = world.postgres.query(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%%' AND client_addr = %s", [CROWD]
    )
    return int(count)
