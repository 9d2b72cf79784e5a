"""One world for all tests: every part is real and runs as a process of its own. Tests of the kernel need none."""

import os
import sys
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from tests.harness import die_after_step
from tests.harness.apiserver import ApiServer
from tests.harness.database import Database, directory
from tests.harness.database import running as database_running
from tests.harness.firewalled_server import FirewalledServer
from tests.harness.host_pair import Pair
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for
from tests.harness.slot import SLOT, folder
from tests.harness.team import Team
from tests.harness.world import SYSTEM, World

from vaultbrix.agent.host.firewall.iptables import Iptables
from vaultbrix.agent.host.firewall.nftables import Nftables

# Runners of tests tell commands how wide the terminal is, and there is none.
os.environ.pop("COLUMNS", None)


LINES_OF_LOG = 25

# The world, once it runs.
worlds: list[World] = []


@pytest.fixture(scope="module", autouse=True)
def _nothing_to_look_after() -> Iterator[None]:
    """What a file leaves behind is looked at by operator and agents for as long as the others run."""
    yield
    for world in worlds:
        world.forget()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with what the world's processes logged last; their files are gone once the run has ended."""
    report = yield
    world = getattr(item, "funcargs", {}).get("running")
    if report.failed and world is not None:
        for process in (world.operator, world.agent, world.shipper):
            lines = process.text().splitlines()[-LINES_OF_LOG:]
            title = f"last lines of {process.log.name} at {datetime.now(UTC):%H:%M:%S}"
            report.sections.append((title, "\n".join(lines)))
    return report


@pytest.fixture(scope="session")
def running() -> Iterator[World]:
    """The world, from the first test to the last."""
    world = World()
    worlds.append(world)
    try:
        world.start()
        yield world
    finally:
        world.stop()


@pytest.fixture
def world(running: World) -> World:
    """The world with everything up and nothing open, whatever the test before has ended or left."""
    running.heal()
    running.clear()
    return running


@pytest.fixture
def alone(world: World) -> Iterator[World]:
    """The world without the operator: what a status says is what the test writes."""
    world.operator.stop()
    yield world
    world.operator.start()


@pytest.fixture
def mortal(world: World) -> Iterator[Path]:
    """The world with an operator that dies when this file says so."""
    trap, command = world.directory / "operator-trap", list(world.operator.command)
    at = command.index("operator")
    world.operator.stop()
    world.operator.command[at - 3 : at] = [sys.executable, die_after_step.__file__, str(trap)]
    world.operator.start()
    yield trap
    trap.unlink(missing_ok=True)
    world.operator.stop()
    world.operator.command[:] = command
    world.heal()


@pytest.fixture
def second_operator(world: World) -> Iterator[Process]:
    """Another replica, which waits for the first one to end."""
    environment = {"KUBECONFIG": str(world.api.kubeconfig), "POD_NAMESPACE": SYSTEM, "VAULTBRIX_IMAGE": "none"}
    process = Process(
        [*VAULTBRIX, "operator", "--identity=second", f"--probe-port={18082 + 10 * SLOT}"],
        world.directory / f"second-{uuid4().hex}.log",
        env=environment,
    )
    process.start()
    yield process
    process.kill()
    # Its Lease was not given back, so the first operator waits until it has run out.
    world.heal()
    wait_for("the first operator leads", lambda: world.leader() == "test", patience=60)


@pytest.fixture(scope="module")
def api_alone() -> Iterator[ApiServer]:
    """An API server that nobody works with but the tests of a file."""
    api = ApiServer.alone(folder() / "api")
    try:
        api.start()
        yield api
    finally:
        api.stop()


@pytest.fixture
def team(api_alone: ApiServer) -> Iterator[Team]:
    """A namespace on an API server without operator and agents, in which there is nothing but what the test writes."""
    made = Team(api_alone)
    yield made
    if not api_alone.running:
        api_alone.resume()
    made.clear()


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """A PostgreSQL with the gate, for the tests of one file."""
    with database_running() as started:
        yield started


@pytest.fixture
def bare() -> Iterator[Database]:
    """A PostgreSQL without the gate."""
    with directory() as path:
        made = Database(path)
        try:
            made.postgres.start()
            yield made
        finally:
            made.postgres.stop()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two hosts of a test's own."""
    made = Pair()
    yield made
    made.close()


@pytest.fixture(params=[Iptables, Nftables], ids=["iptables", "nftables"])
def firewall(request: pytest.FixtureRequest, pair: Pair) -> Iterator[FirewalledServer]:
    """A server that is closed by default, by each of the kernel's interfaces."""
    guarded = FirewalledServer(pair, request.param(5433))
    guarded.ensure()
    yield guarded
    guarded.listener.close()
