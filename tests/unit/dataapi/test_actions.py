"""What a person may ask for about keys, without a terminal and without a cluster."""

import asyncio
import base64
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from tests.harness.builders import HOUR, Raw, api_key, tenant, true
from tests.harness.fake_kube import FakeKube

from vaultbrix.api.apikey import APIKey, KeyKind
from vaultbrix.api.meta import rfc3339
from vaultbrix.dataapi.actions import (
    CreateOptions,
    KeysOptions,
    RevokeOptions,
    RotateOptions,
    create,
    list_keys,
    read_key,
    revoke,
    rotate,
)
from vaultbrix.dataapi.key import key_text, sha256_of
from vaultbrix.dataapi.progress import Progress, time_left
from vaultbrix.kube import person
from vaultbrix.kube.client import SECRETS
from vaultbrix.kube.person import Missing, NameTaken, PersonClient
from vaultbrix.runtime.errors import Blocked
from vaultbrix.runtime.usage import Misused, Refused

T = TypeVar("T")

READY = {**true("Ready")[0], "observedGeneration": 9}
ACTIVE: Raw = {"status": {"phase": "Active", "conditions": [READY]}}
REJECTED: Raw = {"status": {"phase": "Rejected", "conditions": [{**READY, "status": "False", "reason": "SecretTaken"}]}}
NOT_READY: Raw = {"status": {"phase": "Pending", "conditions": [{**READY, "observedGeneration": 0}]}}
TEXT = key_text(KeyKind.SECRET, bytes(32))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PAUSE_SECONDS", 0.0)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def collected(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


def client(kube: FakeKube) -> PersonClient:
    return PersonClient(kube, namespace="team")  # type: ignore[arg-type]


def request(**changes: Any) -> CreateOptions:
    return CreateOptions(**{"tenant": "acme", "kind": KeyKind.SECRET, "reason": "CHG-3", "name": "shop", **changes})


def entry(text: str = TEXT, **fields: Any) -> Raw:
    return {"sha256": sha256_of(text), "prefix": text[:20], "createdAt": rfc3339(datetime.now(UTC)), **fields}


def current(name: str = "shop", *, status: Raw | None = None, **spec: Any) -> APIKey:
    """A key that was made just now."""
    metadata = {"creationTimestamp": rfc3339(datetime.now(UTC))}
    return api_key(name, metadata=metadata, status={"phase": "Active", "keys": [entry()], **(status or {})}, **spec)


def ended(name: str) -> APIKey:
    closed = rfc3339(datetime.now(UTC) - HOUR)
    return current(name, status={"phase": "Expired", "closedAt": closed, "closedReason": "Expired"})


def secret(text: str) -> Raw:
    return {
        "metadata": {"name": "shop-api-key", "namespace": "team"},
        "data": {"key": base64.b64encode(text.encode()).decode()},
    }


def test_what_is_asked_for_is_what_is_created() -> None:
    kube = FakeKube(tenant())
    kube.then("shop", ACTIVE)
    options = request(lasting="720h", cidrs=("203.0.113.7",), overlap="1h", secret_name="for-shop")
    created = run(create(client(kube), options))
    (body,) = kube.created
    assert body["metadata"] == {"namespace": "team", "name": "shop"}
    assert body["spec"] == {
        "tenantRef": {"name": "acme"},
        "kind": "Secret",
        "reason": "CHG-3",
        "requestedBy": "jane@example.com",
        "overlap": "1h",
        "ttl": "720h",
        "allowedCIDRs": ["203.0.113.7/32"],
        "secretName": "for-shop",
    }
    assert created.progress is Progress.READY


def test_a_key_without_a_name_an_end_or_networks_has_none_in_its_manifest() -> None:
    kube = FakeKube(tenant())
    run(create(client(kube), request(name="", kind=KeyKind.PUBLISHABLE, wait=False)))
    (body,) = kube.created
    assert body["metadata"] == {"namespace": "team", "generateName": "acme-publishable-"}
    assert body["spec"].keys() == {"tenantRef", "kind", "reason", "requestedBy", "overlap"}


@pytest.mark.parametrize(("change", "reached"), [(REJECTED, Progress.NEVER), (NOT_READY, Progress.WAITING)])
def test_a_key_that_does_not_become_good_is_told_apart(change: Raw, reached: Progress) -> None:
    kube = FakeKube(tenant())
    kube.then("shop", change)
    assert run(create(client(kube), request(timeout="1s"))).progress is reached


def test_a_dry_run_creates_nothing() -> None:
    kube = FakeKube(tenant())
    assert run(create(client(kube), request(dry_run=True))).progress is None
    assert kube.created == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (request(lasting="1h", until="2099-01-01T00:00:00Z"), "at most one of --for"),
        (request(cidrs=("0.0.0.0/0",)), "every address"),
        (request(cidrs=tuple(f"203.0.113.{n}" for n in range(33))), "make another key for more"),
        (request(overlap="soon"), "--overlap soon"),
        (request(reason=" "), "--reason"),
        (request(name="No Name"), "--name No Name"),
        (request(secret_name="a/b"), "--secret-name a/b"),
        (request(timeout="0s"), "--timeout 0s"),
    ],
)
def test_a_wrong_option_is_named_before_anybody_is_asked(options: CreateOptions, says: str) -> None:
    kube = FakeKube()
    with pytest.raises(Misused, match=says):
        run(create(client(kube), options))
    assert kube.created == []


