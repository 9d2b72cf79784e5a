"""What a person may ask for about keys, without a terminal."""

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from tests.harness.builders import HOUR, Raw, api_key, tenant, true
from tests.harness.team import Team

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
from vaultbrix.kube import person
from vaultbrix.kube.person import Missing, NameTaken
from vaultbrix.runtime.errors import Blocked
from vaultbrix.runtime.usage import Refused

T = TypeVar("T")

READY = {**true("Ready")[0], "observedGeneration": 9}
ACTIVE: Raw = {"status": {"phase": "Active", "conditions": [READY]}}
REJECTED: Raw = {"status": {"phase": "Rejected", "conditions": [{**READY, "status": "False", "reason": "SecretTaken"}]}}
NOT_READY: Raw = {"status": {"phase": "Pending", "conditions": [{**READY, "observedGeneration": 0}]}}
TEXT = key_text(KeyKind.SECRET, bytes(32))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PAUSE_SECONDS", 0.02)


async def collected(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


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


def put_secret(team: Team, text: str) -> None:
    """Have the Secret of key shop hold that text."""
    team.api.apply({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop-api-key", "namespace": team.namespace},
        "data": {"key": base64.b64encode(text.encode()).decode()},
    })  # fmt: skip


def test_what_is_asked_for_is_what_is_created(team: Team) -> None:
    team.put(tenant())
    options = request(lasting="720h", cidrs=("203.0.113.7",), overlap="1h", secret_name="for-shop", wait=False)
    made = team.ask(lambda person: create(person, options)).api_key.resource
    spec = team.read(made).spec.dump()
    assert {name: value for name, value in spec.items() if name not in ("revoked", "rotateToken")} == {
        "tenantRef": {"name": "acme"},
        "kind": "Secret",
        "reason": "CHG-3",
        "requestedBy": "jane@example.com",
        "overlap": "1h",
        "ttl": "720h",
        "allowedCIDRs": ["203.0.113.7/32"],
        "secretName": "for-shop",
    }


def test_a_key_without_a_name_gets_one_that_tells_tenant_and_kind(team: Team) -> None:
    team.put(tenant())
    made = team.ask(lambda person: create(person, request(name="", kind=KeyKind.PUBLISHABLE, wait=False)))
    assert made.api_key.resource.metadata.name.startswith("acme-publishable-")
    spec = made.api_key.resource.spec
    assert (spec.ttl, spec.expires_at, spec.allowed_cidrs, spec.secret_name) == (None, None, [], None)


def test_a_dry_run_creates_nothing(team: Team) -> None:
    team.put(tenant())
    assert team.ask(lambda person: create(person, request(dry_run=True))).progress is None
    assert team.versions(APIKey) == {}


def test_a_name_that_is_taken_and_a_tenant_that_is_not_there_are_told(team: Team) -> None:
    with pytest.raises(Missing, match="Tenant acme not found"):
        team.ask(lambda person: create(person, request()))
    team.put(tenant(), current())
    with pytest.raises(NameTaken, match="has an APIKey of that name, which keeps its key"):
        team.ask(lambda person: create(person, request()))


def test_each_rotation_has_a_token_of_its_own_and_leaves_the_overlap_unless_one_is_given(team: Team) -> None:
    before = current(rotateToken="before", overlap="1h")
    team.put(before)
    tokens = ["before"]
    for overlap, expected in ((None, HOUR), ("0s", 0 * HOUR)):
        options = RotateOptions(name="shop", overlap=overlap, wait=False)
        team.ask(lambda person, options=options: rotate(person, options))  # type: ignore[misc]
        spec = team.read(before).spec
        tokens.append(spec.rotate_token)
        assert spec.overlap == expected
    assert len(set(tokens)) == 3
    assert max(map(len, tokens)) <= 64


@pytest.mark.parametrize("gone", [ended("shop"), current(revoked=True), current(expiresAt="2020-01-01T00:00:00Z")])
def test_a_key_that_has_ended_is_not_rotated(team: Team, gone: APIKey) -> None:
    team.put(gone)
    before = team.versions(APIKey)
    with pytest.raises(Refused, match="never comes back; make another: vaultbrix keys create"):
        team.ask(lambda person: rotate(person, RotateOptions(name="shop")))
    assert team.versions(APIKey) == before


def test_a_name_that_is_wrong_is_told_before_any_key_is_revoked(team: Team) -> None:
    team.put(current("shop"), current("web"))
    before = team.versions(APIKey)
    with pytest.raises(Missing, match=r"APIKey sho not found in namespace .*; did you mean shop"):
        team.ask(lambda person: collected(revoke(person, RevokeOptions(names=("web", "sho")))))
    assert team.versions(APIKey) == before


def test_the_text_is_read_only_where_the_secret_holds_the_newest_key(team: Team) -> None:
    team.put(current())
    known = team.read(current())
    for text in (None, key_text(KeyKind.SECRET, b"x" * 32)):
        if text is not None:
            put_secret(team, text)
        with pytest.raises(Refused, match="does not hold the key"):
            team.ask(lambda person: read_key(person, known))
    put_secret(team, TEXT)
    assert team.ask(lambda person: read_key(person, known)) == TEXT
    with pytest.raises(Blocked):
        team.ask(lambda person: read_key(person, known), person=team.person())


def test_keys_are_listed_by_tenant_and_the_ended_ones_only_on_request(team: Team) -> None:
    team.put(current("shop"), current("web", tenantRef={"name": "globex"}), ended("old"))

    def names(**options: Any) -> set[str]:
        listed = team.ask(lambda person: list_keys(person, KeysOptions(**options)))
        return {item.resource.metadata.name for item in listed}

    assert names() == {"shop", "web"}
    assert names(tenant="acme") == {"shop"}
    assert names(tenant="acme", ended=True) == {"shop", "old"}
    assert names(everywhere=True) == {"shop", "web"}
