"""Approved DDL while processes die: never twice, never lost, never stuck; each approval ends in a true phase."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.harness import die_after_step
from tests.harness.approvals import Approval, finish_job
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.world import World

STARTING = ["reported", "finalizer written", "login dropped", "pass issued", "login made", "Secret written", "Job made"]
SESSION = ["reported", "finalizer written", "login dropped", "pass issued"]
CLOSING = ["Secret deleted", "login dropped", "pass revoked", "reported", "finalizer written"]
ADDRESS = "203.0.113.190"

TEXT = "INSERT INTO counted DEFAULT VALUES; ALTER TABLE counted ALTER at SET DEFAULT now()"
STEPS = f"{TEXT}; VACUUM counted"


@dataclass(frozen=True)
class Scene:
    """A tenant with a table to count runs in, and an operator that dies when a file says so."""

    place: TenantWithTables
    trap: Path

    @property
    def world(self) -> World:
        return self.place.world

    def dies(self, step: str, action: Callable[[], object]) -> None:
        """Have the operator die after that step of what the action brings about, and start it again."""
        self.trap.write_text(step)
        action()
        operator = self.world.operator
        wait_for(f"it dies: {step}", lambda: not operator.running, patience=60, tell=operator.text)
        self.trap.unlink()
        operator.start()

    def submit(self, text: str = TEXT, **spec: object) -> Approval:
        """An approval that is rehearsed, so that its rehearsal's own steps are over."""
        self.place.world.postgres.query(f"TRUNCATE {self.place.role}.counted")
        made = self.place.submit(text, **spec)
        made.rehearsed()
        return made

    @property
    def runs(self) -> int:
        ((count,),) = self.world.postgres.query(f"SELECT count(*) FROM {self.place.role}.counted")
        return int(count)

    def ended(self, made: Approval, *phases: str) -> None:
        made.phase(*phases, patience=120)
        wait_for("nothing is left of it", lambda: not made.left(), patience=90, tell=made.left)


@pytest.fixture(scope="module")
def module_scene(running: World) -> Iterator[Scene]:
    world = running
    world.heal()
    trap = world.directory / "operator-trap"
    command = list(world.operator.command)
    at = command.index("operator")
    world.operator.stop()
    world.operator.command[at - 3 : at] = [sys.executable, die_after_step.__file__, str(trap)]
    world.operator.start()
    place = TenantWithTables(world)
    place.sql("CREATE TABLE counted(at timestamptz DEFAULT clock_timestamp())")
    world.api.await_condition("accessrule", world.rule(place.team, place.tenant, f"{ADDRESS}/32"), place.team)
    yield Scene(place, trap)
    trap.unlink(missing_ok=True)
    world.operator.stop()
    world.operator.command[:] = command
    world.heal()


@pytest.fixture
def scene(module_scene: Scene) -> Scene:
    module_scene.trap.unlink(missing_ok=True)
    module_scene.world.heal()
    return module_scene


@pytest.mark.parametrize("step", STARTING)
def test_an_operator_that_dies_while_it_starts_a_run_goes_on_and_it_runs_once(scene: Scene, step: str) -> None:
    made = scene.submit()
    scene.dies(step, made.decide)
    assert made.pod().run() == 0
    scene.ended(made, "Succeeded")
    assert scene.runs == 1


@pytest.mark.parametrize("step", CLOSING)
@pytest.mark.parametrize("text", [TEXT, STEPS], ids=["whole", "one by one"])
def test_an_operator_that_dies_while_it_ends_a_run_ends_it_and_it_ran_once(scene: Scene, step: str, text: str) -> None:
    made = scene.submit(text)
    made.decide()
    pod = made.pod()

    def run() -> None:
        process = pod.start()
        wait_for("the Pod has ended", lambda: not process.running, patience=60, tell=process.text)
        assert process.stop() == 0
        finish_job(made, failed=False)

    made.phase("Running")
    scene.dies(step, run)
    scene.ended(made, "Succeeded")
    assert scene.runs == 1
    assert made.status["executed"] == text.count(";") + 1


@pytest.mark.parametrize("step", SESSION)
def test_an_operator_that_dies_while_it_opens_a_session_opens_it_once(scene: Scene, step: str) -> None:
    text = "ALTER TABLE counted ALTER at SET DEFAULT now()"
    made = scene.submit(text, execution="Session")
    scene.dies(step, made.decide)
    wait_for(
        "the pass is open", lambda: made.condition("PassIssued").get("status") == "True", patience=90, tell=made.tell
    )
    client = scene.world.psql(ADDRESS, scene.place.team, scene.place.tenant, text)
    assert client.works()
    assert not client.works()
    scene.ended(made, "Succeeded")


