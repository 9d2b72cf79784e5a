"""A CustomResourceDefinition of an earlier release is known by the fields that it lacks."""

import copy
from typing import Any

import pytest

from vaultbrix.api.conditions import Reason
from vaultbrix.api.crd import custom_resource_definition
from vaultbrix.api.definitions import REMEDY, definitions_current, missing_fields
from vaultbrix.api.kinds import KINDS
from vaultbrix.api.meta import Resource


def definition(model: type[Resource]) -> dict[str, Any]:
    return copy.deepcopy(custom_resource_definition(model))


def schema(crd: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def below(field: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any], str]]:
    """All fields below one: path, the properties that hold it, and its name there."""
    found = []
    for name, inner in field.get("properties", {}).items():
        place = f"{path}.{name}" if path else name
        found += [(place, field["properties"], name), *below(inner, place)]
    for inner_name, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(field.get(inner_name), dict):
            found += below(field[inner_name], path + mark)
    return found


@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.__name__)
def test_every_field_of_every_kind_is_missed_when_it_is_not_there(model: type[Resource]) -> None:
    wanted = definition(model)
    assert missing_fields(wanted, wanted) == []
    for place, _, _ in below(schema(wanted), ""):
        old = definition(model)
        (holder, name), *_ = [(holder, name) for path, holder, name in below(schema(old), "") if path == place]
        del holder[name]
        assert missing_fields(wanted, old) == [place]


def test_a_newer_definition_lacks_nothing_and_one_without_our_version_all() -> None:
    wanted, newer = definition(KINDS[0]), definition(KINDS[0])
    schema(newer)["properties"]["spec"]["properties"]["ofTomorrow"] = {"type": "string"}
    assert missing_fields(wanted, newer) == []
    newer["spec"]["versions"][0]["name"] = "v2"
    assert missing_fields(wanted, newer) == ["apiVersion", "kind", "metadata", "spec", "status"]


def test_a_field_whose_content_is_kept_as_it_is_lacks_nothing() -> None:
    wanted, old = definition(KINDS[0]), definition(KINDS[0])
    schema(old)["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    assert missing_fields(wanted, old) == []


def test_what_is_missing_is_told_by_kind_with_the_command() -> None:
    state = definitions_current({"PostgresServer": ["spec.auditRequired"], "Tenant": [], "APIKey": None})
    assert (state.status, state.reason) == (False, Reason.FIELDS_MISSING)
    for words in ("PostgresServer: spec.auditRequired", "APIKey: not installed", REMEDY):
        assert words in state.message
    assert "Tenant" not in state.message
    many = definitions_current({"Tenant": [f"spec.f{n}" for n in range(10)]})
    assert "spec.f7 and 2 more" in many.message
    assert definitions_current({"Tenant": []}).status is True
