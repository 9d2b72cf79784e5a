from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.api.ddlapproval import ExecutionError, Progress, Rehearsal
from vaultbrix.ddl.plan import plan
from vaultbrix.ddl.progress import executed, finished, needs_none, progress_of, unfinished, used, used_up

WHOLE = plan("INSERT INTO a VALUES (1); ALTER TABLE a ADD b int; INSERT INTO a VALUES (1); DROP TABLE c")
STEPS = plan("INSERT INTO a VALUES (1); CREATE INDEX CONCURRENTLY i ON a(id); DROP INDEX CONCURRENTLY j")
NESTED = plan("SELECT 1; SELECT cleanup()")


def test_a_text_that_runs_as_a_whole_took_effect_when_it_committed_and_not_before() -> None:
    assert (executed(WHOLE, whole=False, steps={}), finished(WHOLE, whole=False, steps={})) == (0, False)
    assert (executed(WHOLE, whole=True, steps={}), finished(WHOLE, whole=True, steps={})) == (4, True)


def test_one_that_does_not_has_taken_effect_when_each_statement_has() -> None:
    some = {1: True, 2: False}
    assert (executed(STEPS, whole=False, steps=some), finished(STEPS, whole=False, steps=some)) == (1, False)
    assert unfinished(some) == 2
    everything = dict.fromkeys((1, 2, 3), True)
    assert finished(STEPS, whole=False, steps=everything)
    assert unfinished(everything) is None
    assert not finished(STEPS, whole=True, steps=some), "a ledger row that its text cannot have written"


def test_a_session_has_used_a_pass_up_with_its_last_gated_statement() -> None:
    assert [used(WHOLE, n) for n in (1, 2, 3, 5)] == [0, 0, 1, 2]
    assert [used_up(WHOLE, n, None, allow_nested=False) for n in (1, 3, 5)] == [False, False, True]


def test_where_only_functions_drop_the_last_statement_ends_it() -> None:
    assert not used_up(NESTED, 1, None, allow_nested=False)
    assert [used_up(NESTED, n, None, allow_nested=True) for n in (1, 2, 3)] == [False, False, True]


def test_progress_tells_the_statement_by_its_text_and_the_second_of_two_alike_by_what_was_before() -> None:
    def at(query: str, last: Progress | None = None) -> int | None:
        found = progress_of(WHOLE, {}, query, "", 0, 0, last)
        return found.statement if found else None

    assert at("INSERT INTO a VALUES (1)") == 1
    assert at("INSERT INTO a VALUES (1)", Progress(statement=2, of=4)) == 3
    assert at("DROP TABLE c") == 4
    assert at("COMMIT") is None


def test_progress_of_a_step_is_known_by_its_row() -> None:
    phase = "CREATE INDEX CONCURRENTLY: building index"
    found = progress_of(STEPS, {1: True, 2: False}, "whatever", phase, 50, 200, None)
    assert found == Progress(statement=2, of=3, phase=phase, percent=25)


@given(st.integers(-5, 10**12), st.integers(-5, 10**12), st.text(max_size=300))
def test_whatever_postgresql_counts_it_is_a_progress_of_the_api(done: int, total: int, phase: str) -> None:
    found = progress_of(WHOLE, {1: False}, "", phase, done, total, None)
    assert found is not None
    assert Progress.model_validate(found.model_dump()) == found


def rehearsal(used_up_to: int | None, *, possible: bool = True, **more: Any) -> Rehearsal:
    return Rehearsal(possible=possible, at=datetime(2026, 1, 1, tzinfo=UTC), used_up_to=used_up_to, **more)


def test_the_last_statement_in_which_the_rehearsal_saw_something_dropped_ends_it() -> None:
    assert [used_up(NESTED, n, rehearsal(1), allow_nested=True) for n in (1, 2)] == [False, True]
    assert not used_up(NESTED, 2, rehearsal(1), allow_nested=False)


def test_only_what_was_rehearsed_and_used_no_pass_needs_none() -> None:
    failed = rehearsal(None, error=ExecutionError(sqlstate="42P01", message="no table"))
    assert [needs_none(NESTED, r) for r in (None, failed, rehearsal(1), rehearsal(0))] == [False, False, False, True]
    assert needs_none(plan("CREATE TABLE a()"), None)
    assert not needs_none(WHOLE, rehearsal(0))
    assert not needs_none(NESTED, rehearsal(0, possible=False)), "only a part of it was rehearsed"
