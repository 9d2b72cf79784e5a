from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, NOW, grant
from tests.harness.log_lines import AUDIT, TEXTS, line, payload, session

from vaultbrix.audit.records import MalformedLine, Record, parse, timestamp
from vaultbrix.grants.state import AgentState, GrantRecord, Snapshot

STATE = AgentState.of(Snapshot(server="main", grants=(GrantRecord.of(grant("203.0.113.0/24"), NOW),)))


def read(message: str, function: str | None = AUDIT, **fields: Any) -> Record:
    return parse(line(message, function, **fields), server="main", state=STATE)


def test_a_statement_is_stored_with_who_ran_it_when_from_where_and_under_which_rule() -> None:
    found = read(session("create table t(x int, y int)"))
    assert (found.kind, found.statement) == ("statement", "create table t(x int, y int)")
    assert (found.at, found.role, found.database, found.address) == (
        datetime(2026, 12, 1, 12, 0, 1, 250_000, tzinfo=UTC),
        "tenant_acme",
        "app",
        "203.0.113.7",
    )
    assert (found.tenant, found.person, found.authorization) == ("team/acme", "jane@example.com", "team/u")
    assert (found.server, found.session_id, found.line_num, found.pid) == ("main", "65.1", 3, 42)
    assert (found.statement_id, found.substatement_id) == (7, 1)
    assert (found.class_, found.command, found.object_type, found.object_name) == (
        "DDL",
        "CREATE TABLE",
        "TABLE",
        "acme.t",
    )


def test_what_no_grant_explains_stays_unknown() -> None:
    for fields in (
        {"remote_host": "198.51.100.1"},
        {"user": "tenant_beta"},
        {"timestamp": "2026-12-01 11:00:00.000 UTC"},
    ):
        found = read(session("select 1"), **fields)
        assert (found.kind, found.tenant, found.person, found.authorization) == ("statement", "", "", "")


@pytest.mark.parametrize(
    "statement",
    [
        "select 1",
        "select 1, 2",
        'select "a" from "b,c"',
        "select 'x'\nfrom t,\n\n  u\n",
        "select 'a\r\nb'",
        'select \'""","\'',
        "AUDIT: SESSION,1,1",
        "select 'ü😀日本語'",
        "select '\u2028', 1\nfrom t",
        "select '\x85\v\f\x1c'",
    ],
)
@pytest.mark.parametrize("parameters", ["<not logged>", "", "a,b", 'x\n"y"'])
def test_a_statement_survives_pgaudits_quoting(statement: str, parameters: str) -> None:
    assert read(session(statement, parameters)).statement == statement
    assert read(session(statement, parameters, "12")).statement == statement


@given(TEXTS, TEXTS, TEXTS, st.booleans())
def test_every_statement_survives_pgaudits_quoting(statement: str, name: str, parameters: str, rows: bool) -> None:
    fields = ["SESSION", "1", "2", "READ", "SELECT", "TABLE", name, statement, parameters, *(["5"] if rows else [])]
    found = read(payload(*fields))
    assert (found.kind, found.statement, found.object_name) == ("statement", statement, name or None)


def test_a_statement_of_any_length_is_stored() -> None:
    long = "select '" + 'x, "' * 300_000 + "'"
    assert read(session(long)).statement == long


@pytest.mark.parametrize(
    "message",
    [
        "AUDIT: SESSION,1,1,READ,SELECT,,,select 1",
        "AUDIT: SESSION,1,1,READ,SELECT,,,select 1,a,b,c",
        "AUDIT: ",
        "AUDIT: SESSION,one,1,READ,SELECT,,,select 1,<not logged>",
        'AUDIT: SESSION,1,1,READ,SELECT,,,"select 1,<not logged>',
        'AUDIT: SESSION,1,1,READ,SELECT,,,"select" 1,<not logged>',
        'AUDIT: SESSION,1,1,READ,SELECT,,,"a\nb",<not logged>\nSESSION,1,1,READ,SELECT,,,"a",<not logged>',
    ],
)
def test_a_payload_that_is_not_pgaudits_goes_to_quarantine_and_stops_nothing(message: str) -> None:
    with pytest.raises(MalformedLine):
        read(message)


@pytest.mark.parametrize("function", ["exec_stmt_raise", None, "errfinish"])
def test_a_tenant_who_raises_an_audit_line_is_stored_as_what_it_is(function: str | None) -> None:
    found = read(session("drop table innocent"), function)
    assert (found.kind, found.statement, found.command) == ("forged", None, None)
    assert found.message == session("drop table innocent")
    assert found.person == "jane@example.com"


@pytest.mark.parametrize(
    ("message", "function"),
    [
        ("duration: 1.234 ms", "exec_stmt_raise"),
        ("connection authorized: user=postgres", "exec_stmt_raise"),
        ("disconnection: session time: 0:00:01", "exec_stmt_raise"),
        ("anything", "exec_simple_query"),
    ],
)
def test_other_lines_that_a_tenant_raises_are_nothing_special(message: str, function: str) -> None:
    found = read(message, function)
    assert (found.kind, found.duration_ms, found.message) == ("other", None, message)


