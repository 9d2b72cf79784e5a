"""``vaultbrix ddl run`` as its Job runs it: as the tenant, with a pass, exactly once, whenever it is killed."""

import itertools
import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from tests.harness.database import Database, directory
from tests.harness.ddl_job import HOUR, TEXT, end, job
from tests.harness.shell import wait_for

from vaultbrix.ddl.gate import logins, passes
from vaultbrix.ddl.plan import RejectedText, plan

numbers = itertools.count(1)


@pytest.fixture
def place() -> Iterator[Path]:
    with directory() as path:
        yield path


@pytest.fixture
def role(database: Database) -> str:
    """A tenant with a table to count runs in and one to change."""
    role = database.tenant(f"d{next(numbers)}")
    with database.login(role) as session:
        session.execute("CREATE TABLE counted(at timestamptz DEFAULT clock_timestamp())")
        session.execute("CREATE TABLE victim(id int, v text)")
    return role


def test_the_text_runs_as_the_tenant_and_once(database: Database, role: str, place: Path) -> None:
    made = job(database, role, place)
    code, process = made.run()
    assert (code, made.termination.read_text()) == (0, ""), process.text()
    assert made.columns() == ["id"]
    owner = "SELECT tableowner::text, schemaname::text FROM pg_tables WHERE tablename = 'made' AND schemaname = %s"
    assert database.postgres.query(owner, [role]) == [(role, role)]
    assert made.run()[0] == 0
    assert made.count() == 1
    assert database.admin(passes.committed, made.pass_id)
    database.admin(logins.drop_login, made.login)
    assert database.postgres.query("SELECT 1 FROM pg_roles WHERE rolname = %s", [made.login]) == []


def test_a_pod_that_starts_before_it_is_let_in_waits_for_that(database: Database, role: str, place: Path) -> None:
    made, file = job(database, role, place), database.postgres.hba_file
    before = file.read_text()
    file.write_text(f'host all "{made.login}" all reject\n{before}')
    database.postgres.query("SELECT pg_reload_conf()")
    process = made.start()
    refused = f'pg_hba.conf rejects connection for host "127.0.0.1", user "{made.login}"'.replace('"', '\\"')
    wait_for("it was refused", lambda: refused in database.postgres.log_text(), tell=process.text)
    file.write_text(before)
    database.postgres.query("SELECT pg_reload_conf()")
    assert end(process) == 0, process.text()
    assert made.count() == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("INSERT INTO counted DEFAULT VALUES; ALTER TABLE missing ADD COLUMN x int", ("42P01", 2)),
        ("INSERT INTO counted DEFAULT VALUES; SELECT 1/0; SELECT 2", ("22012", 2)),
        ("CREATE TABLE public.x(id int)", ("42501", 1)),
        ("INSERT INTO counted DEFAULT VALUES; SET statement_timeout = '1s'; SELECT pg_sleep(60)", ("57014", 3)),
        ("INSERT INTO counted DEFAULT VALUES; DO $$ BEGIN ALTER TABLE victim DROP COLUMN v; END $$", ("VBX01", 2)),
    ],
)
def test_a_refusal_names_state_and_statement_and_leaves_nothing(
    database: Database, role: str, place: Path, text: str, error: tuple[str, int]
) -> None:
    made = job(database, role, place, text)
    code, process = made.run()
    assert code == 3, process.text()
    said = made.error()
    assert (said["sqlstate"], said["statement"]) == error
    assert said["message"]
    assert made.count() == 0
    assert made.columns() == ["id", "v"]
    assert not database.admin(passes.committed, made.pass_id)


def test_a_refusal_names_what_would_be_lost(database: Database, role: str, place: Path) -> None:
    made = job(database, role, place, "CREATE TABLE made(id int);\nDO $$ BEGIN DROP TABLE victim; END $$")
    assert made.run()[0] == 3
    said = made.error()
    assert (said["sqlstate"], said["statement"]) == ("VBX01", 2)
    assert said["message"].startswith(f"DROP TABLE requires an approved DDLApproval (role {role}); issued inside")  # type: ignore[attr-defined]
    assert f"it would lose table {role}.victim, " in said["message"]  # type: ignore[operator]
    assert "sha256" not in said["message"]  # type: ignore[operator]


SWALLOWS = (
    "DO $$ BEGIN BEGIN ALTER TABLE victim DROP COLUMN v; EXCEPTION WHEN OTHERS THEN"
    " RAISE NOTICE 'already there'; END; END $$"
)


