"""Secrets that are watched: read once, and never older than what the API server has."""

import asyncio
import base64
from collections.abc import Awaitable, Callable

import pytest
from tests.harness.world import World, secret

from vaultbrix.kube.client import Kube, NotFound
from vaultbrix.kube.secrets import SecretKey, Secrets

SECONDS = 20


def with_secrets(
    world: World, monkeypatch: pytest.MonkeyPatch, work: Callable[[Secrets, list[SecretKey]], Awaitable[None]]
) -> None:
    """Run it with Secrets of an API server, and the keys of those that changed."""
    monkeypatch.setenv("KUBECONFIG", str(world.api.kubeconfig))

    async def run() -> None:
        kube = await Kube.connect("test")
        secrets = Secrets(kube)
        changed: list[SecretKey] = []
        secrets.on_change(changed.append)
        try:
            await work(secrets, changed)
        finally:
            await secrets.close()
            await kube.close()

    asyncio.run(run())


async def value(secrets: Secrets, namespace: str, name: str = "watched") -> str:
    data = (await secrets.get(namespace, name))["data"]
    return base64.b64decode(data["key"]).decode()


async def becomes(read: Callable[[], Awaitable[object]], expected: object) -> None:
    for _ in range(SECONDS * 50):
        if await read() == expected:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"it never becomes {expected}")


def test_a_change_counts_at_once_and_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    team = world.team()
    world.api.apply(secret(team, "watched", {"key": "first"}))

    async def work(secrets: Secrets, changed: list[SecretKey]) -> None:
        assert await value(secrets, team) == "first"
        assert (await secrets.get(team, "watched")) is (await secrets.get(team, "watched"))
        world.api.apply(secret(team, "watched", {"key": "second"}))
        await becomes(lambda: value(secrets, team), "second")
        assert set(changed) == {(team, "watched")}

    with_secrets(world, monkeypatch, work)


def test_one_that_is_deleted_is_missing_and_one_made_anew_is_read_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = world.team()
    world.api.apply(secret(team, "watched", {"key": "first"}))

    async def found(secrets: Secrets) -> str:
        try:
            return await value(secrets, team)
        except NotFound:
            return "missing"

    async def work(secrets: Secrets, changed: list[SecretKey]) -> None:
        assert await found(secrets) == "first"
        world.api.kubectl("delete", "secret", "watched", "-n", team)
        await becomes(lambda: found(secrets), "missing")
        assert changed
        world.api.apply(secret(team, "watched", {"key": "again"}))
        await becomes(lambda: found(secrets), "again")

    with_secrets(world, monkeypatch, work)


def test_an_api_server_that_restarts_leaves_nothing_stale(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    team = world.team()
    world.api.apply(secret(team, "watched", {"key": "first"}))

    async def work(secrets: Secrets, _: list[SecretKey]) -> None:
        assert await value(secrets, team) == "first"
        world.api.pause()
        world.api.resume()
        world.api.apply(secret(team, "watched", {"key": "second"}))

        async def read() -> str:
            try:
                return await value(secrets, team)
            except Exception:  # The connections of before are broken.
                return ""

        await becomes(read, "second")

    with_secrets(world, monkeypatch, work)
