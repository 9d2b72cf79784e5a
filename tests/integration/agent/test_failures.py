"""The agent when something around it is broken: nothing opens that should not, and nothing stays open."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.direct_access import held_session, is_reset
from tests.harness.network import MACHINE
from tests.harness.shell import run, wait_for
from tests.harness.world import EVE, SERVER_NAME, World, in_seconds, rule

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def backend(world: World, address: str) -> int:
    ((pid,),) = world.postgres.query("SELECT pid FROM pg_stat_activity WHERE host(client_addr) = %s", [address])
    return int(pid)


def test_a_backend_that_does_not_end_loses_its_connection(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.80/32")
    world.api.await_condition("accessrule", name, team)
    session = held_session(world, "203.0.113.80", team, tenant, "stuck")
    pid = backend(world, "203.0.113.80")
    os.kill(pid, signal.SIGSTOP)
    try:
        world.api.apply(rule(team, name, tenant, "203.0.113.80/32", revoked=True))
        wait_for("the client is cut off", lambda: not session.running, tell=world.agent.text)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "terminating connection" not in session.text(), "PostgreSQL itself ended it"


def test_a_flushed_chain_is_told_in_a_warning_event(world: World) -> None:
    run(*world.network.inside("server", ["iptables-legacy", "-F", "VAULTBRIX"]))
    wait_for("everybody is refused again", lambda: is_reset(world, EVE))

    def told() -> bool:
        said = world.api.kubectl(
            "-n", "default", "get", "events", "--field-selector=reason=ChainRestored", "-o", "wide"
        )
        return "restored" in said and "postgresserver/main" in said.lower()

    wait_for("an event says so", told)


def test_addresses_that_were_refused_are_a_sample_of_where_clients_come_from(world: World) -> None:
    # The sample is small, and those that other tests had refused may fill it.
    world.agent.stop()
    world.agent.start()
    wait_for("everybody is refused", lambda: is_reset(world, EVE))

    def sources() -> list[str]:
        (agent,) = world.api.get("pgs", SERVER_NAME, "")["status"]["agents"]
        found: list[str] = agent["sources"]
        return found

    wait_for("eve's is there", lambda: EVE in sources(), patience=60)
    assert MACHINE not in sources(), "the operator's own, refused before it was known to be trusted"


@pytest.fixture
def wrong_clock(world: World) -> Iterator[None]:
    """The agent's clock alone is half a minute ahead."""
    assert FAKETIME, "libfaketime is missing; run: make setup"
    wrong = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+30s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    world.agent.stop()
    world.agent.env.update(wrong)
    world.agent.start()
    yield
    world.agent.stop()
    for name in wrong:
        del world.agent.env[name]
    world.heal()


def test_nothing_opens_while_the_clock_is_wrong(world: World, wrong_clock: None) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.81/32")
    told = world.api.await_condition("accessrule", name, team, type_="Enforced", status="False", reason="ClockSkew")
    # The API server tells whole seconds.
    (seconds,) = re.findall(r"differs by (\d+) s", told["message"])
    assert 29 <= int(seconds) <= 31
    assert is_reset(world, "203.0.113.81")


