import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness.builders import approval, rule, server, tenant

from vaultbrix.api.conditions import ConditionType, Reason
from vaultbrix.api.crd import custom_resource_definition
from vaultbrix.api.kinds import KINDS
from vaultbrix.api.meta import Resource

Schema = dict[str, Any]

# metav1 parts: the API server knows them and bounds them itself.
FOREIGN = ("apiVersion", "kind", "metadata")

# What a structural schema refuses or ignores (Kubernetes: "Specifying a structural schema").
FORBIDDEN = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "const", "definitions", "title", "uniqueItems"}


def schema_of(model: type[Resource]) -> Schema:
    found: Schema = custom_resource_definition(model)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, sub in schema.get("properties", {}).items():
        if path or name not in FOREIGN:
            yield from nodes(sub, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def structural(node: Schema) -> bool:
    shaped = {
        "array": "items" in node,
        "object": ("properties" in node) != ("additionalProperties" in node),
    }
    known = node.get("type") in {"object", "array", "string", "integer", "boolean"}
    return known and not FORBIDDEN & node.keys() and shaped.get(node["type"], True)


def bounded(node: Schema) -> bool:
    limits = {
        "string": "maxLength" in node or "enum" in node or node.get("format") == "date-time",
        "array": "maxItems" in node,
        "object": "additionalProperties" not in node or "maxProperties" in node,
    }
    return limits.get(node["type"], True)


@pytest.mark.parametrize("model", KINDS)
def test_the_schema_is_structural(model: type[Resource]) -> None:
    assert [path for path, node in nodes(schema_of(model)) if not structural(node)] == []


@pytest.mark.parametrize("model", KINDS)
def test_everything_that_can_grow_is_bounded(model: type[Resource]) -> None:
    assert [path for path, node in nodes(schema_of(model)) if not bounded(node)] == []


@pytest.mark.parametrize("model", KINDS)
def test_required_fields_exist_and_have_no_default(model: type[Resource]) -> None:
    for path, node in nodes(schema_of(model)):
        for name in node.get("required", []):
            assert "default" not in node["properties"][name], f"{path}.{name}"


@pytest.mark.parametrize("model", KINDS)
def test_an_object_that_no_controller_has_seen_is_not_ready(model: type[Resource]) -> None:
    status = schema_of(model)["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    assert status["properties"]["observedGeneration"]["default"] == -1
    assert custom_resource_definition(model)["spec"]["versions"][0]["subresources"] == {"status": {}}


@pytest.mark.parametrize("model", KINDS)
def test_conditions_are_merged_by_type(model: type[Resource]) -> None:
    conditions = schema_of(model)["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["required"]) == {"type", "status", "reason", "lastTransitionTime"}
    assert conditions["items"]["properties"]["status"]["enum"] == ["True", "False", "Unknown"]


def test_each_agent_owns_its_entry_of_a_rule() -> None:
    (model,) = [m for m in KINDS if m.__name__ == "AccessRule"]
    agents = schema_of(model)["properties"]["status"]["properties"]["agents"]
    assert (agents["x-kubernetes-list-type"], agents["x-kubernetes-list-map-keys"]) == ("map", ["name"])


def test_short_names_scopes_and_the_category_are_those_of_the_design() -> None:
    found = {}
    for model in KINDS:
        spec = custom_resource_definition(model)["spec"]
        assert spec["names"]["categories"] == ["vaultbrix"]
        found[spec["names"]["kind"]] = (spec["names"]["shortNames"], spec["scope"])
    assert found == {
        "PostgresServer": (["pgs"], "Cluster"),
        "Tenant": (["vt"], "Namespaced"),
        "AccessRule": (["ar"], "Namespaced"),
        "DDLApproval": (["ddl"], "Namespaced"),
        "APIKey": (["ak"], "Namespaced"),
    }


@pytest.mark.parametrize("model", KINDS)
def test_columns_and_rules_name_fields_that_exist(model: type[Resource]) -> None:
    known = {path for path, _ in nodes(schema_of(model))} | {".metadata.creationTimestamp"}
    version = custom_resource_definition(model)["spec"]["versions"][0]
    for column in version["additionalPrinterColumns"]:
        assert re.sub(r"\[(\?.*?|0)\]", "[]", column["jsonPath"]) in known
    for rule_ in schema_of(model)["properties"]["spec"].get("x-kubernetes-validations", []):
        for name in re.findall(r"(?:self|oldSelf)\.(\w+)", rule_["rule"]):
            assert f".spec.{name}" in known


@pytest.mark.parametrize("word", [*ConditionType, *Reason], ids=str)
def test_reasons_and_condition_types_are_camel_case(word: str) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z]{1,63}", word)


@pytest.mark.parametrize("resource", [rule(), tenant(), server(), approval()], ids=lambda r: type(r).__name__)
def test_defaults_of_the_model_are_those_of_the_definition(resource: Resource) -> None:
    spec = schema_of(type(resource))["properties"]["spec"]
    dumped = resource.dump()["spec"]
    for name, field in spec["properties"].items():
        if "default" in field and field["type"] != "object":
            assert dumped[name] == field["default"], name


@pytest.mark.parametrize("model", KINDS)
def test_every_field_of_a_spec_says_what_it_is_for_unless_its_name_does(model: type[Resource]) -> None:
    spec = schema_of(model)["properties"]["spec"]
    silent = {name for name, field in spec["properties"].items() if not field.get("description")}
    assert silent <= {"port", "tls", "limits"}
