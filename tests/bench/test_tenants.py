"""How long many Tenants that are applied at once take, against the same SQL by one psql in the same run.

``make bench-tenants`` prints a table and writes tests/bench/results/tenants.json. Both sides make roles, schemas and
verifiers on the same server, in turn, ``ROUNDS`` times; ours is done when the API server says of every Tenant that
it is Ready. Agent and shipper rest: neither has anything to do with a Tenant that nobody has access to.
"""

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.bench import results
from tests.harness.bench.api import Api
from tests.harness.shell import wait_for
from tests.harness.world import World, tenant

from vaultbrix.postgres import scram

SIZES = tuple(int(size) for size in os.environ.get("VAULTBRIX_BENCH_TENANTS", "100,1000,5000").split(","))
ROUNDS = 3
CLIENTS = 4
TICKS = os.sysconf("SC_CLK_TCK")

# What provisioning makes, and what takes it away again.
MAKE = """
BEGIN;
CREATE ROLE {role} LOGIN PASSWORD '{verifier}';
CREATE SCHEMA {role} AUTHORIZATION {role};
ALTER ROLE {role} SET search_path = {role};
REVOKE CREATE ON SCHEMA public FROM {role};
COMMIT;
"""
DROP = "DROP SCHEMA {role}; DROP ROLE {role};\n"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    try:
        world.start()
        world.agent.stop()
        world.shipper.stop()
        yield world
    finally:
        world.stop()


def psql(world: World, script: str) -> float:
    """Seconds that one psql takes for a script."""
    begun = time.perf_counter()
    subprocess.run(
        ["psql", "-qX", "-v", "ON_ERROR_STOP=1", "-h", str(world.postgres.socket), "-p", str(world.postgres.port),
         "-U", "postgres", "postgres"],
        input=script, text=True, check=True, capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - begun


def floor(world: World, count: int) -> float:
    """The same SQL by one psql."""
    verifier = scram.verifier("a password that is as long as others are", b"0123456789abcdef")
    roles = [f"floor_{number}" for number in range(count)]
    seconds = psql(world, "".join(MAKE.format(role=role, verifier=verifier) for role in roles))
    psql(world, "".join(DROP.format(role=role) for role in roles))
    return seconds


class Operator:
    """What the operator's process has used so far."""

    def __init__(self, world: World) -> None:
        self._process = Path(f"/proc/{world.operator.pid}")

    def cpu_seconds(self) -> float:
        fields = (self._process / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_mib(self) -> float:
        for line in (self._process / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0


def ready(world: World, team: str) -> int:
    """How many Tenants of the namespace say that they are ready."""
    items = world.api.request("GET", f"/apis/vaultbrix.com/v1alpha1/namespaces/{team}/tenants")["items"]
    return sum(
        any(c["type"] == "Ready" and c["status"] == "True" for c in item.get("status", {}).get("conditions", []))
        for item in items
    )


def apply_all(world: World, team: str, names: list[str]) -> None:
    """Create the Tenants over a few connections at once."""
    path = f"/apis/vaultbrix.com/v1alpha1/namespaces/{team}/tenants"

    def create(mine: list[str]) -> None:
        api = Api(world)
        for name in mine:
            api("POST", path, tenant(team, name, deletionPolicy="Delete"))

    clients = [threading.Thread(target=create, args=(names[n::CLIENTS],)) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def ours(world: World, count: int, number: int) -> dict[str, float]:
    """Tenants applied at once, until all are Ready; they are deleted afterwards."""
    team, operator = world.team(), Operator(world)
    names = [f"b{number}-{each}" for each in range(count)]
    made = "SELECT count(*) FROM pg_authid WHERE rolname ^@ %s AND rolpassword IS NOT NULL"
    prefix = f"tenant_b{number}_"
    cpu, begun = operator.cpu_seconds(), time.perf_counter()
    apply_all(world, team, names)
    applied = time.perf_counter() - begun
    wait_for("all roles are made", lambda: world.postgres.query(made, [prefix]) == [(count,)], patience=900, pause=0.1)
    wait_for("all are ready", lambda: ready(world, team) == count, patience=120, pause=0.1)
    seconds = time.perf_counter() - begun
    used = operator.cpu_seconds() - cpu
    resident = operator.resident_mib()
    Api(world)("DELETE", f"/apis/vaultbrix.com/v1alpha1/namespaces/{team}/tenants")
    wait_for("all roles are gone", lambda: world.postgres.query(made, [prefix]) == [(0,)], patience=900, pause=0.5)
    return {"seconds": seconds, "applied": applied, "cpu": used, "resident": resident}


@pytest.mark.timeout(3600)
def test_many_tenants_at_once(world: World) -> None:
    rows: list[dict[str, Any]] = []
    number = 0
    for count in SIZES:
        floors, runs = [], []
        for _ in range(ROUNDS):
            number += 1
            floors.append(floor(world, count))
            runs.append(ours(world, count, number))
        floor_s = statistics.median(floors)
        ours_s = statistics.median(run["seconds"] for run in runs)
        rows.append({
            "tenants": count,
            "floor_s": round(floor_s, 2),
            "ours_s": round(ours_s, 2),
            "applied_s": round(statistics.median(run["applied"] for run in runs), 2),
            "ratio": round(statistics.median(run["seconds"] / f for run, f in zip(runs, floors, strict=True)), 2),
            "operator_cpu_ms_per_tenant": round(1000 * statistics.median(run["cpu"] for run in runs) / count, 1),
            "operator_rss_mib": round(max(run["resident"] for run in runs)),
        })  # fmt: skip
        print("\n" + "  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    results.keep("tenants", {"rounds": ROUNDS, "sizes": rows})
    print(f"\n{'Tenants':>8} {'floor s':>8} {'ours s':>8} {'ratio':>6} {'CPU ms':>7} {'RSS MiB':>8}")
    for row in rows:
        print(
            f"{row['tenants']:8} {row['floor_s']:8} {row['ours_s']:8} {row['ratio']:6}"
            f" {row['operator_cpu_ms_per_tenant']:7} {row['operator_rss_mib']:8}"
        )
