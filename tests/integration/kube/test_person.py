"""A person's way to the cluster, without any cluster."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from tests.harness.builders import rule, server, tenant
from tests.harness.fake_kube import FakeKube

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import Reason
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube import person
from vaultbrix.kube.client import resource_type
from vaultbrix.kube.person import Fetched, Missing, PersonClient, Unreadable, manifest_list
from vaultbrix.runtime.errors import Blocked

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def client(kube: FakeKube, **options: Any) -> PersonClient:
    return PersonClient(kube, namespace="team", **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PAUSE_SECONDS", 0)


def test_an_object_is_shown_without_bookkeeping() -> None:
    raw = {"kind": "AccessRule", "metadata": {"name": "a", "managedFields": [{}]}, "spec": {}}
    shown = Fetched(rule("a"), raw).manifest
    assert shown == {
        "apiVersion": "vaultbrix.com/v1alpha1", "kind": "AccessRule", "metadata": {"name": "a"}, "spec": {},
    }  # fmt: skip
    assert list(shown)[:2] == ["apiVersion", "kind"]
    assert "managedFields" in raw["metadata"]


def test_several_objects_are_one_list() -> None:
    shown = manifest_list([Fetched(rule(name), {"metadata": {"name": name}}) for name in ("a", "b")])
    assert (shown["kind"], [item["metadata"]["name"] for item in shown["items"]]) == ("List", ["a", "b"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("acmee", "Tenant acmee not found in namespace team; did you mean acme?"),
        ("other", "there is one in namespace else: add -n else"),
        ("nobody", "name its namespace with -n, and see: kubectl get tenants -A"),
    ],
)
def test_a_name_that_is_wrong_by_little_is_found(name: str, says: str) -> None:
    kube = FakeKube(tenant(), tenant("other", metadata={"namespace": "else"}))
    with pytest.raises(Missing, match=says):
        run(client(kube).find(Tenant, name))


def test_a_hint_that_may_not_be_read_is_left_out() -> None:
    kube = FakeKube(tenant())
    kube.forbidden = {("list", "tenants")}
    with pytest.raises(Missing, match="name its namespace"):
        run(client(kube).find(Tenant, "acmee"))


def test_an_object_that_cannot_be_read_is_reported_and_left_out_of_a_list() -> None:
    kube = FakeKube(rule("good"))
    bad = rule("bad").dump()
    kube.put_raw(resource_type(AccessRule), {**bad, "spec": {**bad["spec"], "ttl": "soon"}})
    problems: list[Unreadable] = []
    asking = client(kube, report_unreadable=problems.append)
    assert [r.metadata.name for r in run(asking.find_all(AccessRule, "team"))] == ["good"]
    assert [str(p) for p in problems] == ["AccessRule team/bad cannot be read (written by a newer version?): spec.ttl"]
    with pytest.raises(Unreadable, match="team/bad"):
        run(asking.find(AccessRule, "bad"))


def test_what_may_not_be_listed_is_empty_only_where_that_is_asked_for() -> None:
    kube = FakeKube(rule())
    kube.forbidden = {("list", "accessrules")}
    assert run(client(kube).find_permitted(AccessRule, "team")) == []
    with pytest.raises(Blocked) as refused:
        run(client(kube).find_all(AccessRule, "team"))
    assert refused.value.reason is Reason.FORBIDDEN


def test_a_server_is_there_missing_or_hidden() -> None:
    there, hidden = run(client(FakeKube(server())).find_server(tenant()))
    assert there is not None
    assert (there.metadata.name, hidden) == ("main", False)
    assert run(client(FakeKube()).find_server(tenant())) == (None, False)
    kube = FakeKube(server())
    kube.forbidden = {("get", "postgresservers")}
    assert run(client(kube).find_server(tenant())) == (None, True)


def test_an_object_is_followed_until_it_is_done_and_every_state_is_reported() -> None:
    kube = FakeKube(rule())
    kube.then("jane", {}, {"status": {"phase": "Pending"}}, {"status": {"phase": "Open"}})
    states: list[AccessRule] = []
    state, done = run(client(kube).wait_until(rule(), lambda r: r.status.phase == "Open", 60, states.append))
    assert done
    assert [r.status.phase for r in states] == [None, "Pending", "Open"]
    assert state.resource is states[-1]
    assert state.raw["status"]["phase"] == "Open"


def test_waiting_ends_with_its_time_or_with_the_object() -> None:
    _, done = run(client(FakeKube(rule())).wait_until(rule(), lambda r: False, 0))
    assert not done
    with pytest.raises(Missing, match="AccessRule jane was deleted meanwhile"):
        run(client(FakeKube()).wait_until(rule(), lambda r: False, 60))
    another = FakeKube(rule(metadata={"uid": "another"}))
    with pytest.raises(Missing, match="deleted meanwhile"):
        run(client(another).reread(rule()))