@pytest.mark.parametrize("quietly", ["", "SET client_min_messages = error; "])
@pytest.mark.parametrize("outside", ["", "; VACUUM victim"])
def test_a_refusal_that_the_text_catches_is_none_the_less_one(
    database: Database, role: str, place: Path, quietly: str, outside: str
) -> None:
    """A phase is a claim."""
    made = job(database, role, place, f"{quietly}{SWALLOWS}{outside}; INSERT INTO counted DEFAULT VALUES")
    code, process = made.run()
    assert code == 3, process.text()
    said = made.error()
    assert (said["sqlstate"], said["statement"]) == ("VBX01", 2 if quietly else 1)
    assert said["message"] == "ALTER TABLE was refused by the gate, and the text caught the error"
    assert (made.count(), made.columns()) == (0, ["id", "v"])


def test_a_secret_that_was_tampered_with_is_refused(database: Database, role: str, place: Path) -> None:
    made = job(database, role, place)
    made.write_secret("INSERT INTO counted DEFAULT VALUES; DROP TABLE victim")
    assert made.run()[0] == 3
    assert made.error()["sqlstate"] == "VBX01"
    assert made.columns() == ["id", "v"]
    assert made.count() == 0


@pytest.mark.parametrize(("with_pass", "lasting"), [(False, HOUR), (True, timedelta(0))], ids=["none", "expired"])
def test_without_a_pass_nothing_runs(
    database: Database, role: str, place: Path, with_pass: bool, lasting: timedelta
) -> None:
    made = job(database, role, place, "INSERT INTO counted DEFAULT VALUES", with_pass=with_pass, lasting=lasting)
    assert made.run()[0] == 3
    assert made.error()["sqlstate"] == "VBX03"
    assert made.count() == 0


def test_another_login_cannot_use_the_pass(database: Database, role: str, place: Path) -> None:
    owner = job(database, role, place)
    with directory() as elsewhere:
        thief = job(database, role, elsewhere, with_pass=False)
        parameters = json.loads((elsewhere / "parameters.json").read_text())
        (elsewhere / "parameters.json").write_text(json.dumps({**parameters, "pass_id": owner.pass_id}))
        assert thief.run()[0] == 3
        assert thief.error()["sqlstate"] == "VBX03"
    assert owner.run()[0] == 0
    assert owner.count() == 1


def test_postgresql_that_is_down_is_a_reason_to_try_again(database: Database, role: str, place: Path) -> None:
    made = job(database, role, place)
    database.postgres.stop()
    try:
        code, process = made.run()
        assert code == 1
        assert "Traceback" not in process.text()
        assert made.error()["message"]
    finally:
        database.postgres.start()
    assert made.run()[0] == 0
    assert made.count() == 1


def test_the_password_is_nowhere_to_be_seen(database: Database, role: str, place: Path) -> None:
    made = job(database, role, place)
    with database.postgres.connect() as holder, holder.transaction():
        holder.execute(f"LOCK TABLE {role}.victim".encode())
        process = made.start()
        wait_for("it waits for the lock", lambda: made.sessions("wait_event_type = 'Lock'"), tell=process.text)
        seen = [Path(f"/proc/{process.pid}/{name}").read_text() for name in ("cmdline", "environ")]
    assert end(process) == 0
    for text in (*seen, process.text(), made.termination.read_text(), database.postgres.log_text()):
        assert made.password not in text


def test_killed_before_it_did_anything_it_runs_once(database: Database, role: str, place: Path) -> None:
    made = job(database, role, place)
    made.start().kill()
    assert made.count() == 0
    assert made.run()[0] == 0
    assert made.count() == 1


def test_killed_in_the_middle_it_runs_once(database: Database, role: str, place: Path) -> None:
    made = job(database, role, place)
    with database.postgres.connect() as holder, holder.transaction():
        holder.execute(f"LOCK TABLE {role}.victim".encode())
        process = made.start()
        wait_for("it waits for the lock", lambda: made.sessions("wait_event_type = 'Lock'"), tell=process.text)
        process.kill()
    wait_for("its session is gone", lambda: not made.sessions())
    assert (made.count(), made.columns()) == (0, ["id", "v"])
    assert made.run()[0] == 0
    assert (made.count(), made.columns()) == (1, ["id"])


