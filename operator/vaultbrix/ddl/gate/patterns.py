"""Names of relations with ``*`` and ``?``, as the database compares them. Pure."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class RelationPattern:
    """Relations by the names of their schema and themselves; both are patterns of LIKE (PostgreSQL 9.7.1)."""

    schema: str
    relation: str


def relation_pattern(text: str, role: str) -> RelationPattern:
    """What ``[SCHEMA.]RELATION`` with ``*`` and ``?`` means for a tenant, whose schema has the name of its role."""
    schema, dot, relation = text.rpartition(".")
    return RelationPattern(_like(schema if dot else role), _like(relation))


def _like(glob: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", glob).replace("*", "%").replace("?", "_")
