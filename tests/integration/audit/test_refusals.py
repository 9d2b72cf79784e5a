"""Requests that the data API let in nowhere are found by key, id and address, and by no other tenant's reader."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.audit_store import open_as
from tests.harness.data_api_sessions import (
    DataApiSession,
    about,
    key_refused,
    note_refusals,
    refused,
    serve_data_api,
)
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import run, wait_for
from tests.harness.shipping import Shipping, shipping

from vaultbrix.gateway import refusals
from vaultbrix.gateway.refusals import Why

PASSWORD = "correct-horse-battery-staple"


CLOSED, EXPIRED, OTHERS, UNKNOWN, SERVED, LATER, ERASED = (digit * 32 for digit in "1234567")
TOLD = (
    refused(key_refused(Why.KEY_CLOSED, "mine", "web"), CLOSED),
    refused(key_refused(Why.KEY_EXPIRED, "mine", "app"), EXPIRED, client="2001:db8::7"),
    refused(key_refused(Why.OTHER_HOST, "other", "web"), OTHERS, host="mine.api.example.com"),
    refused(refusals.bad_key(Why.KEY_UNKNOWN), UNKNOWN, path="/rest/v1/100%_sure"),
    {"why": "LeftOut", "count": 7},
)


@pytest.fixture(scope="module")
def parts() -> Iterator[Shipping]:
    with shipping() as running:
        for slug in ("mine", "other"):
            running.database.tenant(slug)
        serve_data_api(running.database, "tenant_mine", "tenant_other")
        session = DataApiSession(running.database, "tenant_mine")
        with session.request(about("tenant_mine", SERVED)) as connection:
            connection.execute("SELECT 'let in'")
        session.close()
        running.statements(session.pid)
        note_refusals(running.database, *TOLD)
        count = "SELECT count(*) FROM audit.record WHERE kind = 'refusal'"
        wait_for("they are stored", lambda: running.store.query(count) == [(len(TOLD),)])
        yield running


@pytest.fixture(scope="module")
def auditor(parts: Shipping) -> dict[str, str]:
    """Whoever sees the whole record."""
    return parts.store.environment(parts.store.reader)


@pytest.fixture(scope="module")
def readers(parts: Shipping, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """A reader of each tenant, and one of a tenant that has no record."""
    password = tmp_path_factory.mktemp("readers") / "password"
    password.write_text(f"{PASSWORD}\n")
    manager = parts.store.environment(parts.store.login("manager", "audit_manage"))
    for slug in ("mine", "other", "none"):
        command(manager, "reader", "add", f"auditor@{slug}", f"--tenant=apps/{slug}", f"--password-file={password}")
    return {
        slug: {**manager, "PGUSER": f"auditor@{slug}", "PGPASSWORD": PASSWORD} for slug in ("mine", "other", "none")
    }


def command(login: dict[str, str], *arguments: str, code: int = 0) -> str:
    done = run(*VAULTBRIX, "audit", *arguments, env={**login, "PYTHONPATH": "operator"}, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def asked(login: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command(login, "query", "--output=json", *arguments).splitlines()]


def causes(rows: list[dict[str, Any]]) -> list[str | None]:
    """Why requests were refused; None for the statements of those that were not."""
    return list(dict.fromkeys(row["message"] for row in rows))


def test_a_refusal_tells_tenant_key_address_and_why(auditor: dict[str, str]) -> None:
    first, *_, left_out = asked(auditor, "--kind=refusal")
    told = ("tenant", "ground", "address", "statement", "outcome", "message", "object_name", "role", "sqlstate")
    assert [first[name] for name in told] == [
        "apps/mine", "key:apps/web", "198.51.100.7", "GET api.example.com/rest/v1/notes", "refused", "KeyClosed",
        CLOSED, None, None,
    ]  # fmt: skip
    assert (left_out["statement"], left_out["message"], left_out["tenant"]) == ("7 requests", "LeftOut", "")
    # Who asks for statements is shown nothing else.
    assert all(row["role"] for row in asked(auditor, "--all"))
    shown = command(auditor, "query", "--kind=refusal", f"--request={EXPIRED}")
    for part in ("apps/mine", "key:apps/app", "2001:db8::7", "GET api.example.com/rest/v1/notes", "refused KeyExpired"):
        assert part in shown


FILTERS = {
    ("--key=web",): [None, "KeyClosed", "OtherHost"],
    ("--key=apps/web",): [None, "KeyClosed", "OtherHost"],
    ("--key=web", "--kind=refusal"): ["KeyClosed", "OtherHost"],
    ("--key=web", "--kind=statement"): [None],
    ("--key=web", "--tenant=other"): ["OtherHost"],
    ("--key=web", "--outcome=refused"): ["KeyClosed", "OtherHost"],
    ("--key=web", "--outcome=ok"): [None],
    ("--key=web", "--class=READ"): [None],
    ("--key=eb",): [],
    (f"--request={SERVED}",): [None],
    (f"--request={UNKNOWN}",): ["KeyUnknown"],
    (f"--request={UNKNOWN}", "--kind=statement"): [],
    ("--kind=refusal", "--address=2001:db8::/32"): ["KeyExpired"],
    ("--kind=refusal", "--text=V1/100%_"): ["KeyUnknown"],
    ("--kind=refusal", "--text=00%_s"): ["KeyUnknown"],
    ("--kind=refusal", "--tenant=apps/mine"): ["KeyClosed", "KeyExpired"],
    ("--kind=refusal", "--limit=2"): ["KeyUnknown", "LeftOut"],
    ("--kind=refusal", "--limit=0"): ["KeyClosed", "KeyExpired", "OtherHost", "KeyUnknown", "LeftOut"],
    ("--kind=refusal", "--role=vaultbrix_listener"): [],
}


@pytest.mark.parametrize("options", FILTERS, ids=" ".join)
def test_each_option_finds_what_it_says(auditor: dict[str, str], options: tuple[str, ...]) -> None:
    assert causes(asked(auditor, *options)) == FILTERS[options]


def test_a_tenants_reader_sees_the_refusals_of_its_own_keys_alone(readers: dict[str, dict[str, str]]) -> None:
    seen = {slug: causes(asked(login, "--kind=refusal")) for slug, login in readers.items()}
    assert seen == {"mine": ["KeyClosed", "KeyExpired"], "other": ["OtherHost"], "none": []}
    mine = readers["mine"]
    for options in ((f"--request={OTHERS}",), (f"--request={UNKNOWN}",), ("--kind=refusal", "--text=100%_")):
        assert asked(mine, *options) == []
    assert causes(asked(mine, "--key=web")) == [None, "KeyClosed"]
    assert "is in no record that you may see" in command(mine, "query", "--kind=refusal", "--tenant=other", code=1)
    # A tenant all of whose requests were refused is known by its name.
    assert causes(asked(readers["other"], "--kind=refusal", "--tenant=other")) == ["OtherHost"]


def test_no_function_shows_a_reader_the_lines_of_others(parts: Shipping, readers: dict[str, dict[str, str]]) -> None:
    everything = "'-infinity'::timestamptz, 'infinity'::timestamptz"
    lines = parts.store.query("SELECT server, session_id, line_num, tenant FROM audit.record WHERE kind = 'refusal'")
    for slug, login in readers.items():
        own = sum(tenant == f"apps/{slug}" for *_, tenant in lines)
        with open_as(login) as connection:
            hits = connection.execute(
                f'SELECT count(*) FROM audit.hits(\'{{"kinds": ["refusal"]}}\', {everything}, true, NULL, 100)'
            ).fetchone()
            arrays = [list(column) for column in zip(*(line[:3] for line in lines), strict=True)]
            rows = connection.execute(
                f"SELECT count(*) FROM audit.statements_at('{{}}', %s, %s, %s, {everything})", arrays
            ).fetchone()
        assert (hits, rows) == ((own,), (own,))


def test_refusals_are_shown_as_they_come(parts: Shipping, auditor: dict[str, str], tmp_path: Path) -> None:
    watching = Process(
        [*VAULTBRIX, "audit", "tail", "--kind=refusal", "--lines=1", "--output=json"],
        tmp_path / "tail.log",
        env={**auditor, "PYTHONPATH": "operator"},
    )
    watching.start()
    try:
        wait_for("the newest is shown", lambda: "LeftOut" in watching.text(), tell=watching.text)
        note_refusals(parts.database, refused(key_refused(Why.RATE, "mine", "web"), LATER))
        wait_for("the next one is shown", lambda: LATER in watching.text(), tell=watching.text)
    finally:
        watching.kill()
    # The tests before this one have counted.
    assert watching.text().count('"refused"') == 2


def test_what_was_erased_is_shown_as_nothing(parts: Shipping, auditor: dict[str, str]) -> None:
    note_refusals(parts.database, refused(key_refused(Why.RATE, "mine", "gone"), ERASED))
    wait_for("it is stored", lambda: asked(auditor, f"--request={ERASED}"))
    place = "SELECT server, session_id, line_num FROM audit.record WHERE object_name = %s"
    ((server, session, line),) = parts.store.query(place, [ERASED])
    redact = "SELECT audit.redact_records(%s, %s, %s, 'on request', true)"
    parts.store.query(redact, [server, [session], [line]])
    (row,) = [
        row for row in asked(auditor, "--kind=refusal") if (row["session_id"], row["line_num"]) == (session, line)
    ]
    assert (row["statement"], row["message"], row["outcome"]) == (None, None, "refused")
