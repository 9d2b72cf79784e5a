"""Whose key has which hash, as the cache keeps it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import NOW, api_key

from vaultbrix.api.apikey import APIKey
from vaultbrix.api.meta import rfc3339
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.store import Change

A, B, C = "a" * 64, "b" * 64, "c" * 64


def version(number: int, *hashes: str, name: str = "shop", **status: Any) -> APIKey:
    keys = [{"sha256": sha256, "prefix": "vbx_secret_x", "createdAt": rfc3339(NOW)} for sha256 in hashes]
    return api_key(name, metadata={"resourceVersion": str(number)}, status={"keys": keys, **status})


def test_a_key_is_found_by_each_hash_that_its_status_has_and_by_none_that_it_had() -> None:
    cache = Cache()
    cache.put(version(1, A))
    cache.put(version(2, B, A))
    assert cache.api_key_by_sha256(A) is cache.api_key_by_sha256(B) is cache.api_keys.get("team", "shop")
    cache.put(version(3, B))
    assert cache.api_key_by_sha256(A) is None
    cache.remove(APIKey, "team", "shop")
    assert cache.api_key_by_sha256(B) is None


def test_the_key_that_was_replaced_last_is_found_until_another_one_is() -> None:
    changes: list[Change[APIKey]] = []
    cache = Cache(changes.append)
    ended = {"createdAt": rfc3339(NOW), "closedAt": rfc3339(NOW), "reason": "Rotated", "message": ""}
    cache.put(version(1, A))
    cache.put(version(2, B, receipt={"sha256": A, **ended}))
    assert cache.api_key_by_sha256(A) is cache.api_keys.get("team", "shop")
    cache.put(version(3, B, receipt={"sha256": A, "requests": 7, **ended}))
    assert [change.decisive for change in changes] == [True, True, False]
    cache.put(version(4, C, receipt={"sha256": B, **ended}))
    assert cache.api_key_by_sha256(A) is None
    assert cache.api_key_by_sha256(B) is not None


def test_a_hash_that_two_objects_claim_is_nobodys_until_one_gives_it_up() -> None:
    cache = Cache()
    cache.put(version(1, A))
    cache.put(version(2, A, name="thief"))
    assert cache.api_key_by_sha256(A) is None
    cache.put(version(3, name="thief"))
    found = cache.api_key_by_sha256(A)
    assert found is not None
    assert found.metadata.name == "shop"


def test_the_use_of_a_key_is_no_decisive_change_and_yet_what_is_found() -> None:
    changes: list[Change[APIKey]] = []
    cache = Cache(changes.append)
    cache.put(version(1, A, phase="Active"))
    cache.put(version(2, A, phase="Active", lastUsedAt=rfc3339(NOW)))
    cache.put(version(3, A, phase="Revoked", lastUsedAt=rfc3339(NOW)))
    assert [change.decisive for change in changes] == [True, False, True]
    found = cache.api_key_by_sha256(A)
    assert found is not None
    assert found.status.phase == "Revoked"


def test_a_tenants_keys_are_found_by_the_tenant() -> None:
    cache = Cache()
    cache.put(version(1))
    cache.put(api_key("other", tenantRef={"name": "globex"}))
    assert [found.metadata.name for found in cache.api_keys_of(("team", "acme"))] == ["shop"]


STEPS = st.tuples(st.sampled_from(["shop", "web"]), st.none() | st.lists(st.sampled_from([A, B, C]), max_size=2))


@given(st.lists(STEPS, max_size=20))
def test_whatever_comes_and_goes_the_index_says_what_the_objects_say(steps: list[tuple[str, list[str] | None]]) -> None:
    cache = Cache()
    for number, (name, hashes) in enumerate(steps, 1):
        if hashes is None:
            cache.remove(APIKey, "team", name)
        else:
            cache.put(version(number, *hashes, name=name))
        for sha256 in (A, B, C):
            holders = [k for k in cache.api_keys if any(e.sha256 == sha256 for e in k.status.keys)]
            assert cache.api_key_by_sha256(sha256) is (holders[0] if len(holders) == 1 else None)
