"""Lines of approved texts in tenants' own sessions: exactly those between the gate's line and the message's end."""

import json

import pytest
from tests.harness.builders import NOW, grant
from tests.harness.log_lines import line, session

from vaultbrix.audit.records import Record
from vaultbrix.audit.shipping.followed import Batch
from vaultbrix.audit.shipping.intake import Intake
from vaultbrix.grants.state import AgentState, GrantRecord, LoginRecord, Snapshot

UID = "6f1b2c3d-0000-4000-8000-000000000001"
FRAME = "PL/pgSQL function vaultbrix.use_pass(text,boolean,name[],boolean,text[]) line 35 at RAISE"
OUTER = f'{FRAME}\nSQL statement "SELECT vaultbrix.ddl_start(...)"\nPL/pgSQL function vaultbrix.et_start() line 3'
STATE = AgentState.of(
    Snapshot(
        server="main",
        grants=(GrantRecord.of(grant("203.0.113.0/24"), NOW),),
        logins={
            f"vaultbrix_d_{UID.replace('-', '')}": LoginRecord(
                approval="team/drop", tenant="team/acme", requested_by="joe@example.com", approved_by="pat@example.com"
            )
        },
    )
)
SAID = json.dumps({"approval": UID, "by": "pat@example.com"})
DROP = session("DROP TABLE a").replace("READ,SELECT", "DDL,DROP TABLE")


def approved(text: str = f"APPROVED: {SAID}", **fields: object) -> bytes:
    values = {"error_severity": "LOG", "context": OUTER, "remote_host": "203.0.113.7", "user": "tenant_acme", **fields}
    return line(text, "exec_stmt_raise", **values)


def sent(message: str, function: str | None = "log_audit_event", **fields: object) -> bytes:
    return line(message, function, **{"remote_host": "203.0.113.7", "user": "tenant_acme", **fields})


def duration(**fields: object) -> bytes:
    return sent("duration: 1.0 ms", "exec_simple_query", error_severity="LOG", **fields)


def taken(*lines: bytes, intake: Intake | None = None, stored: str | None = None) -> list[Record]:
    content, _ = (intake or Intake("main")).take(
        Batch("f", 0, None, lines=list(enumerate(lines))), STATE, recall_approval=lambda _session, _line: stored
    )
    return [record for record, _ in content.records]


def named(records: list[Record]) -> list[tuple[str, str, str]]:
    return [(record.kind, record.approver, record.authorization) for record in records]


OWN, BOTH = "team/jane", "team/jane, team/drop"


def test_what_follows_in_the_message_has_both_and_nothing_else_has() -> None:
    found = taken(
        sent(session("SELECT 1"), line_num=1), duration(line_num=2), approved(line_num=3), sent(DROP, line_num=4),
        duration(line_num=5), sent(session("SELECT 2"), line_num=6), duration(line_num=7),
    )  # fmt: skip
    rule = found[0].authorization
    both, pat = f"{rule}, team/drop", "pat@example.com"
    assert rule
    assert named(found) == [
        ("statement", "", rule), ("duration", "", rule), ("gate", pat, both), ("statement", pat, both),
        ("duration", pat, both), ("statement", "", rule), ("duration", "", rule),
    ]  # fmt: skip
    assert found[2].object_name == UID


def test_an_error_ends_it_too() -> None:
    failed = sent("permission denied", None, error_severity="ERROR", state_code="42501", statement="DROP", line_num=3)
    found = taken(approved(line_num=2), failed, sent(DROP, line_num=4))
    assert [record.approver for record in found] == ["pat@example.com", "pat@example.com", ""]


@pytest.mark.parametrize(
    "forged",
    [
        approved(context="PL/pgSQL function inline_code_block line 1 at RAISE"),
        approved(context=f"PL/pgSQL function inline_code_block line 1 at RAISE\n{FRAME}"),
        approved(context=f"{FRAME} and more"),
        approved(context='PL/pgSQL function "vaultbrix.use_pass"(text,boolean,name[],boolean,text[]) line 3 at RAISE'),
        approved(error_severity="WARNING"),
        approved(context=None),
        approved("APPROVED: {}"),
        approved('APPROVED: {"approval": "x", "by": "eve"}'),
        approved("APPROVED: not json"),
    ],
)
def test_a_line_that_only_looks_so_is_forged_and_names_nobody(forged: bytes) -> None:
    found = taken(forged, sent(DROP, line_num=2))
    assert [(record.kind, record.approver) for record in found] == [("forged", ""), ("statement", "")]


def test_a_shipper_that_begins_between_the_gates_line_and_the_texts_asks_the_store() -> None:
    found = taken(sent(DROP, line_num=4), duration(line_num=5), sent(DROP, line_num=6), stored=f"APPROVED: {SAID}")
    assert [record.approver for record in found] == ["pat@example.com", "pat@example.com", ""]
    # What the store has not got yet counts before what it has.
    found = taken(duration(line_num=4), sent(DROP, line_num=5), stored=f"APPROVED: {SAID}")
    assert [record.approver for record in found] == ["", ""]
    found = taken(sent(DROP, line_num=1), stored=f"APPROVED: {SAID}")
    assert [record.approver for record in found] == [""]


def test_sessions_do_not_mix() -> None:
    found = taken(approved(line_num=2), sent(DROP, session_id="6b1.2", line_num=3), sent(DROP, line_num=3))
    assert [record.approver for record in found] == ["pat@example.com", "", "pat@example.com"]