@pytest.mark.parametrize("step", ["login dropped", "pass revoked", "reported"])
def test_an_operator_that_dies_while_a_session_ends_ends_it(scene: Scene, step: str) -> None:
    text = "ALTER TABLE counted ALTER at SET DEFAULT now()"
    made = scene.submit(text, execution="Session")
    made.decide()
    wait_for("the pass is open", lambda: made.condition("PassIssued").get("status") == "True", tell=made.tell)
    client = scene.world.psql(ADDRESS, scene.place.team, scene.place.tenant, text)
    scene.dies(step, client.works)
    scene.ended(made, "Succeeded")
    assert not client.works()


def test_an_operator_that_dies_with_a_withdrawal_in_hand_takes_it_back(scene: Scene) -> None:
    made = scene.submit()
    made.decide()
    made.await_job()
    uid = made.uid
    scene.dies("login dropped", lambda: scene.world.api.delete("ddl", made.name, made.team, wait=False))
    wait_for("it is gone", lambda: not scene.world.api.get("ddl", made.name, made.team), patience=60)
    revoked = "SELECT 1 FROM vaultbrix.ddl_pass WHERE pass_id = %s AND revoked_at IS NOT NULL"
    assert scene.world.postgres.query(revoked, [uid])
    assert scene.runs == 0


@pytest.mark.parametrize("committed", [True, False])
def test_postgresql_that_restarts_while_a_run_is_watched_leaves_a_true_phase(scene: Scene, committed: bool) -> None:
    made = scene.submit()
    made.decide()
    made.phase("Running")
    pod = made.pod()
    if committed:
        process = pod.start()
        wait_for("the Pod has ended", lambda: not process.running, patience=60, tell=process.text)
        scene.world.postgres.crash()
        scene.world.postgres.start()
    else:
        with scene.world.postgres.connect() as holder:
            holder.execute("BEGIN")
            holder.execute(f"LOCK TABLE {scene.place.role}.counted".encode())
            process = pod.start()
            blocked = "SELECT 1 FROM pg_stat_activity WHERE usename ~ '^vaultbrix_d_' AND wait_event_type = 'Lock'"
            wait_for("it waits", lambda: scene.world.postgres.query(blocked), tell=process.text)
            scene.world.postgres.crash()
            # The server took the session down with it.
            with contextlib.suppress(Exception):
                holder.execute("SELECT 1")
        scene.world.postgres.start()
        wait_for("the Pod has ended", lambda: not process.running, patience=60, tell=process.text)
        assert process.stop() == 1
        assert scene.runs == 0
        assert made.pod().run() == 0
    scene.ended(made, "Succeeded")
    assert scene.runs == 1


def test_a_node_that_goes_down_in_the_middle_of_a_run_comes_back_to_a_true_phase(scene: Scene) -> None:
    made = scene.submit()
    made.decide()
    made.phase("Running")
    pod = made.pod()
    with scene.world.postgres.connect() as holder:
        holder.execute("BEGIN")
        holder.execute(f"LOCK TABLE {scene.place.role}.counted".encode())
        process = pod.start()
        blocked = "SELECT 1 FROM pg_stat_activity WHERE usename ~ '^vaultbrix_d_' AND wait_event_type = 'Lock'"
        wait_for("it waits", lambda: scene.world.postgres.query(blocked), tell=process.text)
        # A reboot: everything at once, and nobody says goodbye.
        process.kill()
        scene.world.operator.kill()
        scene.world.agent.kill()
        scene.world.postgres.crash()
        with contextlib.suppress(Exception):
            holder.execute("SELECT 1")
    scene.world.postgres.start()
    scene.world.agent.start()
    scene.world.operator.start()
    assert scene.runs == 0
    assert pod.run() == 0
    scene.ended(made, "Succeeded")
    assert scene.runs == 1


def test_an_operator_that_takes_over_ends_the_run_that_the_other_began(scene: Scene, second_operator: Process) -> None:
    made = scene.submit()
    made.decide()
    made.await_job()
    scene.world.operator.kill()
    pod = made.pod()
    assert pod.run() == 0
    wait_for("the second ends it", lambda: made.status.get("phase") == "Succeeded", patience=90, tell=made.tell)
    assert second_operator.running
    wait_for("nothing is left of it", lambda: not made.left(), patience=90, tell=made.left)
    assert scene.runs == 1
