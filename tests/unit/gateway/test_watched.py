"""What follows for decisions when objects and Secrets change."""

import asyncio
import base64
from typing import Any

import pytest
from tests.harness.builders import api_key, tenant, true
from tests.harness.known_keys import USERS_SECRET, digest

from vaultbrix.api.tenant import Tenant
from vaultbrix.gateway.jwks import KeySets
from vaultbrix.gateway.jwt import secret_key
from vaultbrix.gateway.watched import Watched
from vaultbrix.kube.client import NotFound
from vaultbrix.kube.secrets import SecretKey

TEAM = "team"
NAME = (TEAM, "acme")


class FakeSecrets:
    """Secrets as they are now, by (namespace, name)."""

    def __init__(self) -> None:
        self.data: dict[SecretKey, dict[str, str]] = {}
        self.changed: Any = None

    def on_change(self, listener: Any) -> None:
        self.changed = listener

    def put(self, name: str, value: bytes) -> None:
        self.data[(TEAM, name)] = {"jwt": base64.b64encode(value).decode()}

    async def get(self, namespace: str, name: str) -> dict[str, Any]:
        if (namespace, name) not in self.data:
            raise NotFound(name)
        return {"data": self.data[(namespace, name)]}


BY_SECRET = {"jwt": {"secretRef": {"name": "users", "key": "jwt"}}}
BY_URL = {"jwt": {"jwksURL": "https://id.example/jwks"}}


def served(data_api: dict[str, Any], *, version: int = 1, **spec: Any) -> Tenant:
    """A Tenant that is served, as its ``version``-th write left it."""
    status = {"conditions": true("Provisioned", "DataAPIReady")}
    return tenant(metadata={"resourceVersion": str(version)}, status=status, dataAPI=data_api, **spec)


@pytest.fixture
def secrets() -> FakeSecrets:
    return FakeSecrets()


@pytest.fixture
def watched(secrets: FakeSecrets) -> Watched:
    return Watched(None, secrets, KeySets())  # type: ignore[arg-type]  # nothing is asked of the API server


def keys(watched: Watched) -> tuple[Any, ...]:
    known = watched.tenant(NAME)
    assert known is not None
    assert known.users is not None
    return known.users.keys


def read(watched: Watched) -> None:
    asyncio.run(watched._read_secret(NAME))


def test_the_secret_of_users_is_known_as_it_is(watched: Watched, secrets: FakeSecrets) -> None:
    watched.cache.put(served(BY_SECRET))
    secrets.put("users", USERS_SECRET)
    assert keys(watched) == ()
    read(watched)
    assert keys(watched) == (secret_key(USERS_SECRET),)
    # Whoever rotates it ends the old one's tokens.
    secrets.put("users", b"y" * 32)
    secrets.changed((TEAM, "users"))
    assert NAME in watched._to_read.waiting
    read(watched)
    assert keys(watched) == (secret_key(b"y" * 32),)
    for unusable in (b"short", None):
        secrets.put("users", USERS_SECRET)
        read(watched)
        assert keys(watched) == (secret_key(USERS_SECRET),)
        secrets.data.clear() if unusable is None else secrets.put("users", unusable)
        read(watched)
        assert keys(watched) == ()


def test_a_secret_that_is_no_longer_named_is_forgotten(watched: Watched, secrets: FakeSecrets) -> None:
    watched.cache.put(served(BY_SECRET))
    secrets.put("users", USERS_SECRET)
    read(watched)
    watched.cache.put(served(BY_URL, version=2))
    assert list(watched.sources()) == ["https://id.example/jwks"]
    read(watched)
    assert (watched._users_of, watched._secret_keys) == ({}, {})
    watched.cache.put(served(BY_URL, version=3))
    assert keys(watched) == ()


def test_a_tenant_is_read_anew_when_it_changes(watched: Watched) -> None:
    assert watched.tenant(NAME) is None
    watched.cache.put(served(BY_URL))
    known = watched.tenant(NAME)
    assert known is not None
    assert known.served
    assert watched.tenant(NAME) is known
    watched.cache.put(served(BY_URL, version=2, suspended=True))
    changed = watched.tenant(NAME)
    assert changed is not None
    assert not changed.served
    watched.cache.remove(Tenant, *NAME)
    assert watched.tenant(NAME) is None


def test_a_key_is_found_by_its_hash_unless_two_objects_claim_it(watched: Watched) -> None:
    sha256 = digest("vbx_secret_a")
    status = {
        "phase": "Active",
        "keys": [{"sha256": sha256, "prefix": "vbx_secret_a", "createdAt": "2026-11-01T00:00:00Z"}],
    }
    watched.cache.put(api_key(status=status))
    known = watched.key(sha256)
    assert known is not None
    assert not known.closed
    assert watched.key(digest("vbx_secret_b")) is None
    watched.cache.put(api_key("thief", status=status, metadata={"namespace": "evil", "uid": "uid-thief"}))
    assert watched.key(sha256) is None
