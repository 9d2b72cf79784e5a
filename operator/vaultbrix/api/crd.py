"""Generates CustomResourceDefinitions from pydantic models (apiextensions.k8s.io/v1, structural schemas)."""

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from vaultbrix.api.meta import DURATION_PATTERN, GROUP, VERSION, format_duration

if TYPE_CHECKING:
    from vaultbrix.api.meta import Resource

CelRule = tuple[str, str]


@dataclass(frozen=True)
class Column:
    """A printer column of ``kubectl get``."""

    name: str
    json_path: str
    type: str = "string"


@dataclass(frozen=True)
class CustomResource:
    """What a CRD says beyond the schema."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    namespaced: bool
    columns: tuple[Column, ...]
    spec_rules: tuple[CelRule, ...] = ()
    root_rules: tuple[CelRule, ...] = ()


def cel(*rules: CelRule) -> dict[str, Any]:
    """Validation rules in CEL: pairs of expression and message."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


def list_map(key: str) -> dict[str, Any]:
    """A list whose items are merged by one key, so that each item can have its own owner."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


_KEPT = (
    "type",
    "format",
    "description",
    "pattern",
    "enum",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
)


def _default(schema: dict[str, Any]) -> Any:
    """A default as a manifest would hold it."""
    value = schema["default"]
    if schema.get("pattern") == DURATION_PATTERN:
        # Pydantic writes durations of a schema in ISO 8601.
        return format_duration(TypeAdapter(timedelta).validate_python(value))
    # The defaults of an object's own fields apply to an empty one.
    return {} if isinstance(value, dict) else value


def _structural(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Rewrite JSON schema 2020-12 as pydantic emits it into the structural subset of OpenAPI v3."""
    if "$ref" in schema:
        target = defs[schema["$ref"].rsplit("/", 1)[1]]
        # A model's own docstring is for developers; the field's description is for users.
        base = {k: v for k, v in target.items() if k != "description"}
        schema = {**base, **{k: v for k, v in schema.items() if k != "$ref"}}
    if "anyOf" in schema:
        (only,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
        rest = {k: v for k, v in schema.items() if k not in ("anyOf", "default")}
        return _structural({**only, **rest}, defs)
    out = {k: schema[k] for k in _KEPT if k in schema}
    if "default" in out:
        out["default"] = _default(schema)
    out.update({k: v for k, v in schema.items() if k.startswith("x-kubernetes-")})
    if "const" in schema:
        out |= {"type": "string", "enum": [schema["const"]]}
    if "properties" in schema:
        out["properties"] = {name: _structural(sub, defs) for name, sub in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = _structural(schema["additionalProperties"], defs)
    if "items" in schema:
        out["items"] = _structural(schema["items"], defs)
    if out.get("type") == "integer":
        out.setdefault("format", "int64")
    return out


def _with_rules(schema: dict[str, Any], rules: tuple[CelRule, ...]) -> dict[str, Any]:
    return {**schema, **cel(*rules)} if rules else schema


def custom_resource_definition(model: "type[Resource]") -> dict[str, Any]:
    """The CRD of one kind, as a dict in the order it is written."""
    about: CustomResource = model.crd  # type: ignore[attr-defined]  # every concrete kind has one
    raw = model.model_json_schema(by_alias=True, mode="validation")
    defs = raw.get("$defs", {})
    spec = _with_rules(_structural(raw["properties"]["spec"], defs), about.spec_rules)
    status = _structural(raw["properties"]["status"], defs)
    status.pop("default", None)
    # kstatus: an object that no controller has seen is not ready, rather than of unknown state.
    status["default"] = {"observedGeneration": -1}
    root = {
        "type": "object",
        "description": (model.__doc__ or "").strip().splitlines()[0],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{about.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if about.namespaced else "Cluster",
            "names": {
                "kind": about.kind,
                "listKind": f"{about.kind}List",
                "plural": about.plural,
                "singular": about.singular,
                "shortNames": list(about.short_names),
                "categories": ["vaultbrix"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": c.name, "type": c.type, "jsonPath": c.json_path} for c in about.columns
                    ],
                    "schema": {"openAPIV3Schema": _with_rules(root, about.root_rules)},
                }
            ],
        },
    }
