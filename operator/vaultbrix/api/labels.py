"""Labels of objects, and selectors of them, as in metav1.LabelSelector."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from vaultbrix.api.crd import cel
from vaultbrix.api.meta import ApiModel

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
_Prefix = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
LabelKey = Annotated[
    str,
    Field(max_length=317, pattern=rf"^({_Prefix}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"),
]


class Operator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(ApiModel):
    """What one label must be."""

    key: LabelKey
    operator: Operator
    values: list[LabelValue] = Field(default=[], max_length=256, json_schema_extra={"x-kubernetes-list-type": "set"})

    def met_by(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet it; NotIn is met where there is no such label (labels.Requirement of apimachinery)."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


class LabelSelector(ApiModel):
    """Objects by their labels; all that is said has to hold."""

    match_labels: dict[str, LabelValue] = Field(default={}, max_length=16, description="Labels that it has.")
    match_expressions: list[
        Annotated[
            LabelRequirement,
            Field(
                json_schema_extra=cel(
                    (
                        "self.operator in ['In', 'NotIn'] ? size(self.values) > 0 : size(self.values) == 0",
                        "values are needed by operators In and NotIn, and taken by no other",
                    )
                )
            ),
        ]
    ] = Field(default=[], max_length=16, description="What else holds of its labels.")

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels are as selected. A selector that says nothing, which the schema refuses, matches none."""
        if not self.match_labels and not self.match_expressions:
            return False
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.met_by(labels) for requirement in self.match_expressions
        )
