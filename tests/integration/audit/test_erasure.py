"""Erasing a person or a record: the content is gone from all that a reader sees, and all else can still be proven."""

import itertools
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.database import PASSWORD, send
from tests.harness.processes import VAULTBRIX
from tests.harness.sealed_store import check
from tests.harness.shell import run, wait_for
from tests.harness.shipping import JANE, Shipping, shipping

ROLE, OTHER = "tenant_audit", "tenant_other"
BOB = "bob@example.com"


@pytest.fixture(scope="module")
def parts() -> Iterator[Shipping]:
    with shipping() as running:
        running.database.tenant("audit")
        running.database.tenant("other")
        running.open_grants(ROLE)
        yield running


@pytest.fixture(scope="module")
def redactor(parts: Shipping) -> dict[str, str]:
    return parts.store.environment(parts.store.login("dpo", "audit_redact"))


def person() -> str:
    """One whom nobody else is."""
    return f"{uuid4().hex}@example.com"


def redact(
    parts: Shipping, login: dict[str, str], *arguments: str, check: bool = True, reason: str = "REQ-1", **more: Any
) -> str:
    command = [*VAULTBRIX, "audit", "redact", f"--reason={reason}", "--yes", *arguments]
    done = run(*command, env={**login, "PYTHONPATH": "operator"}, check=check, **more)
    return done.stdout + done.stderr


def sealed(parts: Shipping) -> None:
    """Wait until every event is sealed."""
    wait_for(
        "all events are sealed",
        lambda: parts.store.query("SELECT count(*) FROM audit.event WHERE batch IS NULL") == [(0,)],
        tell=parts.shipper.text,
    )


def everything(parts: Shipping) -> str:
    """All that a reader can see of records, events and quarantined lines."""
    with psycopg.connect(**connection_of(parts.store.reader, parts), autocommit=True) as link:
        found = []
        for table in ("record", "statement", "started", "quarantine", "gap", "event"):
            found += link.execute(f"SELECT to_jsonb(t) FROM audit.{table} t").fetchall()
        found += link.execute("SELECT to_jsonb(s) FROM pg_stats s WHERE schemaname = 'audit'").fetchall()
    text = json.dumps(found)
    # A line of bytes is shown in hexadecimal.
    return text + "".join(bytes.fromhex(row["line"][2:]).decode(errors="replace") for (row,) in found if "line" in row)


def connection_of(login: dict[str, str], parts: Shipping) -> dict[str, Any]:
    return {
        "host": login["host"], "port": login["port"], "dbname": login["dbname"], "user": login["username"],
        "password": login["password"], "sslmode": "verify-full", "sslrootcert": str(parts.store.postgres.authority),
    }  # fmt: skip


def rows_of(parts: Shipping, condition: str) -> list[dict[str, Any]]:
    with parts.store.open() as link:
        found = link.execute(f"SELECT to_jsonb(r) FROM audit.record r WHERE {condition} ORDER BY session_id, line_num")
        return [row[0] for row in found]


