"""A Secret that was watched is kept while an API server that has just started refuses everybody."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from vaultbrix.api.conditions import Reason
from vaultbrix.kube import secrets as secrets_module
from vaultbrix.kube.client import Kube, Object
from vaultbrix.kube.resources import ResourceType
from vaultbrix.kube.secrets import Secrets
from vaultbrix.runtime.errors import Blocked, Transient

WHERE = ("team", "credentials")


class Restarted(Kube):
    """It ends a watch, refuses what comes next, and is away after that."""

    def __init__(self, refusals: int, *, ended: bool = True) -> None:
        super().__init__("test")
        self.answers: list[Exception] = [Transient(Reason.UNREACHABLE, "ended")] if ended else []
        self.answers += [Blocked(Reason.FORBIDDEN, "cannot watch secrets")] * refusals
        self.away = asyncio.Event()
        self.reads = 0

    async def get(self, kind: ResourceType, namespace: str, name: str) -> Object:
        self.reads += 1
        if self.away.is_set():
            raise Transient(Reason.UNREACHABLE, "away")
        return {"metadata": {"namespace": namespace, "name": name, "resourceVersion": "7"}, "data": {}}

    async def watch(
        self, kind: ResourceType, resource_version: str, namespace: str = "", name: str = "", *, labels: str = ""
    ) -> AsyncIterator[Object]:
        if self.answers:
            raise self.answers.pop(0)
        self.away.set()
        raise Transient(Reason.UNREACHABLE, "away")
        yield {}


def kept(kube: Restarted) -> bool:
    """Whether it can be had while the API server is away."""

    async def read() -> bool:
        secrets = Secrets(kube)
        try:
            await secrets.get(*WHERE)
            async with asyncio.timeout(20):
                await kube.away.wait()
            reads = kube.reads
            with contextlib.suppress(Transient):
                await secrets.get(*WHERE)
            return kube.reads == reads
        finally:
            await secrets.close()

    return asyncio.run(read())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_module, "_LONGEST_PAUSE", 0.01)


def test_one_that_was_watched_is_kept_over_a_few_refusals() -> None:
    assert kept(Restarted(refusals=3))


def test_one_that_is_refused_for_long_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_module, "REFUSED_SECONDS", 0.02)
    kube = Restarted(refusals=1000)

    async def read() -> int:
        secrets = Secrets(kube)
        await secrets.get(*WHERE)
        await asyncio.sleep(0.3)
        before = kube.reads
        await secrets.get(*WHERE)
        await secrets.close()
        return kube.reads - before

    assert asyncio.run(read()) == 1


def test_one_that_never_might_be_watched_is_read_each_time() -> None:
    kube = Restarted(refusals=1000, ended=False)

    async def read() -> int:
        secrets = Secrets(kube)
        await secrets.get(*WHERE)
        await asyncio.sleep(0.1)
        await secrets.get(*WHERE)
        await secrets.close()
        return kube.reads

    assert asyncio.run(read()) == 2
