"""Selectors of labels select what Kubernetes' own would, but for an empty one, which selects nothing."""

import pytest

from vaultbrix.api.labels import LabelSelector

LABELS = {"team": "acme", "env": "prod", "kubernetes.io/metadata.name": "team-acme"}


def expression(key: str, operator: str, *values: str) -> dict[str, object]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "selects"),
    [
        ({"matchLabels": {"team": "acme"}}, True),
        ({"matchLabels": {"team": "acme", "env": "prod"}}, True),
        ({"matchLabels": {"team": "acme", "env": "test"}}, False),
        ({"matchLabels": {"team": ""}}, False),
        ({"matchLabels": {"absent": ""}}, False),
        (expression("kubernetes.io/metadata.name", "In", "team-a", "team-acme"), True),
        (expression("kubernetes.io/metadata.name", "In", "team-a"), False),
        (expression("absent", "In", "a"), False),
        (expression("env", "NotIn", "test"), True),
        (expression("env", "NotIn", "test", "prod"), False),
        (expression("absent", "NotIn", "a"), True),
        (expression("env", "Exists"), True),
        (expression("absent", "Exists"), False),
        (expression("env", "DoesNotExist"), False),
        (expression("absent", "DoesNotExist"), True),
        ({"matchLabels": {"team": "acme"}, **expression("env", "In", "test")}, False),
        ({"matchLabels": {"team": "other"}, **expression("env", "In", "prod")}, False),
        ({}, False),
    ],
)
def test_a_selector_selects_what_all_it_says_holds_for(selector: dict[str, object], selects: bool) -> None:
    assert LabelSelector.model_validate(selector).matches(LABELS) is selects
