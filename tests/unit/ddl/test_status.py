"""The status of a DDLApproval: every condition every time, and times that are written once."""

from typing import Any

import pytest
from tests.harness.builders import HOUR, NOW, approval, named

from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval, DDLApprovalStatus
from vaultbrix.ddl.decisions import (
    ApprovalVerdict,
    RunState,
    Step,
    approval_status,
    blocked_status,
    invalid_status,
)
from vaultbrix.ddl.plan import RejectedText, plan
from vaultbrix.runtime.errors import Blocked

PLAN = plan("DROP TABLE a")
WAITS = State(None, Reason.WAITING, "waits for its rehearsal")
OWNED = ["Parsed", "Rehearsed", "Decided", "PassIssued", "Executed", "Ready"]
APPROVED = {"verdict": "Approved", "by": "pat@example.com", "sha256": PLAN.sha256}


def status(of: DDLApproval, phase: ApprovalPhase, run: RunState | None = None, later: Any = 0 * HOUR) -> Any:
    verdict = ApprovalVerdict(phase, Reason.WAITING, "so it is", Step.NOTHING)
    return approval_status(of, PLAN, verdict, run or RunState(), None, WAITS, NOW + later)


def with_status(of: DDLApproval, new: DDLApprovalStatus) -> DDLApproval:
    return of.model_copy(update={"status": new})


@pytest.mark.parametrize("phase", [phase for phase in ApprovalPhase if phase is not ApprovalPhase.INVALID])
def test_every_condition_is_there_every_time(phase: ApprovalPhase) -> None:
    found = status(approval(), phase)
    assert [c.type for c in found.conditions if c.type != "Stalled"] == OWNED
    blocked = Blocked(Reason.TENANT_NOT_READY, "not yet")
    assert [c.type for c in blocked_status(with_status(approval(), found), PLAN, blocked, NOW).conditions] == OWNED


def test_what_stands_in_the_way_changes_ready_alone() -> None:
    before = status(approval(), ApprovalPhase.PENDING)
    found = blocked_status(
        with_status(approval(), before), PLAN, Blocked(Reason.TENANT_NOT_READY, "not yet"), NOW + HOUR
    )
    assert found.conditions[:-1] == before.conditions[:-1]
    assert named(found.conditions, "Ready").reason == "TenantNotReady"
    assert found.phase is before.phase


def test_times_are_written_once() -> None:
    decided = approval(decision=APPROVED, validFor="1h")
    approved = status(decided, ApprovalPhase.APPROVED)
    assert (approved.decided_at, approved.expires_at) == (NOW, NOW + HOUR)
    running = status(with_status(decided, approved), ApprovalPhase.RUNNING, later=HOUR)
    assert (running.decided_at, running.expires_at, running.started_at) == (NOW, NOW + HOUR, NOW + HOUR)
    done = status(with_status(decided, running), ApprovalPhase.SUCCEEDED, later=2 * HOUR)
    assert (done.started_at, done.finished_at) == (NOW + HOUR, NOW + 2 * HOUR)


def test_a_pass_is_told_while_it_lets_the_text_through() -> None:
    issued = status(approval(), ApprovalPhase.APPROVED, RunState(pass_exists=True))
    assert named(issued.conditions, "PassIssued").reason == "Issued"
    assert named(status(approval(), ApprovalPhase.APPROVED).conditions, "PassIssued").reason == "Waiting"
    assert named(status(approval(), ApprovalPhase.FAILED).conditions, "PassIssued").reason == "Closed"


def test_a_text_that_is_none_says_what_to_do() -> None:
    with pytest.raises(RejectedText) as rejected:
        plan("DROP TABEL a")
    found = invalid_status(approval(), rejected.value, NOW)
    assert found.phase is ApprovalPhase.INVALID
    assert named(found.conditions, "Ready").message.endswith("; correct it in a new DDLApproval")
