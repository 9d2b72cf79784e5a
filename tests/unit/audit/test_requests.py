"""A line is a request of the data API only if PostgREST had it written, and what follows it is that request's alone."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.expected_records import RECORD, Requests, expectation, nobody
from tests.harness.log_lines import CLAIMS, FRAME, line, payload, request

from vaultbrix.audit.records import Record, parse, request_of
from vaultbrix.audit.shipping.followed import Batch
from vaultbrix.audit.shipping.intake import Intake
from vaultbrix.audit.shipping.requests import Session, caller_of
from vaultbrix.grants.state import AgentState

STATE = AgentState("main")
GENUINE = json.dumps(CLAIMS)
OF_REQUEST = ("tenant_acme_authenticated", "team/acme", "user:jane", "key:team/web", "198.51.100.7")
OF_NOBODY = ("vaultbrix_rest_acme", "", "", "", "203.0.113.7")


def read(raw: bytes) -> Record:
    return parse(raw, server="main", state=STATE)


def identity(record: Record) -> tuple[str | None, ...]:
    return record.role, record.tenant, record.person, record.authorization, record.address


def changed(**fields: Any) -> str:
    return json.dumps({name: value for name, value in {**CLAIMS, **fields}.items() if value is not None})


@pytest.mark.parametrize("role", ["tenant_acme", "tenant_acme_anon", "tenant_acme_authenticated"])
@pytest.mark.parametrize(
    "said",
    [GENUINE, changed(subject=""), changed(subject=None), changed(client="2001:db8::7"), changed(more={"a": [1]})],
)
def test_what_postgrest_has_written_at_its_beginning_is_a_request(role: str, said: str) -> None:
    said = json.dumps({**json.loads(said), "role": role})
    found = read(request(said))
    assert (found.kind, found.object_name, found.message) == ("request", CLAIMS["request"], f"REQUEST: {said}")


@pytest.mark.parametrize(
    "login", ["vaultbrix_rest", "vaultbrix_rest_globex", "vaultbrix_rest_acme_2", "vaultbrix_rest_tenant_acme"]
)
@pytest.mark.parametrize("role", ["tenant_acme", "tenant_acme_anon", "tenant_acme_authenticated"])
def test_no_login_speaks_for_another_tenants_roles(login: str, role: str) -> None:
    assert read(request(changed(role=role), user=login)).kind == "forged"


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "tenant_acme"},
        {"user": "vaultbrix_restored"},
        {"user": "vaultbrix_rest_"},
        {"user": "vaultbrix_rest\n"},
        {"user": "xvaultbrix_rest"},
        {"user": None},
        {"func_name": "log_audit_event"},
        {"func_name": None},
        {"error_severity": "WARNING"},
        {"context": None},
        {"context": "PL/pgSQL function tenant_acme.cheat() line 1 at RAISE"},
        {"context": FRAME.replace("vaultbrix.pre_request()", 'tenant_acme."vaultbrix.pre_request"()')},
        {"context": FRAME.replace("vaultbrix.pre_request()", '"vaultbrix.pre_request"()')},
        {"context": FRAME.replace("()", "(text)")},
        {"context": f'{FRAME}\nSQL statement "SELECT x()"\nPL/pgSQL function f() line 1 at PERFORM'},
        {"context": f"{FRAME}\n{FRAME}"},
        {"context": f"{FRAME}\n"},
        {"context": f'PL/pgSQL function "x\n{FRAME}'},
        {"context": FRAME.replace("7", "\u0667")},
        {"context": FRAME.replace("RAISE", "PERFORM")},
    ],
)
def test_the_same_text_of_somebody_else_is_forged(fields: dict[str, str | None]) -> None:
    found = read(request(**fields))
    assert (found.kind, found.object_name) == ("forged", None)


@pytest.mark.parametrize(
    "said",
    [
        "", "{", "null", "[]", '"x"', GENUINE[:-1], f"{GENUINE} x", "[" * 100_000, '{"more":' * 100_000,
        changed(role=None), changed(tenant=None), changed(key=None), changed(client=None), changed(request=None),
        changed(claims=None), changed(subject=7), changed(subject=["jane"]),
        changed(role="postgres"), changed(role="tenant_acme\n"), changed(role="tenant_" + "a" * 57),
        changed(tenant="acme"), changed(tenant="team/acme, team/globex"), changed(tenant="team/acme\n"),
        changed(key="other/web"), changed(key="key:team/web"), changed(key="team/"), changed(key="Team/web"),
        changed(client="example.com"), changed(client=""), changed(client="198.51.100.0/24"),
        changed(request=""), changed(request="a b"), changed(request="a\n"), changed(request="x" * 201),
        changed(claims="AB" * 32), changed(claims="ab" * 31), changed(claims="ab" * 32 + "\n"),
        GENUINE.replace("jane", "\\ud800"),
    ],
    ids=range(38),
)  # fmt: skip
def test_what_is_not_of_the_known_shape_is_forged_and_stops_nothing(said: str) -> None:
    assert read(request(said)).kind == "forged"


@given(st.text(max_size=60) | st.recursive(st.none() | st.text(max_size=5), st.lists).map(json.dumps))
def test_whatever_is_said_is_a_request_or_forged(said: str) -> None:
    assert read(request(said)).kind == "forged"


@pytest.mark.parametrize(
    ("subject", "person"),
    [
        ("", ""),
        ("8e0f-11", "user:8e0f-11"),
        ("auth0|jürgen@example.com", "user:auth0|jürgen@example.com"),
        ("x, root@example.com", "user:x%2C root@example.com"),
        ("x%2C root@example.com", "user:x%252C root@example.com"),
        ("a\nb\0", "user:a%0Ab%00"),
        ("\u202e", "user:%E2%80%AE"),
    ],
)
def test_a_users_name_is_one_name_whatever_it_holds(subject: str, person: str) -> None:
    record = Shipper().take(
        [session_line(1, "connection"), request(changed(subject=subject), session_id="a.1", line_num=2)]
    )[1]
    assert (record.kind, record.person) == ("request", person)


# A session's lines


def session_line(number: int, what: str, *, session: str = "a.1", vxid: str = "3/1", **fields: Any) -> bytes:
    """A line of a session of PostgREST's: kind and, for a statement, its text."""
    common = {"user": "vaultbrix_rest_acme", "session_id": session, "line_num": number, "ps": "SELECT", **fields}
    match what:
        case "connection":
            return line("connection authorized: user=x", "PerformAuthentication", **common, vxid="3/0")
        case "disconnection":
            return line("disconnection: session time: 0:00:01", "log_disconnections", **common, vxid="3/0")
        case "duration":
            return line("duration: 1.000 ms", "exec_execute_message", **common, vxid=vxid)
        case "error":
            return line("no", "ereport", **{**common, "error_severity": "ERROR", "statement": "no", "vxid": vxid})
        case "request":
            return request(session_id=session, line_num=number, vxid=vxid)
        case "other request":
            said = changed(key="team/app", subject="", client="2001:db8::1", role="tenant_acme", request="f" * 32)
            return request(said, session_id=session, line_num=number, vxid=vxid)
        case "called":
            return request(changed(tenant="team/globex"), session_id=session, line_num=number, vxid=vxid,
                           context=f"{FRAME}\nmore")  # fmt: skip
    return line(payload("SESSION", "1", "1", "READ", "SELECT", "", "", what, "<none>"), **common, vxid=vxid)


