"""The oracle of the campaigns and the product, which share no code, read any line of a log alike."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import seal_oracle
from tests.harness.audit_oracle import fields
from tests.harness.expected_records import RECORD, Malformed, Requests, expectation, nobody

from vaultbrix.audit import rows, seal
from vaultbrix.audit.records import MalformedLine, parse
from vaultbrix.grants.state import AgentState

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
HARD = st.text('ab,"\n\r\t\\\0\v\fé ', max_size=12)
WORDS = TEXT | HARD


@st.composite
def payloads(draw: st.DrawFn) -> str:
    """What pgAudit writes, and what looks like it."""
    number = st.integers(0, 9).map(str) | WORDS
    kinds = [number, number, *(WORDS for _ in range(6)), st.just("<none>"), number]
    texts = [draw(kind) for kind in kinds[: draw(st.integers(8, 10))]]
    quoted = [f'"{text.replace(chr(34), chr(34) * 2)}"' if set(text) & set(',"\n\r') else text for text in texts]
    return "AUDIT: " + ("SESSION," + ",".join(quoted) if draw(st.booleans()) else draw(WORDS))


FIELDS = {
    "timestamp": st.sampled_from(["2026-12-01 18:00:00.120 UTC", "2026-12-01 18:00:00.000 GMT"]),
    "session_id": WORDS,
    "line_num": st.integers(0, 2**40),
    "pid": st.integers(0, 2**22),
    "user": WORDS,
    "dbname": WORDS,
    "remote_host": st.sampled_from(["[local]", "127.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1", "2001:db8::1", "host"]),
    "error_severity": st.sampled_from(["LOG", "ERROR", "FATAL", "PANIC", "WARNING"]),
    "state_code": st.sampled_from(["00000", "42601", "22012", "VBX01"]),
    "message": WORDS
    | payloads()
    | WORDS.map("REQUEST: {}".format)
    | st.floats(0, 1e9).map("duration: {:.3f} ms".format),
    "statement": WORDS,
    "func_name": st.sampled_from(
        ["log_audit_event", "exec_simple_query", "exec_execute_message", "log_disconnections", "exec_stmt_raise"]
    ),
    "application_name": WORDS,
    "ps": st.sampled_from(["SELECT", "DO", "idle", "UPDATE waiting", "BIND"]),
    "vxid": st.just("3/17"),
    "cursor_position": st.integers(0, 3),
    "context": WORDS,
}
ALWAYS = {"timestamp", "session_id", "line_num", "error_severity", "message"}
LINES = st.fixed_dictionaries(
    {name: kind for name, kind in FIELDS.items() if name in ALWAYS},
    optional={name: kind for name, kind in FIELDS.items() if name not in ALWAYS},
)


def shipped(line: bytes) -> tuple[Any, ...] | None:
    """The row that the product stores, None for what it sets aside."""
    try:
        record = parse(line, server="main", state=AgentState("main"))
        record.file, record.position = "a.json", 7
        text = rows.record_line(record)
    except MalformedLine:
        return None
    return tuple(
        None if value is None else read(value) for read, value in zip(RECORD.values(), fields(text), strict=True)
    )


def expected(line: bytes) -> tuple[Any, ...] | None:
    try:
        return expectation(line, "main", "a.json", 7, nobody, Requests())
    except Malformed:
        return None


@given(LINES, st.booleans())
def test_both_read_a_line_alike(entry: dict[str, Any], ascii_only: bool) -> None:
    line = json.dumps(entry, ensure_ascii=ascii_only).encode()
    assert shipped(line) == expected(line)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=40))
def test_both_make_the_same_tree(leaves: list[bytes]) -> None:
    assert seal_oracle.tree(leaves) == seal.root(leaves)


@pytest.mark.parametrize("line", [b"", b"no json", b"[]", b'{"message":"x"}', b'{"timestamp":"\xff"}'])
def test_both_set_aside_what_is_no_line(line: bytes) -> None:
    assert shipped(line) is expected(line) is None