def test_a_person_is_gone_from_all_that_readers_see_and_the_rest_is_proven(
    parts: Shipping, redactor: dict[str, str]
) -> None:
    name, mark = person(), f"m{uuid4().hex}"
    parts.open_grants(OTHER, person=name)
    texts = (f"CREATE TABLE {mark}(id int)", f"SELECT '{mark}' FROM {mark}", f"DROP TABLE {mark}", f"SELECT {mark}")
    shown = parts.session(OTHER, lambda c: [send(c, text) for text in texts], application_name=mark)
    parts.open_grants(ROLE)
    parts.session(ROLE, lambda c: send(c, "SELECT 'a neighbour'"))
    pid = shown[0]["pid"]
    before, others = rows_of(parts, f"pid = {pid}"), rows_of(parts, f"pid <> {pid}")
    assert f"would erase {len(before)} records" in redact(parts, redactor, "--person", name, "--dry-run")
    assert rows_of(parts, f"pid = {pid}") == before
    assert mark in everything(parts)

    said = redact(parts, redactor, "--person", name)

    assert f"erased {len(before)} records" in said
    assert "VACUUM audit.record" in said
    seen = everything(parts)
    for secret in (name, mark):
        assert secret not in seen
    after = rows_of(parts, f"pid = {pid}")
    kept = (
        "server", "at", "session_id", "line_num", "kind", "pid", "role", "tenant", "database", "tag", "class",
        "command", "row_count", "duration_ms", "sqlstate", "file", "position", "keep", "batch", "leaf_index", "leaf",
    )  # fmt: skip
    assert [{key: row[key] for key in kept} for row in after] == [{key: row[key] for key in kept} for row in before]
    erased = ("person", "ground", "address", "application", "object_name", "statement", "message", "salt")
    assert not any(row[key] for row in after for key in erased)
    assert [row for row in rows_of(parts, f"pid <> {pid}") if row in others] == others
    again = parts.store.query("SELECT to_jsonb(s) FROM audit.statement s WHERE pid = %s ORDER BY line_num", [pid])
    assert [(row["class"], row["command"], row["outcome"]) for (row,) in again] == [
        (row["class"], row["command"], row["outcome"]) for row in shown
    ]
    sealed(parts)
    assert check(parts.store).findings == []


def test_an_approver_is_gone_and_what_others_did_stays(parts: Shipping, redactor: dict[str, str]) -> None:
    name, mark = person(), f"m{uuid4().hex}"
    parts.open_grants(OTHER, person=JANE, approver=name)
    shown = parts.session(OTHER, lambda c: send(c, f"SELECT '{mark}'"))
    parts.open_grants(ROLE)
    assert shown[0]["approver"] == name
    told = {"uid": mark, "kind": "DDLApproval", "namespace": "team", "name": "drop", "event": "Decided"}
    wrote = {"by": name, "message": f"{name} was here", "why": name, "terms": name}
    events = [
        {**told, "id": "1-a", **wrote},
        {**told, "id": "2-b", "by": f"{JANE},{name}"},
        {**told, "id": "3-c", "by": JANE, "message": "kept"},
    ]
    parts.store.query("SELECT audit.note_approvals(%s)", [json.dumps(events)])
    sealed(parts)
    # A session's first line has no login yet.
    before = rows_of(parts, f"pid = {shown[0]['pid']} AND role IS NOT NULL")
    said = redact(parts, redactor, "--person", name)
    assert f"erased {len(before)} records" in said
    assert "2 events" in said
    assert name not in everything(parts)
    after = rows_of(parts, f"pid = {shown[0]['pid']} AND role IS NOT NULL")
    changed = ("approver", "salt", "redaction")
    assert [{k: v for k, v in row.items() if k not in changed} for row in after] == [
        {k: v for k, v in row.items() if k not in changed} for row in before
    ]
    assert {(row["approver"], row["salt"]) for row in after} == {("", None)}
    kept = parts.store.query("SELECT detail FROM audit.event WHERE detail->>'uid' = %s ORDER BY id", [mark])
    assert [detail.get("message") for (detail,) in kept] == [None, None, "kept"]
    assert [detail["id"] for (detail,) in kept] == ["1-a", "2-b", "3-c"]
    # Erased, it is still there, so that it is not stored once more.
    assert parts.store.query("SELECT audit.note_approvals(%s)", [json.dumps(events)]) == [(0,)]
    sealed(parts)
    assert check(parts.store).findings == []


def test_the_event_says_who_erased_what_and_why_but_not_of_whom(parts: Shipping, redactor: dict[str, str]) -> None:
    name = person()
    parts.open_grants(OTHER, person=name)
    parts.session(OTHER, lambda c: send(c, "SELECT 1"))
    redact(parts, redactor, "--person", name, reason="REQ-77")
    ((kind, actor, detail),) = parts.store.query(
        "SELECT kind, actor, detail FROM audit.event WHERE detail->>'reason' = 'REQ-77'"
    )
    assert (kind, actor, detail["by"], detail["version"]) == ("redacted", "dpo", "person", 1)
    assert name not in json.dumps(detail)
    assert redact(parts, redactor, "--person", name, reason="REQ-78") == "nothing to erase\n"
    refused = redact(parts, redactor, "--person", name, reason=f"asked by {name.upper()}", check=False)
    assert "reason must not name the person" in refused