class Shipper:
    """The intake and what it stored."""

    def __init__(self) -> None:
        self.intake = Intake("main")
        self.stored: list[Record] = []

    def take(self, lines: list[bytes], *, store: bool = True) -> list[Record]:
        content, _ = self.intake.take(Batch("f", 0, None, lines=list(enumerate(lines))), STATE, self.recall)
        records = [record for record, _ in content.records]
        if store:
            self.stored += records
        return records

    def restart(self) -> None:
        self.intake = Intake("main")

    def recall(self, session: str, before: int) -> Session | None:
        """As the store's function audit.last_request."""
        lines = [r for r in self.stored if r.session_id == session and r.line_num < before]
        if not lines:
            return None
        vxid = next((r.vxid for r in reversed(lines) if r.vxid and not r.vxid.endswith("/0")), "")
        begun: Record | None = None
        for record in reversed(lines):
            if record.vxid == vxid and record.kind == "request":
                begun = record
                break
            if record.vxid and record.vxid != vxid and not record.vxid.endswith("/0"):
                begun = record
                break
        first = begun.line_num if begun else 0
        whole = len([r for r in lines if r.line_num > first]) == lines[-1].line_num - first
        caller = None
        if begun and begun.kind == "request" and begun.vxid == vxid:
            said = request_of(begun.message or "")
            assert said
            caller = caller_of(said)
        return Session(lines[-1].line_num, vxid or "", caller, whole)


