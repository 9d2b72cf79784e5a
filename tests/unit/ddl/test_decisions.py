from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, NOW, SECOND, approval

from vaultbrix.admission.decisions import Objection
from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import FINAL_PHASES, ApprovalPhase, DDLApproval, ExecutionError
from vaultbrix.ddl.decisions import (
    ApprovalVerdict,
    RunState,
    Step,
    decide,
    effect_grew,
    login_name,
    login_uid,
    refused_decision,
    rehearsal_login,
)

SHA = "a" * 64
LEDGER = RunState(ledger=True)
RUNNING = RunState(job_exists=True)
FAILED = RunState(job_exists=True, job_failed=True)


def decision(verdict: str = "Approved", *, by: str = "boss@example.com", sha256: str = SHA, **more: str) -> Any:
    return {"verdict": verdict, "by": by, "sha256": sha256, **more}


def verdict(found: DDLApproval, run: RunState | None = None, *, after: int = 0) -> ApprovalVerdict:
    return decide(found, SHA, run or RunState(), NOW + after * SECOND)


def summary(found: ApprovalVerdict) -> tuple[ApprovalPhase, Reason, Step]:
    return found.phase, found.reason, found.step


def test_an_undecided_text_waits_and_shows_the_hash_to_decide_on() -> None:
    found = verdict(approval())
    assert summary(found) == (ApprovalPhase.PENDING, Reason.UNDECIDED, Step.NOTHING)
    assert SHA in found.message


def test_an_approved_text_is_issued() -> None:
    found = verdict(approval(decision=decision()))
    assert summary(found) == (ApprovalPhase.APPROVED, Reason.APPROVED, Step.ISSUE)
    assert "boss@example.com" in found.message


def test_a_denied_text_is_closed_with_the_reason_given() -> None:
    found = verdict(approval(decision=decision("Denied", message="not on a Friday")))
    assert summary(found) == (ApprovalPhase.DENIED, Reason.DENIED, Step.CLOSE)
    assert found.message == "denied by boss@example.com: not on a Friday"


@pytest.mark.parametrize("answer", ["Approved", "Denied"])
def test_a_decision_that_nothing_checked_does_not_count_whatever_it_says(answer: str) -> None:
    decided = approval(decision=decision(answer))
    now = decide(decided, SHA, RunState(), NOW, objection=Objection(final=False, message="gone"))
    assert summary(now) == (ApprovalPhase.PENDING, Reason.DECISION_UNGUARDED, Step.NOTHING)
    later = decide(decided, SHA, RunState(), NOW, objection=Objection(final=True, message="ask anew"))
    assert summary(later) == (ApprovalPhase.DENIED, Reason.DECISION_UNGUARDED, Step.CLOSE)
    assert later.message == "ask anew"


def test_what_runs_or_has_run_goes_on_while_nothing_checks_decisions() -> None:
    decided, unguarded = approval(decision=decision()), Objection(final=True, message="ask anew")
    assert decide(decided, SHA, RUNNING, NOW, objection=unguarded).phase is ApprovalPhase.RUNNING
    assert decide(decided, SHA, LEDGER, NOW, objection=unguarded).phase is ApprovalPhase.SUCCEEDED


@pytest.mark.parametrize("answer", ["Approved", "Denied"])
def test_nobody_decides_on_their_own_request(answer: str) -> None:
    found = verdict(approval(decision=decision(answer, by="jane@example.com")))
    assert summary(found) == (ApprovalPhase.DENIED, Reason.SELF_APPROVAL, Step.CLOSE)


@pytest.mark.parametrize("answer", ["Approved", "Denied"])
def test_a_decision_on_another_text_does_not_count(answer: str) -> None:
    found = verdict(approval(decision=decision(answer, sha256="b" * 64)))
    assert summary(found) == (ApprovalPhase.DENIED, Reason.OUTDATED_DECISION, Step.CLOSE)
    assert SHA in found.message


@pytest.mark.parametrize("answer", ["Approved", "Denied"])
def test_a_decision_that_came_along_with_the_text_does_not_count(answer: str) -> None:
    found = verdict(approval(decision=decision(answer), status={"sha256": None}))
    assert summary(found) == (ApprovalPhase.DENIED, Reason.OUTDATED_DECISION, Step.CLOSE)


def test_a_decision_that_counts_is_not_refused() -> None:
    assert refused_decision(approval(), SHA) is None
    assert refused_decision(approval(decision=decision()), SHA) is None
    assert refused_decision(approval(decision=decision("Denied")), SHA) is None


