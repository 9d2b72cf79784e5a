"""Credentials that end while one waits: they are read again, by the same user of the same cluster."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.harness.command_line import Person
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.short_tokens import ShortTokens
from tests.harness.world import World, approval

from vaultbrix.api.conditions import Reason
from vaultbrix.kube.client import Kube
from vaultbrix.kube.resources import NAMESPACES
from vaultbrix.runtime.errors import Blocked

Make = Callable[..., ShortTokens]

# The API server remembers for 10 s that it has accepted a token.
FORGOTTEN = 12


@pytest.fixture(scope="module")
def team(running: World) -> str:
    running.heal()
    return running.team()


@pytest.fixture
def make(running: World, team: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a person with short tokens, whose kubeconfig holds in this process, too."""
    number = iter(range(1, 99))

    def make(lasting: int | None = None) -> ShortTokens:
        name = f"short-{tmp_path.name[-20:].replace('_', '-').strip('-')}-{next(number)}"
        made = ShortTokens(running.api, tmp_path / name, team, name, lasting)
        monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig))
        return made

    return make


def asked(story: Callable[[Kube], Awaitable[None]]) -> None:
    """Play a story with one connection."""

    async def play() -> None:
        kube = Kube("tests")
        try:
            await story(kube)
        finally:
            await kube.close()

    asyncio.run(play())


async def refused_by_now(kube: Kube) -> None:
    await asyncio.sleep(FORGOTTEN)
    await asyncio.gather(*(kube.list(NAMESPACES) for _ in range(8)))


def test_a_token_is_replaced_before_its_end(make: Make) -> None:
    person = make(lasting=5)

    async def story(kube: Kube) -> None:
        begun = time.monotonic()
        while time.monotonic() < begun + 11:
            await kube.list(NAMESPACES)
            await asyncio.sleep(0.2)

    asked(story)
    assert 3 <= person.calls <= 5


def test_a_token_that_is_refused_is_replaced_once_whoever_asks(make: Make) -> None:
    person = make()

    async def story(kube: Kube) -> None:
        await kube.list(NAMESPACES)
        person.end(1)
        await refused_by_now(kube)
        await kube.list(NAMESPACES)

    asked(story)
    assert person.calls == 2


def test_a_program_that_fails_for_a_while_ends_nothing_while_the_token_is_good(make: Make) -> None:
    person = make(lasting=2)

    async def story(kube: Kube) -> None:
        await kube.list(NAMESPACES)
        person.break_program()
        await asyncio.sleep(3)
        await kube.list(NAMESPACES)
        person.break_program(broken=False)
        person.end(1)
        await refused_by_now(kube)

    asked(story)


def test_credentials_that_are_not_accepted_a_second_time_are_told(make: Make) -> None:
    person = make()

    async def story(kube: Kube) -> None:
        await kube.list(NAMESPACES)
        person.break_program()
        person.end(1)
        with pytest.raises(Blocked, match="does not accept the credentials") as refused:
            await refused_by_now(kube)
        assert refused.value.reason is Reason.AUTHENTICATION_FAILED

    asked(story)
    assert person.calls <= 1 + 8


def test_a_program_that_gives_nothing_is_told_with_its_name(make: Make) -> None:
    person = make()
    person.break_program()

    async def story(kube: Kube) -> None:
        with pytest.raises(Blocked, match=r"/token, which gives the credentials of kubeconfig context .*, gave none"):
            await kube.list(NAMESPACES)
        person.break_program(broken=False)
        await kube.list(NAMESPACES)

    asked(story)


def test_who_logs_in_another_way_meanwhile_goes_on_with_that_at_the_same_cluster(make: Make, running: World) -> None:
    person = make()
    user = json.loads(running.api.user("jane", "system:masters").read_text())["users"][0]["user"]

    async def story(kube: Kube) -> None:
        name = await kube.whoami()
        assert name.startswith("system:serviceaccount:")
        person.end(1)
        person.write(user, server="https://192.0.2.1:6443")
        with pytest.raises(Blocked, match="does not accept"):
            await refused_by_now(kube)
        person.write(user)
        assert await kube.whoami() == "jane"
        await kube.list(NAMESPACES)

    asked(story)


def test_commands_that_wait_go_on(make: Make, running: World, team: str) -> None:
    person = make(lasting=20)
    tenant = running.tenant(team)
    running.api.apply(approval(team, "waited-for", tenant, "CREATE TABLE waited_for (id int)", execution="Session"))
    wait_for("its hash is shown", lambda: running.api.get("ddlapproval", "waited-for", team)["status"].get("sha256"))
    running.agent.stop()
    command = Person(person.kubeconfig)
    waits = Process(
        command.command("ddl", "wait", "waited-for", "--timeout", "3m"),
        running.directory / "ddl-wait.log",
        env=command.environment,
    )
    opens = Process(
        command.command(
            "allow", tenant, "--cidr", "203.0.113.66/32", "--for", "1h", "--reason", "x", "--timeout", "3m"
        ),
        running.directory / "allow.log",
        env=command.environment,
    )
    waits.start()
    opens.start()
    try:
        wait_for("both have a token", lambda: person.given >= 2)
        for number in (1, 2):
            person.end(number)
        time.sleep(25)
        assert waits.running, waits.text()
        assert opens.running, opens.text()
        assert person.calls >= 4
        sha256 = running.api.get("ddlapproval", "waited-for", team)["status"]["sha256"]
        decision = {"verdict": "Approved", "by": "pat@example.com", "sha256": sha256}
        running.api.patch("ddlapproval", "waited-for", team, {"spec": {"decision": decision}})
        running.agent.start()
        for process in (waits, opens):
            wait_for("it ends", lambda ends=process: not ends.running, patience=60, tell=process.text)  # type: ignore[misc]
            assert process.stop() == 0, process.text()
    finally:
        waits.kill()
        opens.kill()
        running.heal()