def test_a_request_has_all_lines_of_its_transaction_and_those_until_the_next_one() -> None:
    lines = [
        session_line(1, "connection"), session_line(2, "BEGIN"), session_line(3, "duration"),
        session_line(4, "request"), session_line(5, "mine"), session_line(6, "duration"),
        session_line(7, "duration", vxid="3/0"), session_line(8, "BEGIN", vxid="3/2"),
        session_line(9, "duration", vxid="3/0"), session_line(10, "BEGIN", vxid="3/3"),
        session_line(11, "other request", vxid="3/3"), session_line(12, "error", vxid="3/3"),
        session_line(13, "duration", vxid="3/0"), session_line(14, "disconnection"),
    ]  # fmt: skip
    other = ("tenant_acme", "team/acme", "", "key:team/app", "2001:db8::1")
    found = [identity(record) for record in Shipper().take(lines)]
    assert found == [*[OF_NOBODY] * 3, *[OF_REQUEST] * 4, *[OF_NOBODY] * 3, *[other] * 3, OF_NOBODY]


def test_a_second_request_in_a_transaction_is_forged_and_changes_nothing() -> None:
    """A view or a constraint can call vaultbrix.pre_request() without a frame of its own."""
    lines = [
        session_line(1, "connection"), session_line(2, "BEGIN"), session_line(3, "request"),
        session_line(4, "other request"), session_line(5, "mine"), session_line(6, "called"),
        session_line(7, "other request", vxid="3/0"),
    ]  # fmt: skip
    found = Shipper().take(lines)
    assert [record.kind for record in found[2:]] == ["request", "forged", "statement", "forged", "forged"]
    assert {identity(record) for record in found[2:]} == {OF_REQUEST}
    assert {record.object_name for record in found[3:]} == {None}


@pytest.mark.parametrize("missing", [2, 3, 4])
def test_where_a_line_is_missing_no_request_is_believed_until_the_next_transaction(missing: int) -> None:
    lines = [
        session_line(1, "connection"), session_line(2, "BEGIN"), session_line(3, "duration"),
        session_line(4, "request"), session_line(5, "other request"), session_line(6, "theirs"),
        session_line(7, "BEGIN", vxid="3/2"), session_line(8, "request", vxid="3/2"),
    ]  # fmt: skip
    del lines[missing - 1]
    found = Shipper().take(lines)
    assert {identity(record) for record in found[3:5]} == {OF_NOBODY}
    assert [record.kind for record in found[3:5]] == ["forged", "statement"]
    assert (found[-1].kind, identity(found[-1])) == ("request", OF_REQUEST)


def test_a_line_that_is_missing_later_leaves_what_is_certain() -> None:
    lines = [
        session_line(1, "connection"), session_line(2, "BEGIN"), session_line(3, "request"),
        session_line(5, "mine"), session_line(6, "duration", vxid="3/0"),
    ]  # fmt: skip
    assert [identity(record) for record in Shipper().take(lines)[2:]] == [OF_REQUEST, OF_REQUEST, OF_NOBODY]


def test_a_line_that_cannot_be_read_is_one_that_is_missing() -> None:
    broken = session_line(3, "BEGIN").replace(b"BEGIN", b"\xff").replace(b'": ', b'":')
    lines = [session_line(1, "connection"), session_line(2, "BEGIN"), broken, session_line(4, "request")]
    assert [record.kind for record in Shipper().take(lines)] == ["connection", "statement", "forged"]


def test_sessions_of_others_are_not_looked_up() -> None:
    def never(_session: str, _line: int) -> Session | None:
        raise AssertionError

    lines = [session_line(7, "theirs", user="tenant_acme"), session_line(3, "x", user=None)]
    content, _ = Intake("main").take(Batch("f", 0, None, lines=list(enumerate(lines))), STATE, never)
    assert [record.role for record, _ in content.records] == ["tenant_acme", None]


