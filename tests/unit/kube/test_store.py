from typing import Any

from tests.harness.builders import rule

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.store import Store


def version(number: int, name: str = "jane", **metadata: Any) -> AccessRule:
    return rule(name, metadata={"resourceVersion": str(number), **metadata})


def held(store: Store[AccessRule], name: str = "jane") -> str | None:
    found = store.get("team", name)
    return found.metadata.resource_version if found else None


def test_only_a_newer_version_replaces_what_is_held() -> None:
    store = Store(AccessRule)
    assert store.put(version(9))
    assert not store.put(version(9))
    assert not store.put(version(8))
    assert store.put(version(10))
    assert held(store) == "10"


def test_versions_are_numbers_not_words() -> None:
    store = Store(AccessRule)
    store.put(version(99))
    assert store.put(version(100))


def test_an_object_created_again_replaces_the_one_before() -> None:
    store = Store(AccessRule)
    store.put(version(9))
    assert store.put(version(12, uid="another"))
    assert held(store) == "12"


def test_an_answer_to_a_write_brings_nothing_back_that_is_gone() -> None:
    cache = Cache()
    cache.refresh(version(9))
    assert len(cache.rules) == 0
    cache.put(version(10, uid="another"))
    cache.refresh(version(11))
    assert held(cache.rules) == "10"


def test_an_answer_to_a_write_that_the_watch_overtook_changes_nothing() -> None:
    cache = Cache()
    cache.put(version(10))
    cache.refresh(version(9))
    assert held(cache.rules) == "10"
    cache.refresh(version(11))
    assert held(cache.rules) == "11"


def test_removing_gives_back_what_was_held() -> None:
    store = Store(AccessRule)
    store.put(version(9))
    gone = store.remove("team", "jane")
    assert gone is not None
    assert gone.gone
    assert gone.resource.metadata.name == "jane"
    assert store.remove("team", "jane") is None
    assert store.put(version(9))


def test_the_store_may_change_while_somebody_walks_through_it() -> None:
    store = Store(AccessRule)
    for name in ("a", "b", "c"):
        store.put(version(1, name))
    for found in store:
        store.remove(*found.key)
        store.put(version(2, f"{found.metadata.name}-again"))
    assert store.keys() == {("team", "a-again"), ("team", "b-again"), ("team", "c-again")}


def grouped() -> Store[AccessRule]:
    return Store(AccessRule, group=lambda found: found.spec.tenant_ref.name)


def names(store: Store[AccessRule], group: str) -> set[str]:
    return {found.metadata.name for found in store.of(group)}


def test_a_group_holds_what_belongs_to_it_and_nothing_that_left() -> None:
    store = grouped()
    store.put(version(1, "a"))
    store.put(version(2, "b"))
    assert (names(store, "acme"), names(store, "other")) == ({"a", "b"}, set())
    moved = rule("a", metadata={"resourceVersion": "3", "uid": "again"}, tenantRef={"name": "other"})
    store.put(moved)
    assert (names(store, "acme"), names(store, "other")) == ({"b"}, {"a"})
    store.remove("team", "a")
    assert (names(store, "acme"), names(store, "other")) == ({"b"}, set())


def test_a_group_has_another_version_after_every_change_and_only_then() -> None:
    store = grouped()
    seen = [store.version("acme")]
    for change in (
        lambda: store.put(version(1, "a")),
        lambda: store.put(version(2, "b")),
        lambda: store.put(version(3, "a")),
        lambda: store.remove("team", "a"),
    ):
        change()
        seen.append(store.version("acme"))
    store.put(rule("x", tenantRef={"name": "other"}))
    store.put(version(2, "b"))
    assert store.version("acme") == seen[-1]
    store.remove("team", "b")
    assert store.version("acme") == 0
    store.put(version(9, "b"))
    assert store.version("acme") not in seen


def test_a_change_outside_of_what_counts_is_none_of_the_group() -> None:
    store = Store(AccessRule, group=lambda _: "all", basis=lambda found: found.metadata.generation)
    store.put(version(1))
    before = store.version("all")
    assert store.put(version(2))
    assert store.version("all") == before
    assert [found.metadata.resource_version for found in store.of("all")] == ["2"]
    store.put(version(3, generation=2))
    assert store.version("all") != before
