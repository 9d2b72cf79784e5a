"""Lines to rows: the quick way says what the plain one says."""

import csv
import io
from datetime import datetime, timedelta
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import NOW, grant
from tests.harness.log_lines import TEXTS, line, quoted, session

from vaultbrix.audit.records import parse, timestamp
from vaultbrix.audit.shipping import intake
from vaultbrix.audit.shipping.followed import Batch, Position
from vaultbrix.audit.shipping.intake import Intake, without
from vaultbrix.grants.state import SLACK, AgentState, GrantRecord, Snapshot

ENDED = NOW + timedelta(seconds=10)
STATE = AgentState.of(
    Snapshot(
        server="main",
        grants=(GrantRecord.of(grant("203.0.113.0/24"), NOW),),
        ended=(GrantRecord(**{
            **{name: getattr(grant("198.51.100.0/24"), name) for name in (
                "rule", "generation", "tenant", "role", "cidrs", "deadline", "requested_by", "reason")},
            "uid": "v", "opened_at": NOW, "ended_at": ENDED}),),
    )
)  # fmt: skip


def stamp(at: datetime) -> str:
    return at.isoformat(" ", "milliseconds")[:23] + " UTC"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([NOW - SLACK, NOW, ENDED, ENDED + SLACK, NOW + timedelta(days=1)]),
            st.sampled_from([-1, 0, 1, 500]),
            st.sampled_from(["203.0.113.7", "198.51.100.9", "192.0.2.1", "[local]"]),
            st.sampled_from(["tenant_acme", "tenant_beta"]),
        ),
        max_size=30,
    )
)
def test_people_are_named_as_the_agents_state_names_them(found: list[tuple[datetime, int, str, str]]) -> None:
    raw = [
        line(session("select 1"), timestamp=stamp(at + timedelta(milliseconds=off)), remote_host=host, user=role)
        for at, off, host, role in found
    ]
    content, _ = Intake("main").take(Batch("f", 0, None, lines=list(enumerate(raw))), STATE)
    for text, (record, _) in zip(raw, content.records, strict=True):
        plain = parse(text, server="main", state=STATE)
        assert (record.tenant, record.person, record.authorization) == (plain.tenant, plain.person, plain.authorization)


@given(st.lists(TEXTS, min_size=9, max_size=10))
def test_a_payload_is_read_as_csv_reads_it(fields: list[str]) -> None:
    fields[1:3] = ["7", "1"]
    if len(fields) == 10:
        fields[9] = "5"
    text = ",".join(map(quoted, fields))
    (expected,) = csv.reader(io.StringIO(text, newline=""), strict=True)
    found = parse(line("AUDIT: " + text), server="main", state=STATE)
    assert [found.class_, found.command, found.statement] == [expected[3], expected[4], expected[7]]


def test_lines_that_are_malformed_are_numbered_too() -> None:
    broken = b'{"timestamp":"2026-12-01 12:00:00.000 UTC","user":"\\"session_id\\":\\"f.f\\",\\"line_num\\":9","session_id":"6b0.1","line_num":4,"message":"\xff"}'  # noqa: E501
    content, seen = Intake("main").take(Batch("f", 0, None, lines=[(0, broken), (9, b"nothing")]), STATE)
    assert seen == [("6b0.1", 4, 0)]
    assert len(content.quarantined) == 2


def test_what_the_store_refuses_goes_to_quarantine_and_a_long_line_by_its_beginning() -> None:
    raw = [line(session(text)) for text in ("a", "x" * intake._LONG_BYTES, "b")]
    starts = list(accumulate((len(text) + 1 for text in raw), initial=0))
    batch = Batch("f", 0, Position(1, starts[-1], b""), lines=list(zip(starts, raw, strict=False)))
    content, _ = Intake("main").take(batch, STATE)
    assert content.records[1][0].statement is None
    left = without(content, batch, {0: "22P05", 1: "54000"})
    assert [record.position for record, _ in left.records] == [starts[2]]
    assert [(bad.position, bad.line, bad.reason) for bad in left.quarantined] == [
        (0, raw[0], "the store refuses it: SQLSTATE 22P05"),
        (starts[1], raw[1][:65536], "the store refuses it: SQLSTATE 54000"),
    ]
    told = f"of a line of {len(raw[1])} bytes, the first 65536 are in quarantine"
    assert [(gap.position, gap.reason) for gap in left.gaps] == [(starts[1], told)]


def test_a_line_that_would_take_too_much_memory_as_text_is_kept_by_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "_LONG_BYTES", 100)
    monkeypatch.setattr(intake, "LONGEST_LINE", 2000)
    for text, kept in (("x" * 1500, True), ("é" * 500, True), ("é" * 900, False), ("x" * 500 + "\U0001f512", False)):
        # PostgreSQL leaves no blanks.
        raw = line(session(text)).replace(b'": ', b'":').replace(b', "', b',"')
        batch = Batch("f", 0, Position(1, len(raw) + 1, b""), lines=[(0, raw)])
        content, seen = Intake("main").take(batch, STATE)
        assert bool(content.records) == kept, text[-1]
        assert bool(content.gaps) != kept
        assert seen == [("65.1", 3, 0)]


def test_a_time_is_the_same_read_twice() -> None:
    assert timestamp(stamp(NOW)) is timestamp(stamp(NOW))