def test_an_approval_ends_by_itself_at_its_time_and_not_before() -> None:
    found = approval(decision=decision(), status={"phase": "Approved", "expiresAt": "2026-12-01T12:00:10Z"})
    assert verdict(found, after=9).step is Step.ISSUE
    assert summary(verdict(found, after=10)) == (ApprovalPhase.EXPIRED, Reason.EXPIRED, Step.CLOSE)


def test_a_job_that_started_in_time_may_finish_after_the_approval_ended() -> None:
    found = approval(decision=decision(), status={"phase": "Running", "expiresAt": "2026-12-01T12:00:10Z"})
    assert summary(verdict(found, RUNNING, after=3600)) == (ApprovalPhase.RUNNING, Reason.RUNNING, Step.OBSERVE)


def test_a_statement_that_failed_is_named() -> None:
    error = ExecutionError(sqlstate="42P01", message='table "a" does not exist', statement=2, line=7)
    found = verdict(approval(decision=decision()), RunState(job_exists=True, job_failed=True, error=error))
    assert summary(found) == (ApprovalPhase.FAILED, Reason.STATEMENT_FAILED, Step.CLOSE)
    assert found.message == 'statement 2, line 7: 42P01 table "a" does not exist'


def test_a_job_that_failed_without_a_word_of_postgresql_is_no_failed_statement() -> None:
    assert summary(verdict(approval(decision=decision()), FAILED))[:2] == (ApprovalPhase.FAILED, Reason.JOB_FAILED)
    silent = ExecutionError(message="the Job ended without saying why")
    found = verdict(approval(decision=decision()), RunState(job_exists=True, job_failed=True, error=silent))
    assert summary(found) == (ApprovalPhase.FAILED, Reason.JOB_FAILED, Step.CLOSE)
    assert "statement 0" not in found.message


@pytest.mark.parametrize("phase", [p for p in ApprovalPhase if p is not ApprovalPhase.SUCCEEDED])
@pytest.mark.parametrize(
    "run", [LEDGER, RunState(ledger=True, job_exists=True, job_failed=True)], ids=["no job", "failed job"]
)
def test_the_ledger_wins_over_whatever_jobs_and_clocks_say(phase: ApprovalPhase, run: RunState) -> None:
    found = approval(decision=decision(), status={"phase": str(phase), "expiresAt": "2026-12-01T12:00:00Z"})
    assert summary(verdict(found, run, after=3600)) == (ApprovalPhase.SUCCEEDED, Reason.SUCCEEDED, Step.CLOSE)


@pytest.mark.parametrize("phase", sorted(FINAL_PHASES))
@pytest.mark.parametrize("run", [RunState(), RUNNING, FAILED], ids=["nothing", "running", "failed"])
def test_what_is_final_stays_so_and_needs_nothing_more(phase: ApprovalPhase, run: RunState) -> None:
    found = verdict(approval(decision=decision(), status={"phase": str(phase)}), run)
    assert (found.phase, found.step) == (phase, Step.NOTHING)


def test_a_success_is_closed_once() -> None:
    assert verdict(approval(status={"phase": "Succeeded"}), LEDGER).step is Step.NOTHING


@given(
    st.sampled_from(["", *ApprovalPhase]),
    st.sampled_from([None, decision(), decision("Denied"), decision(by="jane@example.com"), decision(sha256="b" * 64)]),
    st.builds(RunState, ledger=st.booleans(), job_exists=st.booleans(), job_failed=st.booleans()),
    st.integers(0, 20),
)
def test_a_text_is_issued_only_when_another_person_approved_exactly_it_in_time_and_nothing_ran(
    phase: str, answer: Any, run: RunState, after: int
) -> None:
    status = {"expiresAt": "2026-12-01T12:00:10Z"} | ({"phase": phase} if phase else {})
    found = verdict(approval(decision=answer, status=status), run, after=after)
    may_run = (
        answer == decision()
        and after < 10
        and phase not in FINAL_PHASES
        and not (run.ledger or run.job_exists or run.job_failed)
    )
    assert (found.step is Step.ISSUE) == may_run
    assert (found.phase is ApprovalPhase.SUCCEEDED) == (run.ledger or phase == ApprovalPhase.SUCCEEDED)


@given(st.uuids(version=4))
def test_a_one_time_login_fits_a_name_of_postgresql_and_is_no_tenants(uid: object) -> None:
    name = login_name(str(uid))
    assert len(name.encode()) <= 63
    assert not name.startswith("tenant_")
    assert login_uid(name) == str(uid)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")


