"""What the watchdog's arithmetic rests on, and how a neighbour logs in while a tenant takes locks without end.

``make bench-harm`` prints both and writes tests/bench/results/harm.json. PostgreSQL has the chart's settings.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, LiteralString

import psycopg
import pytest
from tests.harness.bench import results
from tests.harness.bench.clients import percentiles
from tests.harness.hoarding import KINDS, Hoarding, logins, many_tables
from tests.harness.postgres import Postgres
from tests.harness.shell import wait_for
from tests.harness.slot import folder
from tests.harness.world import World, server

GREEDY, NEIGHBOUR = "203.0.113.150", "203.0.113.152"
SESSIONS = 50
LOGINS = 100
TAKE = "SELECT count(pg_advisory_lock(pg_backend_pid(), i)) FROM generate_series(1, %s) i"


def keep(figures: dict[str, Any]) -> None:
    results.keep("harm", figures)
    print(json.dumps(figures, indent=1), flush=True)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """One without tenants and agent."""
    made = Postgres(folder() / "bare", settings={"listen_addresses": ""})
    made.hba_file.write_text("local all all trust\n")
    made.start()
    yield made
    made.stop()


def milliseconds(connection: psycopg.Connection, query: LiteralString) -> float:
    """The shortest of several times that a query took."""
    took = []
    for _ in range(7):
        begun = time.perf_counter()
        connection.execute(query, prepare=True).fetchall()
        took.append(time.perf_counter() - begun)
    return round(1000 * min(took), 2)


def taken_per_second(postgres: Postgres, watching: psycopg.Connection, sessions: int) -> int:
    """How many locks so many sessions take together until the table is full."""

    def take(connection: psycopg.Connection) -> None:
        try:
            connection.execute(TAKE, [2_000_000])
        except psycopg.errors.OutOfMemory:
            full.set()

    def count() -> int:
        ((locks,),) = watching.execute("SELECT count(*) FROM pg_lock_status()")
        return int(locks)

    wait_for("those before have let go", lambda: count() < 100)
    full = threading.Event()
    with ExitStack() as open_:
        connections = [open_.enter_context(postgres.connect()) for _ in range(sessions)]
        threads = [threading.Thread(target=take, args=(connection,)) for connection in connections]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        full.wait()
        seconds = time.perf_counter() - begun
        for thread in threads:
            thread.join()
        return round(count() / seconds)


def test_what_locks_cost(postgres: Postgres) -> None:
    figures: dict[str, Any] = {"look_ms": {}, "end_ms": {}, "taken_per_second": {}}
    with postgres.connect() as watching:
        for count in (100, 10_000, 100_000):
            with postgres.connect() as holder:
                holder.execute(TAKE, [count])
                figures["look_ms"][f"{count:,}"] = milliseconds(watching, "SELECT count(*) FROM pg_lock_status()")
                pid, begun = holder.info.backend_pid, time.perf_counter()
                watching.execute("SELECT pg_terminate_backend(%s)", [pid])
                while watching.execute("SELECT FROM pg_stat_get_activity(%s) WHERE pid > 0", [pid]).fetchone():
                    pass
                figures["end_ms"][f"{count:,}"] = round(1000 * (time.perf_counter() - begun), 1)
        for sessions in (1, 2, 4, 16, SESSIONS):
            figures["taken_per_second"][f"{sessions} sessions"] = taken_per_second(postgres, watching, sessions)
    keep({"locks": figures})


@pytest.mark.timeout(3600)
def test_neighbour_of_who_takes_locks_without_end(world: World) -> None:
    world.api.apply(server(limits={"maxRulesPerTenant": 1000}))
    team = world.team()
    greedy, neighbour = world.tenant(team, connectionLimit=SESSIONS), world.tenant(team)
    for tenant, address in ((greedy, GREEDY), (neighbour, NEIGHBOUR)):
        world.api.await_condition("accessrule", world.rule(team, tenant, f"{address}/32"), team)
    figures: dict[str, Any] = {}
    with many_tables(world):
        for kind, sessions in (("advisory", 1), *((kind, SESSIONS) for kind in KINDS)):
            with Hoarding(world, GREEDY, team, greedy, KINDS[kind], sessions) as attack:
                said = logins(world, NEIGHBOUR, team, neighbour, LOGINS)
            figures[f"{kind}, {sessions} sessions"] = {
                **percentiles(said["seconds"]), "refused": said["refused"], "ended": attack.ended.total(),
            }  # fmt: skip
            print(json.dumps(figures), flush=True)
    keep({"neighbour_login_under_locks_ms": figures})
