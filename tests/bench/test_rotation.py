"""How long it takes from the change of a token until PostgreSQL takes the new password and the status says so.

``make bench-approval`` prints a table and writes tests/bench/results/approval.json. Agent and shipper rest: neither has
anything to do with a rotation. Without ``keepPrevious`` a verifier is set, with it a second login is made.
"""

import json
import os
import statistics
import time
from typing import Any

import pytest
from tests.harness.bench import results
from tests.harness.bench.api import Api
from tests.harness.shell import wait_for
from tests.harness.world import World, tenant

SAMPLES = int(os.environ.get("VAULTBRIX_BENCH_ROTATIONS", "100"))
TENANTS = int(os.environ.get("VAULTBRIX_BENCH_ROTATED", "1000"))
PATIENCE = 900


def path_of(team: str, name: str = "") -> str:
    return f"/apis/vaultbrix.com/v1alpha1/namespaces/{team}/tenants/{name}".rstrip("/")


def tokens_done(api: Api, team: str) -> list[str]:
    """The tokens that are done, of all Tenants of the namespace."""
    items: list[dict[str, Any]] = json.loads(api("GET", path_of(team)))["items"]
    return [item.get("status", {}).get("credentials", {}).get("rotateToken", "") for item in items]


def rotate_ms(api: Api, team: str, name: str, label: str) -> dict[str, float]:
    """One rotation after the other."""
    times = []
    for number in range(SAMPLES):
        token, begun = f"{label}-{number}", time.perf_counter()
        api("PATCH", path_of(team, name), {"spec": {"credentials": {"rotateToken": token}}})
        while json.loads(api("GET", path_of(team, name)))["status"]["credentials"].get("rotateToken") != token:
            assert time.perf_counter() - begun < PATIENCE
            time.sleep(0.001)
        times.append(1000 * (time.perf_counter() - begun))
    return {
        "p50": round(statistics.median(times), 1),
        "p99": round(statistics.quantiles(times, n=100, method="inclusive")[98], 1),
    }


@pytest.mark.timeout(3600)
def test_rotations_one_by_one_and_all_at_once(world: World) -> None:
    world.agent.stop()
    world.shipper.stop()
    api, team = Api(world), world.team()
    one = world.tenant(team)
    figures: dict[str, Any] = {"rotate_ms": rotate_ms(api, team, one, "plain")}
    api("PATCH", path_of(team, one), {"spec": {"credentials": {"keepPrevious": "1h"}}})
    figures["rotate_kept_ms"] = rotate_ms(api, team, one, "kept")
    many = world.team()
    names = [f"rotated-{number}" for number in range(TENANTS)]
    for name in names:
        api("POST", path_of(many), tenant(many, name, deletionPolicy="Delete", credentials={"rotateToken": "made"}))
    wait_for("all are made", lambda: tokens_done(api, many) == ["made"] * TENANTS, patience=PATIENCE, pause=0.5)
    begun = time.perf_counter()
    for name in names:
        api("PATCH", path_of(many, name), {"spec": {"credentials": {"rotateToken": "once"}}})
    wait_for("all are rotated", lambda: tokens_done(api, many) == ["once"] * TENANTS, patience=PATIENCE, pause=0.1)
    figures[f"rotated_{TENANTS}_s"] = round(time.perf_counter() - begun, 2)
    results.keep("approval", figures)
    for name, value in figures.items():
        print(f"{name:16} {value}")