def test_a_rule_that_waited_for_the_clock_opens_once_it_is_right(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    world.agent.stop()
    assert FAKETIME, "libfaketime is missing; run: make setup"
    clock = world.directory / "clock"
    clock.write_text("+30s\n")
    changed = {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    world.agent.env.update(changed)
    world.agent.start()
    try:
        name = world.rule(team, tenant, "203.0.113.82/32")
        world.api.await_condition("accessrule", name, team, type_="Enforced", status="False", reason="ClockSkew")
        clock.write_text("+0s\n")
        world.api.await_condition("accessrule", name, team, patience=40)
        ended = world.rule(team, tenant, "203.0.113.83/32", ttl="4s")
        wait_for("it has ended", lambda: world.api.get("accessrule", ended, team)["status"].get("phase") == "Expired")
        ending = world.rule(team, tenant, "203.0.113.88/32", expiresAt=in_seconds(15))
        world.api.await_condition("accessrule", ending, team)
        session = held_session(world, "203.0.113.88", team, tenant, "set-back")
        clock.write_text("-60s\n")
        # A step back opens nothing again, and closes nothing that is open.
        another = world.rule(team, tenant, "203.0.113.84/32")
        world.api.await_condition("accessrule", another, team, type_="Enforced", status="False", reason="ClockSkew")
        assert is_reset(world, "203.0.113.83")
        assert not is_reset(world, "203.0.113.82")
        # Nor does it prolong anything: a minute more would be more than this waits.
        wait_for("the session has ended", lambda: not session.running, patience=30)
        assert is_reset(world, "203.0.113.88")
    finally:
        world.agent.stop()
        for key in changed:
            del world.agent.env[key]
        world.heal()


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """The agent's state is on a file system that a test can fill."""
    directory = world.directory / "small"
    directory.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=256k,mode=0755", "vaultbrix-test", directory)
    world.agent.stop()
    option = next(n for n, text in enumerate(world.agent.command) if text.startswith("--state-file="))
    before = world.agent.command[option]
    world.agent.command[option] = f"--state-file={directory / 'grants.json'}"
    world.agent.start()
    yield directory
    world.agent.stop()
    world.agent.command[option] = before
    run("umount", directory)
    world.heal()


def test_a_full_disk_opens_nothing_and_closes_what_ends(world: World, small_disk: Path) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.85/32")
    world.api.await_condition("accessrule", name, team)
    session = held_session(world, "203.0.113.85", team, tenant, "full-disk")
    # Up to the end of its last page, which is taken already.
    journal = small_disk / "grants.journal"
    with journal.open("ab") as file:
        file.write(b" " * (-journal.stat().st_size % 4096 - 1) + b"\n")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 1024)
    another = world.rule(team, tenant, "203.0.113.86/32")
    told = world.api.await_condition("accessrule", another, team, type_="Enforced", status="False")
    assert "No space left" in told["message"]
    assert is_reset(world, "203.0.113.86")
    world.api.apply(rule(team, name, tenant, "203.0.113.85/32", revoked=True))
    wait_for("the session has ended", lambda: not session.running)
    assert is_reset(world, "203.0.113.85")
    filler.unlink()
    world.api.await_condition("accessrule", another, team)
    # What could not be remembered then is by now.
    world.agent.kill()
    world.api.pause()
    try:
        world.agent.start()
        wait_for("the agent is up", lambda: "closed by default" in world.agent.text().split("firewall")[-1])
        assert is_reset(world, "203.0.113.85")
        assert not is_reset(world, "203.0.113.86")
    finally:
        world.api.resume()


@pytest.fixture
def nftables(world: World) -> Iterator[None]:
    """The agent uses the kernel's other interface."""
    world.agent.stop()
    world.agent.command.append("--firewall=nftables")
    world.agent.start()
    yield
    world.agent.stop()
    world.agent.command.remove("--firewall=nftables")
    world.heal()


def test_rules_open_and_end_by_nftables_alike(world: World, nftables: None) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.87/32")
    world.api.await_condition("accessrule", name, team)
    legacy = run(*world.network.inside("server", ["iptables-legacy", "-S"])).stdout
    assert "VAULTBRIX" not in legacy, "the other interface holds nothing of ours"
    session = held_session(world, "203.0.113.87", team, tenant, "nftables")
    assert is_reset(world, EVE)
    run(*world.network.inside("server", ["nft", "flush", "ruleset"]))
    wait_for("everybody else is refused again", lambda: is_reset(world, EVE))
    assert session.running
    # Only now: on a busy machine it takes a while until the session is there.
    world.rule(team, tenant, "203.0.113.87/32", name=name, expiresAt=in_seconds(5))
    wait_for("the session has ended", lambda: not session.running)
    assert is_reset(world, "203.0.113.87")