def test_of_several_people_only_the_one_is_taken(parts: Shipping, redactor: dict[str, str]) -> None:
    name = person()
    parts.open_grants(OTHER, person=f"{BOB}, {name}")
    (row,) = parts.session(OTHER, lambda c: send(c, "SELECT 'both'"))
    redact(parts, redactor, "--person", name)
    found = rows_of(parts, f"pid = {row['pid']} AND role IS NOT NULL AND kind = 'statement'")
    assert [(r["person"], r["statement"]) for r in found] == [(BOB, "")]


people = st.lists(st.text("abé. %_\\", min_size=1, max_size=3).map(str.strip).filter(bool), min_size=1, max_size=5)


def test_a_name_is_found_and_taken_out_as_a_whole_and_no_other(parts: Shipping) -> None:
    with parts.store.open() as link:

        @given(people, st.data())
        def taken_out(names: list[str], data: st.DataObject) -> None:
            name = data.draw(st.sampled_from(names) | st.just("c"))
            found = link.execute(
                "SELECT audit.names(l, n), audit.without(l, n) FROM (SELECT %s::text AS l, %s::text AS n) x",
                [", ".join(names), name],
            )
            assert found.fetchone() == (name in names, ", ".join(other for other in names if other != name))

        taken_out()
        with_comma = "SELECT audit.names(%s, 'Doe, Jane'), audit.without(%s, 'Doe, Jane')"
        assert link.execute(with_comma, ["Doe, Jane"] * 2).fetchone() == (True, "")
        assert link.execute(with_comma, ["bob, Doe, Jane, eve"] * 2).fetchone() == (True, "bob, eve")