WORK = st.lists(st.sampled_from(["mine", "duration", "error", "called", "request", "other request"]), max_size=4)
TRANSACTIONS = st.lists(
    st.tuples(st.sampled_from(["request", "other request", None]), WORK, st.integers(0, 2)), min_size=1, max_size=4
)


@st.composite
def sessions(draw: st.DrawFn) -> list[bytes]:
    """Lines of two sessions of PostgREST's, interleaved; each begins with whatever it likes."""
    written = []
    for session in ("a.1", "a.2"):
        lines = ["connection"] if draw(st.booleans()) else []
        texts = [(what, "3/0") for what in lines]
        for number, (begun, work, after) in enumerate(draw(TRANSACTIONS), 1):
            vxid = f"3/{number}"
            texts += [("BEGIN", vxid), *([(begun, vxid)] if begun else []), *((what, vxid) for what in work)]
            texts += [("duration", "3/0")] * after
        if draw(st.booleans()):
            texts.append(("disconnection", "3/0"))
        written.append([session_line(n, what, session=session, vxid=vxid) for n, (what, vxid) in enumerate(texts, 1)])
    first, second = written
    order = draw(st.permutations([0] * len(first) + [1] * len(second)))
    queues = [iter(first), iter(second)]
    return [next(queues[which]) for which in order]


@given(sessions(), st.data())
def test_wherever_a_batch_is_cut_and_a_shipper_killed_the_rows_are_the_same(
    lines: list[bytes], data: st.DataObject
) -> None:
    requests, names = Requests(), list(RECORD)
    expected = []
    for raw in lines:
        row = dict(zip(names, expectation(raw, "main", "f", 0, nobody, requests), strict=True))
        expected.append(
            (
                row["kind"],
                row["object_name"],
                row["role"],
                row["tenant"],
                row["person"],
                row["ground"],
                str(row["address"]),
            )
        )
    shipper, at = Shipper(), 0
    while at < len(lines):
        size = data.draw(st.integers(1, len(lines) - at))
        match data.draw(st.sampled_from(["goes on", "is killed", "fails"])):
            case "is killed":
                shipper.restart()
            case "fails":
                # It was taken in, but not stored.
                shipper.take(lines[at : at + size], store=False)
                shipper.intake.resume()
        shipper.take(lines[at : at + size])
        at += size
    assert [(r.kind, r.object_name, *identity(r)) for r in shipper.stored] == expected


REFUSAL_FRAME = "PL/pgSQL function vaultbrix.note_refusals(jsonb) line 5 at RAISE"
REFUSED = {"why": "KeyClosed", "status": 401, "request": "0f" * 16, "client": "198.51.100.7", "path": "/rest/v1/notes",
           "tenant": "team/acme", "key": "team/web"}  # fmt: skip


def refusal(said: str, **fields: Any) -> bytes:
    values = {"user": "vaultbrix_listener", "context": REFUSAL_FRAME, "message": f"REFUSED: {said}", **fields}
    return line(values.pop("message"), values.pop("func_name", "exec_stmt_raise"), **values)


def test_what_a_gateway_has_refused_is_a_refusal_with_its_key() -> None:
    found = read(refusal(json.dumps(REFUSED)))
    assert (found.kind, found.object_name) == ("refusal", REFUSED["request"])
    assert (found.tenant, found.authorization, found.address) == ("team/acme", "key:team/web", "198.51.100.7")
    unknown = read(refusal(json.dumps({"why": "KeyUnknown", "client": "198.51.100.7"})))
    assert (unknown.kind, unknown.tenant, unknown.authorization) == ("refusal", "", "")
    assert read(refusal(json.dumps({"why": "LeftOut", "count": 7}))).kind == "refusal"


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "tenant_acme"},
        {"user": "vaultbrix_rest_acme"},
        {"context": "PL/pgSQL function tenant_acme.cheat() line 1 at RAISE"},
        {"context": f"{REFUSAL_FRAME}\nPL/pgSQL function tenant_acme.cheat() line 1 at PERFORM"},
        {"func_name": None},
        {"message": "REFUSED: no JSON"},
        {"message": 'REFUSED: {"why": "KeyClosed", "tenant": "no name"}'},
    ],
)
def test_what_only_looks_like_a_refusal_is_forged(fields: dict[str, Any]) -> None:
    found = read(refusal(json.dumps(REFUSED), **fields))
    assert (found.kind, found.tenant, found.authorization) == ("forged", "", "")