def test_killed_between_the_commit_and_hearing_of_it_it_runs_once(database: Database, role: str, place: Path) -> None:
    with database.login(role) as session:
        session.execute(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN new; END $$"
        )
        session.execute(
            "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON counted DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION hold()"
        )
    made = job(database, role, place)
    with database.postgres.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(7)")
        process = made.start()
        wait_for("it commits", lambda: made.sessions("wait_event = 'advisory'"), tell=process.text)
        process.send(signal.SIGSTOP)
    try:
        wait_for("it is committed", lambda: database.admin(passes.committed, made.pass_id))
    finally:
        process.kill()
    assert made.run()[0] == 0
    assert (made.count(), made.columns()) == (1, ["id"])


def test_two_at_once_run_it_once(database: Database, role: str, place: Path) -> None:
    made = job(database, role, place)
    with database.postgres.connect() as holder, holder.transaction():
        holder.execute(f"LOCK TABLE {role}.victim".encode())
        both = [made.start(name) for name in ("first", "second")]
        wait_for("both wait", lambda: len(made.sessions("wait_event_type = 'Lock'")) == 2)
    codes = [end(process) for process in both]
    assert 0 in codes
    assert set(codes) <= {0, 1}, "a Job that lost the race is tried again, not failed"
    # Its login may have two, and theirs end after the processes.
    wait_for("their sessions are gone", lambda: not made.sessions())
    assert made.run()[0] == 0
    assert (made.count(), made.columns()) == (1, ["id"])


def test_a_job_uses_its_own_pass_and_leaves_the_tenants(database: Database, role: str, place: Path) -> None:
    own = str(uuid4())
    soon = datetime.now(UTC) + timedelta(minutes=5)
    database.admin(
        passes.issue_pass, pass_id=own, role=role, login=None, approved_by="pat", expires_at=soon, plan=plan(TEXT)
    )
    made = job(database, role, place)
    assert made.run()[0] == 0
    use, theirs = database.admin(passes.use_of, made.pass_id), database.admin(passes.use_of, own)
    assert use is not None
    assert theirs is not None
    assert (use.complete, theirs.next_stmt) == (True, 1)


def test_a_text_that_began_in_time_may_go_on_for_as_long_as_its_login(
    database: Database, role: str, place: Path
) -> None:
    made = job(
        database, role, place, "SELECT pg_sleep(11);\nALTER TABLE victim DROP COLUMN v", lasting=timedelta(seconds=10)
    )
    code, process = made.run()
    assert code == 0, process.text()


def test_a_pass_that_has_ended_keeps_no_hashes_and_is_forgotten_in_the_end(
    database: Database, role: str, place: Path
) -> None:
    made = job(database, role, place)
    assert made.run()[0] == 0
    database.admin(passes.revoke_pass, made.pass_id)
    texts = "SELECT count(*) FROM vaultbrix.ddl_pass_text WHERE pass_id = %s"
    assert database.postgres.query(texts, [made.pass_id]) == [(0,)]
    database.admin(passes.purge, set())
    assert database.admin(passes.committed, made.pass_id)
    database.postgres.query(
        "UPDATE vaultbrix.ddl_pass SET revoked_at = revoked_at - interval '31 days' WHERE pass_id = %s", [made.pass_id]
    )
    database.admin(passes.purge, {made.pass_id})
    assert database.admin(passes.committed, made.pass_id)
    database.admin(passes.purge, set())
    assert not database.admin(passes.committed, made.pass_id)
    assert database.postgres.query("SELECT 1 FROM vaultbrix.ddl_pass_use WHERE pass_id = %s", [made.pass_id]) == []


# Under SJIS the second byte of the first character takes the backslash along, and the constant ends there.
SMUGGLING = "SELECT E'\u00c1\\'; COMMIT; DELETE FROM victim; --'"


@pytest.mark.parametrize("way", ["encoding", "hidden"])
def test_what_runs_is_read_as_it_was_shown_whatever_encoding_the_text_sets(
    database: Database, role: str, place: Path, way: str
) -> None:
    with database.login(role) as session:
        session.execute(
            "CREATE FUNCTION sets() RETURNS void LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM set_config('client_' || 'encoding', 'SJIS', false); END $$"
        )
        session.execute("INSERT INTO victim DEFAULT VALUES")
    if way == "encoding":
        with pytest.raises(RejectedText):
            plan(f"SET client_encoding = 'SJIS'; {SMUGGLING}")
        with pytest.raises(RejectedText):
            plan(f"SET NAMES 'SJIS'; {SMUGGLING}")
        return
    made = job(database, role, place, f"SELECT sets();\n{SMUGGLING};\nSELECT 1/0")
    assert made.run()[0] == 3
    assert not database.admin(passes.committed, made.pass_id)
    assert database.postgres.query(f"SELECT count(*) > 0 FROM {role}.victim") == [(True,)]