def test_a_name_that_is_taken_and_a_tenant_that_is_not_there_are_told() -> None:
    with pytest.raises(NameTaken, match="has an APIKey of that name, which keeps its key"):
        run(create(client(FakeKube(tenant(), current())), request()))
    with pytest.raises(Missing, match="Tenant acme not found"):
        run(create(client(FakeKube()), request()))


def test_each_rotation_has_a_token_of_its_own_and_leaves_the_overlap_unless_one_is_given() -> None:
    kube = FakeKube(current(rotateToken="before"))
    run(rotate(client(kube), RotateOptions(name="shop", wait=False)))
    run(rotate(client(kube), RotateOptions(name="shop", overlap="0s", wait=False)))
    first, second = (body["spec"] for body in kube.patched)
    assert first.keys() == {"rotateToken"}
    assert second["overlap"] == "0s"
    assert len({"before", first["rotateToken"], second["rotateToken"]}) == 3
    assert max(len(spec["rotateToken"]) for spec in (first, second)) <= 64


def test_a_rotation_says_until_when_the_old_key_is_good() -> None:
    kube = FakeKube(current())
    end = rfc3339(datetime.now(UTC) + HOUR)
    keys = [entry("vbx_secret_another"), entry(expiresAt=end)]
    kube.then("shop", {}, {"status": {**ACTIVE["status"], "keys": keys}})
    rotated = run(rotate(client(kube), RotateOptions(name="shop", overlap="1h")))
    assert rotated.progress is Progress.READY
    assert rotated.old is not None
    assert rfc3339(rotated.old.expires_at or datetime.now(UTC)) == end
    kube.then("shop", {}, {"status": {**ACTIVE["status"], "keys": [entry("vbx_secret_third")]}})
    assert run(rotate(client(kube), RotateOptions(name="shop"))).old is None


@pytest.mark.parametrize("gone", [ended("shop"), current(revoked=True), current(expiresAt="2020-01-01T00:00:00Z")])
def test_a_key_that_has_ended_is_not_rotated(gone: APIKey) -> None:
    kube = FakeKube(gone)
    with pytest.raises(Refused, match="never comes back; make another: vaultbrix keys create"):
        run(rotate(client(kube), RotateOptions(name="shop")))
    assert kube.patched == []


def test_keys_are_revoked_all_before_any_is_waited_for_and_only_if_all_exist() -> None:
    kube = FakeKube(current("shop"), current("web"), ended("old"))
    kube.then("shop", {}, {"status": {"phase": "Revoked"}})
    options = RevokeOptions(names=("shop", "old", "web", "shop"), timeout="1s")
    told = run(collected(revoke(client(kube), options)))
    assert [(r.api_key.metadata.name, r.confirmed, r.ended_before) for r in told] == [
        ("old", True, True), ("shop", True, False), ("web", False, False),
    ]  # fmt: skip
    assert kube.patched == [{"spec": {"revoked": True}}] * 2
    with pytest.raises(Missing, match="APIKey sho not found in namespace team; did you mean shop"):
        run(collected(revoke(client(kube), RevokeOptions(names=("web", "sho")))))
    assert len(kube.patched) == 2


def test_the_text_is_read_only_where_the_secret_holds_the_newest_key() -> None:
    kube = FakeKube(current())
    with pytest.raises(Refused, match="does not hold the key"):
        run(read_key(client(kube), current()))
    kube.put_raw(SECRETS, secret(key_text(KeyKind.SECRET, b"x" * 32)))
    with pytest.raises(Refused, match="does not hold the key"):
        run(read_key(client(kube), current()))
    kube.put_raw(SECRETS, secret(TEXT))
    assert run(read_key(client(kube), current())) == TEXT
    kube.forbidden.add(("get", "secrets"))
    with pytest.raises(Blocked):
        run(read_key(client(kube), current()))


def test_keys_are_listed_by_tenant_and_the_ended_ones_only_on_request() -> None:
    kube = FakeKube(current("shop"), current("web", tenantRef={"name": "globex"}), ended("old"))

    def names(**options: Any) -> set[str]:
        return {item.resource.metadata.name for item in run(list_keys(client(kube), KeysOptions(**options)))}

    assert names() == {"shop", "web"}
    assert names(tenant="acme") == {"shop"}
    assert names(tenant="acme", ended=True) == {"shop", "old"}
    assert names(everywhere=True) == {"shop", "web"}


def test_the_time_that_is_left_is_told_for_each_kind_of_life() -> None:
    now = datetime.now(UTC)
    assert time_left(current(), now) == "until revoked"
    assert time_left(current(expiresAt=rfc3339(now + 2 * HOUR)), now).startswith("1h59m")
    assert time_left(ended("old"), now).startswith("ended 1h")
    assert time_left(current(revoked=True), now) == "ended 0s ago"
    assert time_left(current(status={"phase": "Rejected"}), now) == "not made"
