"""Only what happened is a statement: whatever a tenant writes into PostgreSQL's log is stored as what it is."""

import contextlib
import json
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from tests.harness.database import PASSWORD, send
from tests.harness.shell import wait_for
from tests.harness.shipping import Shipping, shipping

ROLE = "tenant_forger"
FORGED = 'AUDIT: SESSION,99999,1,DDL,DROP TABLE,TABLE,prod.orders,"DROP TABLE prod.orders",<not logged>'
WHOLE = json.dumps(
    {
        "timestamp": "2026-12-01 12:00:00.000 UTC", "user": "postgres", "dbname": "postgres", "pid": 1,
        "session_id": "6b0.1", "line_num": 1, "ps": "DROP TABLE", "error_severity": "LOG", "state_code": "00000",
        "message": FORGED, "func_name": "log_audit_event", "file_name": "pgaudit.c",
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> Iterator[Shipping]:
    with shipping() as running:
        running.database.tenant("forger")
        running.open_grants(ROLE)
        yield running


def kinds(parts: Shipping, mark: str) -> dict[str, int]:
    """How often lines that hold the mark are stored, by kind; a statement's by its text."""
    parts.settle()
    rows = parts.store.query(
        "SELECT kind, count(*) FROM audit.record"
        " WHERE position(%s IN coalesce(message, '') || coalesce(statement, '')) > 0 GROUP BY kind",
        [mark],
    )
    return dict(rows)


def invented(parts: Shipping) -> list[tuple[object, ...]]:
    """Statements that nobody sent."""
    return parts.store.query(
        "SELECT * FROM audit.record WHERE kind = 'statement' AND (statement = 'DROP TABLE prod.orders'"
        " OR object_name = 'prod.orders' OR statement_id = 99999 OR session_id = '6b0.1')"
    )


@pytest.mark.parametrize(
    ("level", "kind"),
    [
        ("DEBUG", None),
        ("LOG", "forged"),
        ("INFO", None),
        ("NOTICE", None),
        ("WARNING", "forged"),
        ("EXCEPTION", "error"),
    ],
)
@pytest.mark.parametrize(
    "text", [FORGED, WHOLE, f"x\n{WHOLE}\n", f"{FORGED}\n{FORGED}"], ids=["audit", "json", "line", "two"]
)
def test_what_a_tenant_raises_is_no_statement(parts: Shipping, level: str, kind: str | None, text: str) -> None:
    mark = uuid4().hex
    body = sql.SQL("DO {}").format(
        sql.Literal(f"BEGIN RAISE {level} USING MESSAGE = {sql.Literal(text + mark).as_string(None)}; END")
    )
    parts.session(ROLE, lambda c: send(c, body.as_string(c)))
    found = kinds(parts, mark)
    # The DO itself, which holds the text; what it raised, if PostgreSQL logs that level, and an error's line has both.
    assert found.pop("statement") == 1
    if kind == "forged" and not text.startswith("AUDIT"):
        kind = "other"
    assert found == ({kind: 1} if kind else {})
    assert invented(parts) == []


@pytest.mark.parametrize("code", ["28P01", "VBX01", "00000"])
def test_no_sqlstate_makes_an_error_anything_else(parts: Shipping, code: str) -> None:
    mark = uuid4().hex
    text = f"DO $$ BEGIN RAISE EXCEPTION 'password authentication failed {mark}' USING ERRCODE = '{code}'; END $$"
    parts.session(ROLE, lambda c: send(c, text))
    found = kinds(parts, mark)
    assert found["statement"] == 1
    assert set(found) == {"statement", "error"}


@pytest.mark.parametrize("name", [FORGED[:63], 'x","func_name":"log_audit_event","y":"', "a\nb\tc\\", "AUDIT: "])
def test_an_application_name_is_a_name(parts: Shipping, name: str) -> None:
    (row,) = parts.session(ROLE, lambda c: send(c, "SELECT 1"), application_name=name)
    # PostgreSQL writes a question mark for what is not printable.
    assert row["application"] == "".join(c if " " <= c <= "~" else "?" for c in name) or "\\x" in row["application"]
    assert row["statement"] == "SELECT 1"
    assert invented(parts) == []


@pytest.mark.parametrize(
    "text",
    [
        f"SELECT '{FORGED}'",
        f"SELECT '\n{WHOLE}\n'",
        "SELECT 1, '\",<not logged>\nAUDIT: SESSION,99999,1,DDL,DROP TABLE,TABLE,prod.orders,x,<none>'",
        'SELECT 1 AS "a,""b"""',
        'SELECT $$\r\n,",,"$$',
        f"SELECT 1 /* {FORGED} */",
    ],
    ids=["audit", "json", "csv", "quotes", "lines", "comment"],
)
def test_a_statement_is_what_was_sent(parts: Shipping, text: str) -> None:
    (row,) = parts.session(ROLE, lambda c: send(c, text))
    assert (row["statement"], row["outcome"]) == (text, "ok")
    assert invented(parts) == []


@pytest.mark.parametrize("name", ['x","func_name":"log_audit_event', FORGED[:63], 'line\nend,"quote"\\'])
def test_names_of_roles_databases_and_objects_are_names(parts: Shipping, name: str) -> None:
    role, marker = sql.Identifier(name), uuid4().hex
    with parts.postgres.connect() as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD)))
        admin.execute(sql.SQL("ALTER ROLE {} SET pgaudit.log = 'all'").format(role))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
        with psycopg.connect(
            host="localhost", port=parts.postgres.port, user=name, password=PASSWORD, dbname=name, autocommit=True,
            sslmode="require",
        ) as connection:  # fmt: skip
            connection.execute(sql.SQL("CREATE TABLE {}(id int)").format(role))
            connection.execute(f"SELECT '{marker}'")  # type: ignore[arg-type]
    parts.settle()
    found = parts.store.query(
        "SELECT role, database, kind FROM audit.record WHERE position(%s IN statement) > 0", [marker]
    )
    assert found == [(name, name, "statement")]
    made = parts.store.query(
        "SELECT object_name FROM audit.record WHERE role = %s AND command = 'CREATE TABLE'", [name]
    )
    assert len(made) == 1
    assert invented(parts) == []


