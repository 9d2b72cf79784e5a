"""A tenant with many sessions that fill PostgreSQL's lock table, each back as soon as it was ended; and a neighbour."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from tests.harness.bench.clients import conninfo
from tests.harness.processes import Process
from tests.harness.shell import TOP
from tests.harness.world import World

TABLES = 2_000
SLEEP = "SELECT pg_sleep(600)"

# Each goes on to take what is free where it can. All sessions hold locks on the same shared keys and tables.
KINDS: Mapping[str, tuple[str, ...]] = {
    "advisory": (
        "SELECT count(pg_advisory_lock(pg_backend_pid(), i)) FROM generate_series(1, 2000000) i",
        SLEEP,
    ),
    "shared": ("SELECT count(pg_advisory_lock_shared(i)) FROM generate_series(1, 2000000) i", SLEEP),
    "subtransactions": (
        """DO $$ BEGIN FOR i IN 1..2000000 LOOP
             BEGIN PERFORM pg_advisory_xact_lock(pg_backend_pid(), i); EXCEPTION WHEN out_of_memory THEN NULL; END;
           END LOOP; END $$""",
    ),
    "tables": ("BEGIN", "LOCK TABLE hoarded.parent IN ACCESS SHARE MODE", SLEEP),
    "predicate": ("BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT count(*) FROM hoarded.parent", SLEEP),
}


@contextmanager
def many_tables(world: World) -> Iterator[None]:
    """A table with TABLES partitions that everybody may read."""
    world.postgres.query("CREATE SCHEMA hoarded")
    world.postgres.query("CREATE TABLE hoarded.parent (id int) PARTITION BY LIST (id)")
    world.postgres.query("GRANT USAGE ON SCHEMA hoarded TO PUBLIC; GRANT SELECT ON hoarded.parent TO PUBLIC")
    try:
        # A transaction has room for no more.
        for first in range(0, TABLES, 500):
            world.postgres.query(f"""
                DO $$ BEGIN FOR i IN {first}..{first + 499} LOOP
                  EXECUTE format('CREATE TABLE hoarded.p%s PARTITION OF hoarded.parent FOR VALUES IN (%s)', i, i);
                END LOOP; END $$
            """)  # type: ignore[arg-type]  # numbers of our own
        yield
    finally:
        world.postgres.query("DROP SCHEMA hoarded CASCADE")


class Hoarding:
    """Sessions of a tenant that send statements, over and over, until the block ends."""

    def __init__(
        self, world: World, address: str, team: str, tenant: str, statements: tuple[str, ...], sessions: int
    ) -> None:
        world.network.client(address)
        script = str(TOP / "tests/harness/hoarder.py")
        command = [sys.executable, script, conninfo(world, team, tenant), str(sessions), *statements]
        self._process = Process(world.network.inside(address, command), world.directory / f"hoarding-{tenant}.log")

    def __enter__(self) -> Self:
        self._process.log.unlink(missing_ok=True)
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    @property
    def ended(self) -> Counter[str]:
        """How many of its sessions have ended, by SQLSTATE."""
        return Counter(line for line in self._process.text().splitlines() if " " not in line)


@contextmanager
def busy_machine(processes: int) -> Iterator[None]:
    """So many processes that never pause."""
    with ExitStack() as running:
        for _ in range(processes):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            running.callback(process.wait)
            running.callback(process.kill)
        yield


def logins(world: World, address: str, team: str, tenant: str, count: int) -> dict[str, Any]:
    """How long so many logins took, one after the other, and how many tries were refused; see bench/logins.py."""
    world.network.client(address)
    script = str(TOP / "tests/harness/bench/logins.py")
    command = [sys.executable, script, conninfo(world, team, tenant), str(count)]
    said = subprocess.run(
        world.network.inside(address, command), check=True, capture_output=True, text=True, timeout=600
    )
    found: dict[str, Any] = json.loads(said.stdout)
    return found
