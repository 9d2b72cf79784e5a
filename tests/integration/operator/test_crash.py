"""Processes of ours that are killed at any moment: nothing is lost, nothing stays open, nothing happens twice.

Each campaign runs a few rounds in ``make test`` and hundreds in ``make soak``.
"""

import base64
import random
import time
import uuid

import pytest
from tests.harness.processes import Process
from tests.harness.shell import run, wait_for
from tests.harness.world import World

from vaultbrix.postgres import scram

ROUNDS = pytest.mark.parametrize("rounds", [6, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])


@ROUNDS
def test_an_operator_killed_at_any_moment_leaves_every_tenant_whole(world: World, rounds: int) -> None:
    team = world.team()
    moments = random.Random(7)
    names = []
    for _ in range(rounds):
        names.append(world.tenant(team, wait=False))
        time.sleep(moments.uniform(0, 1.5))
        world.operator.kill()
        world.operator.start()
    for name in names:
        world.api.await_condition("tenant", name, team, patience=120)
        role = f"tenant_{name.replace('-', '_')}"
        ((verifier, owner),) = world.postgres.query(
            "SELECT a.rolpassword, n.nspowner::regrole::text FROM pg_authid a JOIN pg_namespace n ON nspname = rolname"
            " WHERE rolname = %s",
            [role],
        )
        data = world.api.get("secret", f"{name}-db", team)["data"]
        assert scram.matches(base64.b64decode(data["password"]).decode(), verifier)
        assert owner == role


@ROUNDS
def test_an_agent_killed_at_any_moment_opens_what_is_open_and_nothing_else(world: World, rounds: int) -> None:
    team = world.team()
    tenant = world.tenant(team)
    moments = random.Random(11)
    expected: dict[str, str] = {}
    for number in range(rounds):
        address = f"203.0.113.{100 + number % 100}/32"
        if address not in expected:
            expected[address] = world.rule(team, tenant, address)
        if len(expected) > 2:
            gone = moments.choice(sorted(expected))
            world.api.delete("accessrule", expected.pop(gone), team)
        time.sleep(moments.uniform(0, 1.0))
        world.agent.kill()
        world.agent.start()
    wait_for(
        "kernel holds what is open", lambda: enforced(world, "203.0.113.1") == set(expected), tell=world.agent.text
    )
    block = world.postgres.hba_file.read_text()
    role = f"tenant_{tenant.replace('-', '_')}"
    lines = {line.split()[3] for line in block.splitlines() if f'"{role}"' in line}
    assert lines == set(expected)


def enforced(world: World, prefix: str) -> set[str]:
    """Entries of the kernel's set that begin like that."""
    saved = run(*world.network.inside("server", ["ipset", "save", "vbx-allow4"])).stdout
    entries = {line.split()[2] for line in saved.splitlines() if line.startswith("add ")}
    return {e if "/" in e else f"{e}/32" for e in entries if e.startswith(prefix)}


def test_two_operators_do_not_both_lead_and_the_second_takes_over(world: World, second_operator: Process) -> None:
    team = world.team()
    world.tenant(team)
    assert world.leader() == "test"
    assert '"leading"' not in second_operator.text()
    world.operator.kill()
    name = world.tenant(team, wait=False)
    wait_for("the second leads", lambda: world.leader() == "second", patience=60)
    world.api.await_condition("tenant", name, team, patience=60)


def test_an_operator_that_is_asked_to_end_lets_the_next_one_in_at_once(world: World, second_operator: Process) -> None:
    wait_for("the second waits", lambda: second_operator.running and world.leader() == "test")
    assert world.operator.stop() == 0
    wait_for("the second leads", lambda: world.leader() == "second", patience=10)


def test_an_operator_that_cannot_renew_its_lease_ends(world: World) -> None:
    team = world.team()
    world.api.pause()
    try:
        wait_for("the operator has ended", lambda: not world.operator.running, patience=60)
    finally:
        world.api.resume()
    world.operator.start()
    world.tenant(team)


def test_what_was_deleted_while_nobody_watched_is_closed(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.240/32")
    world.api.await_condition("accessrule", name, team)
    world.agent.kill()
    world.api.delete("accessrule", name, team)
    world.agent.start()
    wait_for("it is closed", lambda: not enforced(world, "203.0.113.240"))


def test_a_run_whose_approval_is_gone_is_ended_and_loses_nothing(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    role = f"tenant_{tenant.replace('-', '_')}"
    login = f"vaultbrix_d_{uuid.uuid4().hex}"
    world.postgres.query(f"CREATE ROLE {login} LOGIN NOINHERIT IN ROLE {role}, vaultbrix_jobs")
    world.postgres.query(f"CREATE TABLE {role}.made(id int); ALTER TABLE {role}.made OWNER TO {login}")
    world.operator.kill()
    world.operator.start()
    wait_for(
        "the login is gone",
        lambda: not world.postgres.query("SELECT 1 FROM pg_roles WHERE rolname = %s", [login]),
        tell=world.operator.text,
    )
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = %s::regclass"
    assert world.postgres.query(owner, [f"{role}.made"]) == [(role,)]
