"""``vaultbrix gateway`` beside a real API server: what it knows, how soon, and what it does when it knows nothing."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.harness.gateway_process import GOOD, NOT_READY, REFUSED, GatewayProcess, running
from tests.harness.shell import wait_for
from tests.harness.world import World

from vaultbrix.api.apikey import APIKey
from vaultbrix.gateway.last_use import write_last_use
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.informer import Informer
from vaultbrix.kube.resources import resource_type


def test_it_lets_nobody_in_without_an_api_server_and_ends_when_asked(tmp_path: Path) -> None:
    with running(GatewayProcess(tmp_path, tmp_path / "none"), ready=False) as gateway:
        assert gateway.ask("vbx_secret_" + "x" * 49) == NOT_READY
        assert gateway.process.stop() == 0, gateway.process.text()


def test_it_does_not_start_without_postgrest(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, tmp_path / "none", postgrest=str(tmp_path / "missing"))
    gateway.process.start()
    wait_for("it has ended", lambda: not gateway.process.running)
    assert gateway.process.stop() == 1
    assert "cannot be run" in gateway.process.text()


@pytest.fixture
def gateway(world: World, tmp_path: Path) -> Iterator[GatewayProcess]:
    with running(GatewayProcess(tmp_path, world.api.kubeconfig)) as started:
        yield started


def key_of(world: World, team: str, name: str) -> str:
    return world.secret(team, f"{name}-api-key")["key"]


def seconds_until(gateway: GatewayProcess, key: str, status: int) -> float:
    begun = time.monotonic()
    wait_for(f"the answer is {status}", lambda: gateway.ask(key) == status, pause=0.005)
    return time.monotonic() - begun


def test_a_key_is_known_rotated_and_revoked_within_a_moment(world: World, gateway: GatewayProcess) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.api_key(team, tenant)
    old = key_of(world, team, name)
    seconds_until(gateway, old, GOOD)
    assert gateway.ask(old[:-1]) == REFUSED
    world.api.patch("apikey", name, team, {"spec": {"rotateToken": "2"}})
    seconds_until(gateway, old, REFUSED)
    new = key_of(world, team, name)
    assert new != old
    seconds_until(gateway, new, GOOD)
    # The operator is not needed for it.
    world.operator.stop()
    world.api.patch("apikey", name, team, {"spec": {"revoked": True}})
    assert seconds_until(gateway, new, REFUSED) < 2
    world.heal()
    said = gateway.process.text() + gateway.metrics()
    assert not any(text in said for text in (old, new))
    assert 'outcome="KeyClosed"' in said


def test_an_overlap_ends_by_the_clock_with_the_api_server_away(world: World, gateway: GatewayProcess) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.api_key(team, tenant, overlap="8s")
    old = key_of(world, team, name)
    revoked = world.api_key(team, tenant)
    revoked_text = key_of(world, team, revoked)
    for text in (old, revoked_text):
        seconds_until(gateway, text, GOOD)
    world.api.patch("apikey", revoked, team, {"spec": {"revoked": True}})
    seconds_until(gateway, revoked_text, REFUSED)
    world.api.patch("apikey", name, team, {"spec": {"rotateToken": "2"}})
    wait_for("there is a new key", lambda: key_of(world, team, name) != old)
    new = key_of(world, team, name)
    seconds_until(gateway, new, GOOD)
    world.api.pause()
    try:
        assert gateway.ask(old) == GOOD
        seconds_until(gateway, old, REFUSED)
        assert (gateway.ask(new), gateway.ask(revoked_text)) == (GOOD, REFUSED)
        # One that starts now knows nothing.
        gateway.process.kill()
        gateway.start(ready=False)
        assert {gateway.ask(text) for text in (old, new, revoked_text)} == {NOT_READY}
    finally:
        world.api.resume()
    seconds_until(gateway, new, GOOD)
    assert (gateway.ask(old), gateway.ask(revoked_text)) == (REFUSED, REFUSED)


def test_the_last_use_of_a_key_is_told_beside_what_the_operator_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = world.team()
    name = world.api_key(team, world.tenant(team))
    before = world.api.get("apikey", name, team)["status"]
    used = datetime(2026, 11, 1, 12, 0, 30, tzinfo=UTC)
    monkeypatch.setenv("KUBECONFIG", str(world.api.kubeconfig))

    async def tell() -> dict[str, Any]:
        kube, cache = await Kube.connect("vaultbrix-gateway"), Cache()
        try:
            await Informer(kube, cache, APIKey).relist()
            writing = asyncio.create_task(write_last_use(kube, cache.api_keys, {(team, name): used}, pause=0.1))
            for _ in range(200):
                status: dict[str, Any] = (await kube.get(resource_type(APIKey), team, name))["status"]
                if "lastUsedAt" in status:
                    break
                await asyncio.sleep(0.05)
            writing.cancel()
            return status
        finally:
            await kube.close()

    assert asyncio.run(tell()) == {**before, "lastUsedAt": "2026-11-01T12:00:30Z"}