def test_a_role_that_is_the_persons_own_goes_and_one_of_the_products_stays(
    parts: Shipping, redactor: dict[str, str]
) -> None:
    name = f"jane_{uuid4().hex[:8]}"
    parts.postgres.query(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    parts.postgres.query(f"ALTER ROLE {name} SET pgaudit.log = 'all'")
    (row,) = parts.session(name, lambda c: send(c, "SELECT 'an admin'"))
    redact(parts, redactor, "--person", name)
    after = rows_of(parts, f"pid = {row['pid']}")
    assert name not in json.dumps(after)
    assert {found["role"] for found in after} == {None}
    (mine,) = parts.session(ROLE, lambda c: send(c, "SELECT 'a tenant'"))
    redact(parts, redactor, "--person", ROLE)
    assert {found["role"] for found in rows_of(parts, f"pid = {mine['pid']}")} - {None} == {ROLE}


def test_a_record_goes_with_its_message_and_no_other(parts: Shipping, redactor: dict[str, str]) -> None:
    parts.open_grants(ROLE)
    texts = ("SELECT 'before'", "SELECT 'one'; SELECT 1/0", "SELECT 'after'")
    shown = parts.session(ROLE, lambda c: [send(c, text) for text in texts])
    session, wanted = shown[0]["session_id"], shown[1]
    before = rows_of(parts, f"session_id = '{session}'")
    redact(parts, redactor, "--session", session, "--line", str(wanted["line_num"]))
    after = rows_of(parts, f"session_id = '{session}'")
    changed = [old["line_num"] for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [row["line_num"] for row in before if row["statement"] == texts[1] or row["line_num"] in changed]
    assert not any(texts[1] == row["statement"] for row in after)
    assert {texts[0], texts[2]} <= {row["statement"] for row in after}
    assert all(row["person"] == JANE for row in after if row["line_num"] not in changed and row["person"])
    lines = "\n".join(json.dumps({"session_id": session, "line_num": row["line_num"]}) for row in (shown[0], shown[-1]))
    redact(parts, redactor, "--records", "-", input_text=lines)
    assert not {texts[0], texts[2]} & {row["statement"] for row in rows_of(parts, f"session_id = '{session}'")}
    sealed(parts)
    assert check(parts.store).findings == []


def test_a_record_that_is_not_there_stops_all(parts: Shipping, redactor: dict[str, str]) -> None:
    parts.open_grants(ROLE)
    (row,) = parts.session(ROLE, lambda c: send(c, "SELECT 'stays'"))
    lines = [{"session_id": row["session_id"], "line_num": row["line_num"]}, {"session_id": "none", "line_num": 1}]
    said = redact(parts, redactor, "--records", "-", input_text="\n".join(map(json.dumps, lines)), check=False)
    assert "server main has no record of session none with line 1" in said
    assert rows_of(parts, f"pid = {row['pid']} AND statement = 'SELECT ''stays'''")


def test_quarantined_lines_and_who_asked_about_a_person_go_too(parts: Shipping, redactor: dict[str, str]) -> None:
    name, mark = person(), uuid4().hex
    parts.open_grants(OTHER, person=name)
    (row,) = parts.session(OTHER, lambda c: send(c, "SELECT 1"))
    session = row["session_id"]
    log = parts.postgres.logs / "postgresql-2000-01-01_000000.json"
    log.write_text(
        f'{{"user":"x","session_id":"{session}","message":"{mark}-session" torn\n'
        f'{{"session_id":"other","message":"{mark}-other \\"session_id\\":\\"{session}\\"" torn\n'
        f'{{"message":"{mark}-named {name}" torn\n'
    )
    wait_for(
        "the lines are in quarantine",
        lambda: parts.store.query("SELECT count(*) FROM audit.quarantine WHERE reason <> ''")[0][0] >= 3,
        tell=parts.shipper.text,
    )
    parts.store.query(
        "SELECT audit.note('read', jsonb_build_object('person', %s::text, 'command', 'query')),"
        " audit.note('read', jsonb_build_object('person', 'somebody else', 'text', %s::text))",
        [name, mark],
    )
    sealed(parts)
    said = redact(parts, redactor, "--person", name)
    assert "2 quarantined lines, 1 event" in said
    seen = everything(parts)
    assert f"{mark}-session" not in seen
    asked = "SELECT detail FROM audit.event WHERE kind = 'read' ORDER BY id DESC LIMIT 2"
    assert parts.store.query(asked) == [
        ({"person": "somebody else", "text": mark},),
        ({"command": "query", "redacted": True},),
    ]
    assert name not in seen
    assert f"{mark}-other" in seen
    ((number,),) = parts.store.query(
        "SELECT id FROM audit.quarantine WHERE position(%s::bytea IN line) > 0", [mark.encode()]
    )
    redact(parts, redactor, f"--quarantine={number}")
    assert f"{mark}-other" not in everything(parts)
    assert "there is no quarantined line with number 999999" in redact(
        parts, redactor, "--quarantine=999999", check=False
    )
    sealed(parts)
    assert check(parts.store).findings == []


def test_an_event_that_waits_for_its_seal_is_left(parts: Shipping, redactor: dict[str, str]) -> None:
    name = person()
    parts.shipper.stop()
    try:
        parts.store.query("SELECT audit.note('read', jsonb_build_object('person', %s::text))", [name])
        said = redact(parts, redactor, "--person", name, check=False)
        assert "1 event is not sealed yet and stayed" in said
    finally:
        parts.shipper.start()
    sealed(parts)
    assert "1 event\n" in redact(parts, redactor, "--person", name)
    sealed(parts)
    assert check(parts.store).findings == []


def test_many_rows_are_told_in_events_of_bounded_size(parts: Shipping, redactor: dict[str, str]) -> None:
    name = person()
    parts.open_grants(OTHER, person=name)
    parts.session(OTHER, lambda c: [send(c, f"SELECT {number}") for number in range(1200)])
    parts.open_grants(ROLE)
    redact(parts, redactor, "--person", name, reason="REQ-many")
    counted = parts.store.query(
        "SELECT e.id, (SELECT count(*) FROM audit.record r WHERE r.redaction = e.id) FROM audit.event e"
        " WHERE detail->>'reason' = 'REQ-many' ORDER BY 1"
    )
    counts = sorted(count for _, count in counted)
    assert (sum(counts) >= 2400, counts[-2:]) == (True, [1000, 1000])
    sealed(parts)
    assert check(parts.store).findings == []


def test_an_erasure_that_no_sealed_event_names_is_found(parts: Shipping, redactor: dict[str, str]) -> None:
    parts.open_grants(ROLE)
    (row,) = parts.session(ROLE, lambda c: send(c, "SELECT 'hidden'"))
    sealed(parts)
    where = "UPDATE audit.record SET statement = '', salt = NULL WHERE pid = %s AND kind = 'statement'"
    (before,) = rows_of(parts, f"pid = {row['pid']} AND kind = 'statement'")
    parts.store.query(where, [row["pid"]])
    assert len(check(parts.store).findings) == 1
    parts.store.query(
        "UPDATE audit.record SET statement = %s, salt = %s::bytea WHERE pid = %s AND kind = 'statement'",
        [before["statement"], before["salt"], row["pid"]],
    )
    assert check(parts.store).findings == []


FORBIDDEN = (
    "SELECT * FROM audit.record",
    "SELECT * FROM audit.statement",
    "SELECT * FROM audit.quarantine",
    "UPDATE audit.record SET statement = ''",
    "UPDATE audit.record SET salt = NULL",
    "UPDATE audit.quarantine SET line = ''",
    "UPDATE audit.event SET detail = '{}'",
    "DELETE FROM audit.event",
    "DELETE FROM audit.record",
    "INSERT INTO audit.event(kind, actor, detail) VALUES ('redacted', 'me', '{}')",
    "INSERT INTO audit.batch SELECT * FROM audit.batch",
    "SELECT audit.erase('record', '{}', NULL, '{}')",
    "SELECT audit.seal_event(1, 'main', 1, 0, '', '')",
    "SELECT audit.drop_partition('record_20000101_400')",
    "SELECT audit.drop_empty_days(1)",
    "SELECT audit.expire_quarantine(true)",
    "UPDATE audit.retention SET days = 1",
    "SELECT nextval('audit.event_id_seq')",
    "CREATE TABLE audit.mine()",
    "SET SESSION AUTHORIZATION postgres",
    "SET ROLE audit_read",
)


def test_a_redactor_can_redact_and_nothing_else(parts: Shipping) -> None:
    login = parts.store.login("attacker", "audit_redact")
    with psycopg.connect(**connection_of(login, parts), autocommit=True) as link:
        for statement in FORBIDDEN:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                link.execute(statement.encode())
        for kind in ("redacted", "expired", "retention", "reader"):
            with pytest.raises(psycopg.errors.RaiseException, match="not for readers"):
                link.execute("SELECT audit.note(%s, '{}')", [kind])
        for reason in (None, "", "  ", "x" * 501):
            with pytest.raises(psycopg.errors.RaiseException, match="reason"):
                link.execute("SELECT audit.redact_person('nobody', %s, true)", [reason])
        for name in (None, "", " "):
            with pytest.raises(psycopg.errors.RaiseException, match="named"):
                link.execute("SELECT audit.redact_person(%s, 'REQ', true)", [name])
        # Objects of its own must not come before those of the store.
        link.execute("CREATE TEMP TABLE record(line text)")
        link.execute("CREATE FUNCTION pg_temp.names(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'")
        link.execute("SET search_path = pg_temp, audit")
        assert link.execute("SELECT audit.redact_person('x''; DROP', 'REQ', true)->>'records'").fetchone() == ("0",)


def test_nobody_else_can_redact(parts: Shipping) -> None:
    calls = (
        "SELECT audit.redact_person('x', 'y', true)",
        "SELECT audit.redact_records('main', '{}', '{}', 'y', true)",
        "SELECT audit.redact_quarantine('{}', 'y', true)",
        "SELECT audit.erase('record', '{}', NULL, '{}')",
    )
    for group, call in itertools.product(("audit_append", "audit_read", "audit_tenant", "audit_manage"), calls):
        with parts.store.open() as link, pytest.raises(psycopg.errors.InsufficientPrivilege):
            link.execute(f"SET ROLE {group}")
            link.execute(call.encode())
