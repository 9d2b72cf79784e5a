"""Objects as they are shown to a person."""

from tests.harness.builders import rule

from vaultbrix.kube.person import Fetched, manifest_list


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
