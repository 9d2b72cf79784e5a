import json
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import MINUTE, NOW, approval

from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import ExecutionError, Rehearsal
from vaultbrix.ddl.plan import plan
from vaultbrix.ddl.rehearsal.decisions import Effects, Table, due, expected_drops, grown, rehearsable, shown, verdict

WHOLE = plan("DROP TABLE a CASCADE; TRUNCATE b")
PARTLY = plan("DROP TABLE a; CREATE INDEX CONCURRENTLY i ON b(id); DROP TABLE b")
SHA = "a" * 64
names = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=300), max_size=8)


def rehearsed(*drops: str, **more: Any) -> Rehearsal:
    return shown(WHOLE, Effects(12, drops, **more), NOW)


def failed(sqlstate: str, after: timedelta = timedelta(0)) -> Any:
    error = {"sqlstate": sqlstate, "message": "no", "statement": 1}
    at = (NOW + after).strftime("%Y-%m-%dT%H:%M:%SZ")
    return approval(
        status={"sha256": SHA, "phase": "Pending", "rehearsal": {"possible": True, "at": at, "error": error}}
    )


def test_what_would_go_is_named_once_and_binds_the_run() -> None:
    found = rehearsed("view s.v", "table s.a", "view s.v")
    assert found.drops == ["table s.a", "view s.v"]
    assert expected_drops(found) == ["table s.a", "view s.v"]
    assert (found.possible, found.message) == (True, "")


def test_a_run_that_drops_nothing_is_held_to_that() -> None:
    assert expected_drops(rehearsed()) == []


@pytest.mark.parametrize(
    "found",
    [
        None,
        shown(PARTLY, Effects(1, ("table s.a",)), NOW),
        shown(WHOLE, Effects(1, error=ExecutionError(message="no")), NOW),
        rehearsed(*(f"table s.t{n}" for n in range(513))),
        rehearsed("table s." + "t" * 300),
    ],
    ids=["none", "a part", "a failure", "too many", "too long"],
)
def test_what_was_not_shown_in_full_binds_nothing(found: Rehearsal | None) -> None:
    assert expected_drops(found) is None


def test_what_is_too_much_to_name_says_that_the_run_is_not_held_to_it() -> None:
    found = rehearsed(*(f"table s.t{n}" for n in range(513)))
    assert len(found.drops) == 512
    assert "513 objects" in found.message
    assert "not held" in found.message


def test_a_text_with_a_statement_outside_a_transaction_is_rehearsed_up_to_it_and_says_what_that_means() -> None:
    assert (rehearsable(WHOLE), rehearsable(PARTLY)) == (2, 1)
    found = shown(PARTLY, Effects(1, ("table s.a",)), NOW)
    assert not found.possible
    assert "statement 2" in found.message
    assert "does not run as a whole" in found.message
    assert verdict(approval(), found, "")[:2] == (False, Reason.NOT_POSSIBLE)


def test_locks_are_named_by_the_strongest_and_reading_is_none() -> None:
    tables = (
        Table("s.a", 10, 100, locks=("AccessShareLock", "AccessExclusiveLock", "RowShareLock")),
        Table("s.b", 10, 100, locks=("AccessShareLock",)),
        Table("s.c", 10, 100, locks=("RowExclusiveLock",)),
    )
    found = shown(WHOLE, Effects(1, (), tables), NOW)
    assert [(lock.object, lock.mode) for lock in found.locks] == [
        ("s.a", "AccessExclusiveLock"),
        ("s.c", "RowExclusiveLock"),
    ]
    assert [table.object for table in found.affected] == ["s.a"]


def test_a_table_that_is_emptied_or_dropped_is_not_called_rewritten() -> None:
    tables = (
        Table("s.emptied", 1, 3, moved=True, locks=("AccessExclusiveLock",)),
        Table("s.rewritten", 1, 2, moved=True, locks=("AccessExclusiveLock",)),
        Table("s.gone", 1, 1, gone=True, moved=True, locks=("AccessExclusiveLock",)),
    )
    found = shown(WHOLE, Effects(1, ("truncate s.emptied", "table s.gone"), tables), NOW)
    assert [(t.object, t.rewritten) for t in found.affected] == [
        ("s.emptied", False), ("s.rewritten", True), ("s.gone", False),
    ]  # fmt: skip


def test_a_text_is_rehearsed_once_and_before_the_decision_only() -> None:
    decision = {"verdict": "Approved", "by": "boss@example.com", "sha256": SHA}
    assert due(approval(), NOW) is None, "not parsed yet"
    assert due(approval(status={"sha256": SHA, "phase": "Pending"}), NOW) == NOW
    assert due(approval(status={"sha256": SHA, "phase": "Pending"}, decision=decision), NOW) is None
    assert due(approval(status={"sha256": SHA, "phase": "Denied"}), NOW) is None
    good = {"sha256": SHA, "phase": "Pending", "rehearsal": rehearsed().dump()}
    assert due(approval(status=good), NOW + timedelta(days=30)) is None


def test_what_failed_for_want_of_a_lock_is_tried_again_at_growing_pauses_and_what_is_wrong_is_not() -> None:
    assert due(failed("42P01"), NOW + MINUTE) is None
    assert due(failed("55P03"), NOW) == NOW + timedelta(seconds=30)
    assert due(failed("55P03", 2 * MINUTE), NOW) == NOW + 4 * MINUTE
    assert due(failed("57P01", 50 * MINUTE), NOW) == NOW + 60 * MINUTE


def test_a_failed_rehearsal_is_told_and_names_the_statement() -> None:
    found = failed("55P03").status.rehearsal
    status, reason, message = verdict(approval(), found, "")
    assert (status, reason) == (False, Reason.REHEARSAL_FAILED)
    assert message.startswith("statement 1: 55P03 no")


def test_an_error_is_shown_at_the_line_where_its_statement_begins() -> None:
    text = plan("CREATE TABLE a(id int); -- first\n\n-- then\nDROP TABLE\n  missing")
    error = ExecutionError(sqlstate="42P01", message="no table", statement=2)
    found = shown(text, Effects(1, error=error), NOW)
    assert found.error is not None
    assert found.error.in_one_line == "statement 2, line 4: 42P01 no table"
    assert verdict(approval(), found, "").message == "statement 2, line 4: 42P01 no table"
    silent = shown(text, Effects(1, error=ExecutionError(message="no memory")), NOW)
    assert silent.error is not None
    assert silent.error.in_one_line == "no memory"


def test_what_functions_drop_is_said_to_need_more_than_a_plain_approval() -> None:
    found = rehearsed("table s.a", nested=True)
    assert "allowNested" in found.message
    assert found.nested
    assert not rehearsed("table s.a").nested


@given(names, names)
def test_a_run_that_goes_no_further_than_shown_has_not_grown_and_any_other_has(
    before: list[str], more: list[str]
) -> None:
    expected = expected_drops(rehearsed(*before))
    if expected is None:
        assert any(len(name) > 255 for name in before)
        return
    assert set(expected) == set(before)
    assert set(grown(expected, [*before, *more])) == set(more) - set(before)


def test_the_process_of_a_rehearsal_says_why_it_could_not_connect_and_never_the_password() -> None:
    order = {
        "conninfo": "host=127.0.0.1 port=1 user=u password=a-secret dbname=d connect_timeout=2",
        "role": "tenant_acme", "pass_id": "", "texts": [], "lock_timeout_ms": 1, "budget_ms": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "vaultbrix.ddl.rehearsal.process"]
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "refused" in json.loads(done.stdout)["message"]
    assert "a-secret" not in done.stdout + done.stderr
