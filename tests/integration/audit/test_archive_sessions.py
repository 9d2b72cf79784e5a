"""The archive tells the same of a session's lines as the store does, whatever lines there are."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from tests.harness.audit_store import Store
from tests.harness.database import directory, free_port

from vaultbrix.audit.archive.sessions import statements

START = datetime(2026, 1, 1, tzinfo=UTC)
TAGS = ("SELECT", "INSERT", "BIND", "PARSE", "COMMIT", "ROLLBACK", "COPY", "DROP TABLE", "DO", "idle")
TEXTS = ("A", "B", "")
COLUMNS = ("server", "at", "session_id", "line_num", "kind", "pid", "role", "tenant", "person", "ground", "database",
           "address", "application", "tag", "vxid", "class", "command", "object_type", "object_name", "statement_id",
           "substatement_id", "statement", "row_count", "duration_ms", "severity", "sqlstate", "message", "file",
           "position", "keep")  # fmt: skip


@pytest.fixture(scope="module")
def store() -> Iterator[psycopg.Connection]:
    with directory() as path:
        found = Store(path / "store", port=free_port())
        try:
            found.start()
            with found.open(row_factory=dict_row) as connection:
                connection.execute("SELECT audit.ensure_partition('2026-01-01', 400)")
                connection.execute("SET TimeZone = 'UTC'")
                yield connection
        finally:
            found.stop()


def of_kind(kind: str, tags: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    text = st.sampled_from(TEXTS)
    more: dict[str, Any] = {
        "statement": {
            "statement": text,
            "class": st.sampled_from(("READ", "MISC")),
            "command": st.sampled_from(tags),
            "statement_id": st.integers(1, 4),
            "substatement_id": st.integers(1, 3),
            "object_type": st.sampled_from((None, "TABLE", "INDEX")),
            "object_name": st.sampled_from((None, "a", "b.c")),
            "row_count": st.sampled_from((None, 0, 7)),
        },
        "error": {
            "statement": st.none() | text,
            "severity": st.sampled_from(("ERROR", "ERROR", "FATAL")),
            "sqlstate": st.sampled_from(("22012", "VBX01", "57014", "57P01", None)),
            "message": st.just("no"),
        },
        "duration": {"duration_ms": st.sampled_from((0.5, 3.0))},
        "gate": {"statement": text, "statement_id": st.integers(1, 4)},
        "other": {},
    }
    common = {"kind": st.just(kind), "tag": st.sampled_from(tags), "vxid": st.sampled_from((None, "1/1"))}
    return st.fixed_dictionaries({**common, **more[kind]})


@st.composite
def sessions(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Lines with few tags, so that they often belong together."""
    tags = draw(st.lists(st.sampled_from(TAGS), min_size=1, max_size=2))
    kinds = ("statement", "statement", "statement", "duration", "duration", "error", "error", "gate", "other")
    return draw(st.lists(st.sampled_from(kinds).flatmap(lambda kind: of_kind(kind, tags)), max_size=12))


def whole(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    same = {"server": "main", "session_id": "s", "pid": 1, "role": "tenant_a", "tenant": "", "person": "", "ground": "",
            "file": "f", "position": 0, "keep": 400}  # fmt: skip
    return [
        {**dict.fromkeys(COLUMNS), **same, "at": START + timedelta(seconds=n), "line_num": n, **line}
        for n, line in enumerate(lines, 1)
    ]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sessions())
def test_statements_of_any_lines_are_those_that_the_store_tells(store: psycopg.Connection, lines: list[Any]) -> None:
    made = whole(lines)
    with store.transaction(force_rollback=True), store.cursor() as cursor:
        names = ", ".join(COLUMNS)
        values = ", ".join(f"%({name})s" for name in COLUMNS)
        cursor.executemany(f"INSERT INTO audit.record({names}) VALUES ({values})", made)  # type: ignore[arg-type]
        expected = cursor.execute(
            "SELECT * FROM audit.statements_at('{}', %s, %s, %s, '-infinity', 'infinity') ORDER BY line_num",
            [[line[name] for line in made] for name in ("server", "session_id", "line_num")],
        ).fetchall()
    assert list(statements(made)) == expected