def test_an_approval_that_is_never_decided_never_runs() -> None:
    assert verdict(approval(), after=int(HOUR.total_seconds()) * 1000).step is Step.NOTHING


def session(**more: Any) -> DDLApproval:
    return approval(execution="Session", **more)


USED = RunState(pass_exists=True, executed=1)


def test_a_session_waits_for_the_tenant_while_its_pass_is_open_and_says_how_far_it_is() -> None:
    found = verdict(session(decision=decision()), USED)
    assert summary(found) == (ApprovalPhase.APPROVED, Reason.ISSUED, Step.OBSERVE)
    assert "1 of its gated statements" in found.message


def test_a_session_that_was_not_used_up_in_time_says_how_many_statements_ran() -> None:
    found = session(decision=decision(), status={"phase": "Approved", "expiresAt": "2026-12-01T12:00:10Z"})
    ended = verdict(found, USED, after=10)
    assert summary(ended) == (ApprovalPhase.EXPIRED, Reason.EXPIRED, Step.CLOSE)
    assert "1 of its gated statements" in ended.message


def test_a_session_that_was_used_up_at_the_last_moment_succeeded() -> None:
    found = session(decision=decision(), status={"phase": "Approved", "expiresAt": "2026-12-01T12:00:10Z"})
    assert verdict(found, RunState(ledger=True, pass_exists=True), after=60).phase is ApprovalPhase.SUCCEEDED


def test_a_session_that_needs_no_pass_is_over_with_its_approval_and_says_why() -> None:
    found = verdict(session(decision=decision()), RunState(unneeded=True))
    assert summary(found) == (ApprovalPhase.SUCCEEDED, Reason.SUCCEEDED, Step.CLOSE)
    assert "asks for a pass" in found.message
    assert verdict(session(decision=decision("Denied")), RunState(unneeded=True)).phase is ApprovalPhase.DENIED
    assert verdict(approval(decision=decision()), RunState(unneeded=True)).step is Step.ISSUE, "a Job runs it"


def test_none_of_those_who_may_have_asked_decides() -> None:
    found = approval(requestedBy="jane@example.com,bob@example.com", decision=decision(by="bob@example.com"))
    assert verdict(found).reason is Reason.SELF_APPROVAL
    assert verdict(approval(requestedBy="tenant:team/acme", decision=decision())).step is Step.ISSUE


def test_a_statement_of_which_nobody_knows_is_reported_and_what_stayed_is_counted() -> None:
    silent = ExecutionError(message="it was begun by an earlier attempt", statement=3, line=4)
    run = RunState(job_exists=True, job_failed=True, executed=2, unfinished=3, left="index u: drop it", error=silent)
    found = verdict(approval(decision=decision()), run)
    assert summary(found) == (ApprovalPhase.FAILED, Reason.INTERRUPTED, Step.CLOSE)
    for part in ("statement 3, line 4: ", "the 2 before it", "twice", "Look at index u: drop it"):
        assert part in found.message


def test_a_statement_that_failed_outside_a_transaction_says_what_to_look_for() -> None:
    error = ExecutionError(sqlstate="23505", message="duplicate", statement=2)
    run = RunState(job_exists=True, job_failed=True, executed=1, unfinished=2, left="index u: drop it", error=error)
    found = verdict(approval(decision=decision()), run)
    assert found.reason is Reason.STATEMENT_FAILED
    assert found.message.endswith("Look at index u: drop it")
    silent = replace(run, left="")
    assert "Look at the objects that it names" in verdict(approval(decision=decision()), silent).message


def test_an_effect_that_grew_names_what_is_new_and_asks_for_another_approval() -> None:
    found = effect_grew([f"view s.v{n}" for n in range(10)])
    assert summary(found) == (ApprovalPhase.FAILED, Reason.EFFECT_GREW, Step.CLOSE)
    for part in ("view s.v0", "and 2 more", "submit it again"):
        assert part in found.message
    error = ExecutionError(sqlstate="VBX01", message="DROP TABLE requires an approved DDLApproval", statement=2, line=3)
    assert effect_grew(["view s.v"], error).message.startswith("statement 2, line 3: nothing ran: ")


@given(st.uuids(version=4))
def test_a_rehearsals_login_is_not_that_of_the_job(uid: object) -> None:
    assert rehearsal_login(str(uid)) != login_name(str(uid))
    with pytest.raises(ValueError, match="badly formed"):
        login_uid(rehearsal_login(str(uid)))