@pytest.mark.parametrize("function", ["exec_simple_query", "exec_execute_message"])
@pytest.mark.parametrize("message", ["duration: 1.234 ms", "duration: 1.234 ms  statement: select 'a b'"])
def test_a_duration_is_stored(function: str, message: str) -> None:
    found = read(message, function)
    assert (found.kind, found.duration_ms) == ("duration", 1.234)


@pytest.mark.parametrize("severity", ["ERROR", "FATAL", "PANIC"])
def test_an_error_is_stored_with_its_statement_and_sqlstate(severity: str) -> None:
    found = read(
        "DROP TABLE requires an approved DDLApproval (role tenant_acme)",
        "exec_stmt_raise",
        error_severity=severity,
        state_code="VBX01",
        statement="drop table t",
    )
    assert (found.kind, found.severity, found.sqlstate) == ("error", severity, "VBX01")
    assert (found.statement, found.message) == (
        "drop table t",
        "DROP TABLE requires an approved DDLApproval (role tenant_acme)",
    )


@pytest.mark.parametrize(
    ("message", "function", "kind"),
    [
        ("connection received: host=203.0.113.7 port=1", "BackendInitialize", "connection"),
        ("connection authorized: user=tenant_acme database=app", "PerformAuthentication", "connection"),
        ('connection authenticated: identity="x" method=scram-sha-256', "set_authn_id", "authentication"),
        ('connection authenticated: identity="x" method=scram-sha-256', "exec_stmt_raise", "other"),
        ("disconnection: session time: 0:00:01.000", "log_disconnections", "disconnection"),
        ("checkpoint starting: time", "LogCheckpointStart", "other"),
    ],
)
def test_connections_and_disconnections_are_told_apart(message: str, function: str, kind: str) -> None:
    assert read(message, function).kind == kind


@pytest.mark.parametrize("state", ["28P01", "28000"])
def test_a_login_that_was_refused_is_an_authentication_and_nobody_can_raise_one(state: str) -> None:
    message = 'password authentication failed for user "tenant_acme"'
    assert read(message, "auth_failed", error_severity="FATAL", state_code=state).kind == "authentication"
    assert read(message, "exec_stmt_raise", error_severity="ERROR", state_code=state).kind == "error"


def test_what_the_gate_asks_on_behalf_of_a_session_is_no_statement_of_its_own() -> None:
    call = "SELECT vaultbrix.ddl_start(tg_tag, current_user, ctx, pg_catalog.current_schemas(false))"
    assert read(session(call)).kind == "gate"
    assert read(session(call + " ")).kind == "statement"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"LOG:  started",
        b'{"message": "no timestamp"}',
        b'{"timestamp": "2026-12-01 12:00:01.250 UTC", "pid": "x"}',
        b'{"timestamp": "2026-12-01 12:00:01.250 UTC", "message": "\xff\xfe"}',
        line(session("select 1"), timestamp="2026-12-01 13:00:01.250 CET"),
        line(session("select 1"), timestamp="2026-12-01 12:00:01.250"),
        line(session("select 1"), timestamp="yesterday UTC"),
        line(session("select 1"))[:-10],
        line("duration: soon", "exec_simple_query"),
    ],
    ids=range(13),
)
def test_a_line_that_is_not_postgresqls_goes_to_quarantine_and_stops_nothing(raw: bytes) -> None:
    with pytest.raises(MalformedLine):
        parse(raw, server="main", state=STATE)


@given(st.one_of(st.binary(max_size=200), TEXTS.map(line), TEXTS.map(lambda text: line(f"AUDIT: {text}"))))
def test_whatever_is_in_the_log_is_a_record_or_malformed(raw: bytes) -> None:
    try:
        assert parse(raw, server="main", state=STATE).kind
    except MalformedLine:
        pass


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("[local]", None),
        (None, None),
        ("db.example.com", None),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_is_an_address_or_nothing(remote: str | None, address: str | None) -> None:
    assert read(session("select 1"), remote_host=remote).address == address


def test_an_ipv4_client_on_an_ipv6_socket_is_named_like_any_other() -> None:
    assert read(session("select 1"), remote_host="::ffff:203.0.113.7").person == "jane@example.com"


def test_a_time_is_read_only_where_its_zone_is_utc() -> None:
    assert timestamp("2026-12-01 12:00:01.250 UTC") == NOW.replace(second=1, microsecond=250_000)
    assert timestamp("2026-12-01 13:00:00.000 GMT") == NOW + HOUR
    with pytest.raises(ValueError, match="log_timezone must be UTC"):
        timestamp("2026-12-01 13:00:00.000 CET")
