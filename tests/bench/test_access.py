"""How long a rule takes to let somebody in and to throw him out, against the same by a bare script in the same run."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tests.harness.network import SERVER
from tests.harness.shell import TOP, run
from tests.harness.world import PORT, World, rule

ROUNDS = 30
RESULTS = TOP / "tests/bench/results/access.json"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    try:
        world.start()
        yield world
    finally:
        world.stop()


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"p50": round(statistics.median(ordered) * 1000, 1), "p99": round(p99 * 1000, 1)}


def floor(world: World) -> list[float]:
    """pg_hba.conf written, reloaded, and an address added to a set, with nothing around it."""
    run(*world.network.inside("server", ["ipset", "create", "floor", "hash:net", "timeout", "0"]))
    content = world.postgres.hba_file.read_text()
    spent = []
    with world.postgres.connect() as connection:
        for number in range(ROUNDS):
            begun = time.perf_counter()
            world.postgres.hba_file.write_text(content)
            connection.execute("SELECT pg_reload_conf()")
            run(*world.network.inside("server", ["ipset", "add", "floor", f"192.0.2.{number}", "timeout", "600"]))
            spent.append(time.perf_counter() - begun)
    return spent


def test_access(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    address = world.network.client("203.0.113.7")
    conninfo = f"host={SERVER} port={PORT} dbname=postgres user=tenant_{tenant.replace('-', '_')} sslmode=require"
    environment = {**os.environ, "PGPASSWORD": world.password(team, tenant)}
    command = world.network.inside(address, [sys.executable, str(TOP / "tests/bench/client.py"), conninfo])
    opened, ended = [], []
    for number in range(ROUNDS):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
            path = f"/apis/vaultbrix.com/v1alpha1/namespaces/{team}/accessrules"
            begun = time.time()
            world.api.request("POST", path, rule(team, f"bench-{number}", tenant, f"{address}/32"))
            opened.append(float(client.stdout.readline()) - begun)
            time.sleep(0.3)
            begun = time.time()
            world.api.request("DELETE", f"{path}/bench-{number}")
            ended.append(float(client.stdout.readline()) - begun)
    bare = percentiles(floor(world))
    figures = {
        "apply_to_connect_ms": {"1": percentiles(opened)},
        "revoke_to_dead_ms": {"1": percentiles(ended)},
        "floor_ms": bare,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\n{'':<36}{'p50 ms':>8}{'p99 ms':>8}{'p50 / floor':>13}")
    for name, found in (
        ("rule applied → connected", figures["apply_to_connect_ms"]["1"]),
        ("rule deleted → session dead", figures["revoke_to_dead_ms"]["1"]),
        ("floor: hba write, reload, ipset add", bare),
    ):
        print(f"{name:<36}{found['p50']:>8}{found['p99']:>8}{found['p50'] / bare['p50']:>13.1f}")