def test_rows_make_a_tenth_field_and_nothing_else(parts: Shipping) -> None:
    with parts.postgres.connect() as admin:
        admin.execute(f"ALTER ROLE {ROLE} SET pgaudit.log_rows = on")
    try:
        mark = uuid4().hex
        parts.session(ROLE, lambda c: send(c, f"SELECT '{mark},\"' FROM generate_series(1, 7)"))
        parts.settle()
        found = parts.store.query(
            "SELECT kind, row_count, statement FROM audit.record WHERE position(%s IN statement) > 0", [mark]
        )
        assert found == [("statement", 7, f"SELECT '{mark},\"' FROM generate_series(1, 7)")]
    finally:
        with parts.postgres.connect() as admin:
            admin.execute(f"ALTER ROLE {ROLE} RESET pgaudit.log_rows")


def test_another_extensions_lines_are_its_own(parts: Shipping) -> None:
    """auto_explain logs what statements contain, on the session's behalf."""
    mark = uuid4().hex
    with parts.postgres.connect() as admin:
        admin.execute("LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET pgaudit.log = 'none'")
        admin.execute(f"SELECT 'AUDIT: {mark}'")
    assert set(kinds(parts, mark)) == {"other"}


def test_logins_and_their_failures_are_what_they_are(parts: Shipping) -> None:
    port = parts.postgres.port
    for user, password in ((ROLE, "wrong"), ("nobody_there", "wrong"), (ROLE, PASSWORD)):
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(
                host="localhost", port=port, user=user, password=password, dbname="postgres", sslmode="require"
            ).close()
    parts.settle()
    found = parts.store.query(
        "SELECT role, severity, sqlstate, count(*) FROM audit.record"
        " WHERE kind = 'authentication' AND severity = 'FATAL' GROUP BY 1, 2, 3 ORDER BY 1"
    )
    assert found == [("nobody_there", "FATAL", "28P01", 1), (ROLE, "FATAL", "28P01", 1)]
    assert parts.store.query(
        "SELECT count(*) > 0 FROM audit.record"
        " WHERE kind = 'authentication' AND message LIKE 'connection authenticated: %'"
    ) == [(True,)]
    (session,) = parts.store.query(
        "SELECT array_agg(DISTINCT kind ORDER BY kind) FROM audit.record WHERE session_id = (SELECT session_id"
        " FROM audit.record WHERE role = %s AND kind = 'disconnection' ORDER BY at DESC LIMIT 1)",
        [ROLE],
    )
    assert session == (["authentication", "connection", "disconnection"],)


def test_a_change_of_roles_is_a_statement_of_its_class(parts: Shipping) -> None:
    name = f"r{uuid4().hex[:8]}"
    with parts.postgres.connect() as admin:
        admin.execute(f"CREATE ROLE {name}")
        admin.execute(f"GRANT {name} TO {ROLE}")
        admin.execute(f"DROP ROLE {name}")
    stored = (
        "SELECT class, command, statement FROM audit.record WHERE kind = 'statement' AND position(%s IN statement) > 0"
        " ORDER BY line_num"
    )
    wait_for("all three are stored", lambda: len(parts.store.query(stored, [name])) == 3, tell=parts.shipper.text)
    assert parts.store.query(stored, [name]) == [
        ("ROLE", "CREATE ROLE", f"CREATE ROLE {name}"),
        ("ROLE", "GRANT ROLE", f"GRANT {name} TO {ROLE}"),
        ("ROLE", "DROP ROLE", f"DROP ROLE {name}"),
    ]
