"""Patterns of names of relations: those of a shell, as LIKE reads them."""

import pytest

from vaultbrix.ddl.gate.patterns import RelationPattern, relation_pattern


@pytest.mark.parametrize(
    ("text", "schema", "relation"),
    [
        ("daily", "tenant\\_a", "daily"),
        ("*__dbt_?", "tenant\\_a", "%\\_\\_dbt\\__"),
        ("stage.100%", "stage", "100\\%"),
        ("st?ge.back\\slash", "st_ge", "back\\\\slash"),
    ],
)
def test_patterns_are_those_of_a_shell(text: str, schema: str, relation: str) -> None:
    assert relation_pattern(text, "tenant_a") == RelationPattern(schema, relation)
