"""Secrets that are watched: read once, and never older than what the API server has."""

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness.world import World, secret

from vaultbrix.kube import secrets as secrets_module
from vaultbrix.kube.client import Kube, NotFound
from vaultbrix.kube.secrets import SecretKey, Secrets
from vaultbrix.runtime.errors import Blocked

SECONDS = 20


def with_secrets(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[Secrets, list[SecretKey]], Awaitable[None]],
    kubeconfig: Path | None = None,
) -> None:
    """Run it with Secrets of an API server, and the keys of those that changed; as an admin, unless told otherwise."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig or world.api.kubeconfig))

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


def test_an_api_server_that_is_away_leaves_what_was_known_and_nothing_stale_once_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = world.team()
    for name in ("watched", "deleted"):
        world.api.apply(secret(team, name, {"key": "first"}))

    async def work(secrets: Secrets, changed: list[SecretKey]) -> None:
        async def gone() -> bool:
            try:
                await secrets.get(team, "deleted")
            except NotFound:
                return True
            return False

        async def told() -> set[SecretKey]:
            return set(changed)

        for name in ("watched", "deleted"):
            assert await value(secrets, team, name) == "first"
        world.api.pause()
        try:
            # Until the broken watch has been noticed, and after it.
            for _ in range(40):
                assert await value(secrets, team) == "first"
                await asyncio.sleep(0.05)
            assert changed == []
        finally:
            world.api.resume()
        world.api.apply(secret(team, "watched", {"key": "second"}))
        world.api.kubectl("delete", "secret", "deleted", "-n", team)
        # Nobody has to ask for a change to be heard of.
        await becomes(told, {(team, "watched"), (team, "deleted")})
        assert await value(secrets, team) == "second"
        assert await gone()

    with_secrets(world, monkeypatch, work)


def test_a_secret_of_long_ago_is_not_asked_for_again_and_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that has started knows no changes from before."""
    team = world.team()
    world.api.apply(secret(team, "watched", {"key": "first"}))
    world.api.apply(secret(team, "other", {"key": "later"}))
    world.api.pause()
    world.api.resume()
    asked = 0

    async def work(secrets: Secrets, changed: list[SecretKey]) -> None:
        ask = Kube.get

        async def counted(self: Kube, *arguments: Any) -> Any:
            nonlocal asked
            asked += 1
            return await ask(self, *arguments)

        monkeypatch.setattr(Kube, "get", counted)
        assert await value(secrets, team) == "first"
        await asyncio.sleep(2)
        assert asked <= 3
        world.api.apply(secret(team, "watched", {"key": "second"}))

        async def told() -> list[SecretKey]:
            return changed

        await becomes(told, [(team, "watched")])
        assert await value(secrets, team) == "second"

    with_secrets(world, monkeypatch, work)


def test_a_secret_that_is_deleted_just_before_it_is_watched_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = world.team()
    world.api.apply(secret(team, "watched", {"key": "first"}))
    world.api.apply(secret(team, "other", {"key": "later"}))
    world.api.pause()
    world.api.resume()

    async def work(secrets: Secrets, changed: list[SecretKey]) -> None:
        read_again = Secrets._read_again

        async def then_deleted(self: Secrets, key: SecretKey) -> None:
            await read_again(self, key)
            if key in self._kept:
                await asyncio.to_thread(world.api.kubectl, "delete", "secret", "watched", "-n", team)

        monkeypatch.setattr(Secrets, "_read_again", then_deleted)
        assert await value(secrets, team) == "first"

        async def told() -> list[SecretKey]:
            return changed

        await becomes(told, [(team, "watched")])
        with pytest.raises(NotFound):
            await secrets.get(team, "watched")

    with_secrets(world, monkeypatch, work)


def test_one_that_may_not_be_watched_is_read_each_time_until_it_may(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = world.team()
    world.api.apply(secret(team, "watched", {"key": "first"}))

    def allow(*verbs: str) -> None:
        rights = [{"apiGroups": [""], "resources": ["secrets"], "verbs": list(verbs)}]
        kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "reads", "namespace": team}}
        world.api.apply({**kind, "kind": "Role", "rules": rights})
        subject = {"kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}
        role = {"kind": "Role", "name": "reads", "apiGroup": "rbac.authorization.k8s.io"}
        world.api.apply({**kind, "kind": "RoleBinding", "subjects": [subject], "roleRef": role})

    async def kept(secrets: Secrets) -> bool | None:
        # The API server hears of new rights a moment later.
        with contextlib.suppress(Blocked):
            return (await secrets.get(team, "watched")) is (await secrets.get(team, "watched"))
        return None

    async def work(secrets: Secrets, _: list[SecretKey]) -> None:
        await becomes(lambda: kept(secrets), False)
        world.api.apply(secret(team, "watched", {"key": "second"}))
        assert await value(secrets, team) == "second"
        allow("get", "watch")
        await becomes(lambda: kept(secrets), True)
        world.api.apply(secret(team, "watched", {"key": "third"}))
        await becomes(lambda: value(secrets, team), "third")

    allow("get")
    monkeypatch.setattr(secrets_module, "REFUSED_SECONDS", 0.5)
    with_secrets(world, monkeypatch, work, world.api.user("reader"))
