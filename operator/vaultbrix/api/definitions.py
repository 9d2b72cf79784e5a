"""Whether the installed CustomResourceDefinitions know every field that this release knows.

Helm installs those of a chart and never upgrades them. The API server drops a field that a definition does not know,
without an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.meta import VERSION

REMEDY = "kubectl apply --server-side --force-conflicts -f crds/"

# Fields of one kind in a message.
_SHOWN = 8

Schema = Mapping[str, Any]


def missing_fields(wanted: Schema, installed: Schema) -> list[str]:
    """Paths of the fields that the definition ``wanted`` has and ``installed`` has not, the outermost of each.

    Both are whole CustomResourceDefinitions; without our version the installed one has no field at all.
    """
    return _missing(_schema(wanted), _schema(installed), "")


def definitions_current(missing: Mapping[str, Sequence[str] | None]) -> State:
    """What DefinitionsCurrent says: kind → the fields that its definition lacks, None where there is no definition."""
    lacking = [f"{kind}: {_listed(fields)}" for kind, fields in missing.items() if fields is None or fields]
    if not lacking:
        return State(
            True, Reason.UP_TO_DATE, "the installed CustomResourceDefinitions know every field of this release"
        )
    return State(
        False,
        Reason.FIELDS_MISSING,
        "the installed CustomResourceDefinitions are of an earlier release, and without an error the API server drops "
        f"what objects say in these fields: {'; '.join(lacking)}. Run `{REMEDY}` with those of this release, then "
        "apply objects that use them again",
    )


def _listed(fields: Sequence[str] | None) -> str:
    if fields is None:
        return "not installed"
    more = f" and {len(fields) - _SHOWN} more" if len(fields) > _SHOWN else ""
    return ", ".join(fields[:_SHOWN]) + more


def _schema(definition: Schema) -> Schema:
    for version in definition.get("spec", {}).get("versions", []):
        if version.get("name") == VERSION:
            schema: Schema = version.get("schema", {}).get("openAPIV3Schema", {})
            return schema
    return {}


def _missing(wanted: Schema, installed: Schema, path: str) -> list[str]:
    if installed.get("x-kubernetes-preserve-unknown-fields"):
        return []
    found: list[str] = []
    known = installed.get("properties", {})
    for name, field in wanted.get("properties", {}).items():
        place = f"{path}.{name}" if path else name
        found += _missing(field, known[name], place) if name in known else [place]
    for inner, mark in (("items", "[]"), ("additionalProperties", ".*")):
        below, present = wanted.get(inner), installed.get(inner)
        if isinstance(below, Mapping) and isinstance(present, Mapping):
            found += _missing(below, present, path + mark)
    return found
