"""Clients of a bench, which say when they got in and when they were thrown out, and figures made of that."""

import json
import statistics
import subprocess
import sys
import threading
from typing import Any

from tests.harness.network import SERVER
from tests.harness.shell import TOP
from tests.harness.world import PORT, World


class Clients:
    """tests/harness/bench/client.py in a namespace, and what it says."""

    def __init__(self, world: World, address: str) -> None:
        world.network.client(address)
        self._process = subprocess.Popen(
            world.network.inside(address, [sys.executable, str(TOP / "tests/harness/bench/client.py")]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._events: dict[tuple[int, str], float] = {}
        self._changed = threading.Condition()
        self._number = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._changed:
                self._events[said["id"], said["event"]] = said["at"]
                self._changed.notify_all()

    def start(self, what: str, **arguments: Any) -> int:
        """Have a client begin; returns its number."""
        self._number += 1
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, "number": self._number, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._number

    def when(self, number: int, event: str, patience: float = 60) -> float:
        """When it happened; waits for it."""
        with self._changed:
            assert self._changed.wait_for(lambda: (number, event) in self._events, patience), f"no {event} of {number}"
            return self._events[number, event]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"p50": round(statistics.median(ordered) * 1000, 1), "p99": round(p99 * 1000, 1)}


def conninfo(world: World, team: str, tenant: str) -> str:
    """libpq's connection string of a tenant, password and all."""
    role = f"tenant_{tenant.replace('-', '_')}"
    password = world.password(team, tenant)
    return f"host={SERVER} port={PORT} dbname=postgres user={role} password={password} sslmode=require"
