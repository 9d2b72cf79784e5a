"""What may open while the clock is wrong or the audit record does not flow, and what is closed then."""

from tests.harness.builders import HOUR, NOW, grant

from vaultbrix.agent.decisions import HeldBack, permit
from vaultbrix.grants.state import AgentState, Closed, Ended, GrantRecord, Opened, StateChange, applied

CLOCK = HeldBack("clock", "the clock differs by 9 s from the API server's; nothing opens")
AUDIT = HeldBack("audit", "the record does not flow")


def opened(uid: str, *cidrs: str) -> Opened:
    return Opened(grant=GrantRecord.of(grant(*(cidrs or ("203.0.113.7/32",)), uid=uid), NOW), at=NOW)


def state() -> AgentState:
    """One rule is open, with two addresses."""
    return applied(AgentState("main"), [opened("old", "203.0.113.7/32", "203.0.113.8/32")])


def causes(changes: list[StateChange], *, clock_skew: int = 0, audit_message: str = "") -> dict[str, HeldBack]:
    permitted = permit(state(), changes, NOW, clock_skew=clock_skew, audit_message=audit_message)
    return {held.uid: cause for held, cause in permitted.held_back}


def test_with_a_right_clock_and_a_record_that_flows_every_change_is_made() -> None:
    changes: list[StateChange] = [opened("new"), Ended(uid="old", at=NOW, final=True)]
    permitted = permit(state(), changes, NOW, clock_skew=0, audit_message="")
    assert (permitted.changes, permitted.held_back) == (changes, [])


def test_with_a_wrong_clock_nothing_opens_and_what_closes_is_closed() -> None:
    narrowed = opened("old", "203.0.113.7/32")
    changes: list[StateChange] = [opened("new"), narrowed, Closed(uid="other")]
    permitted = permit(state(), changes, NOW, clock_skew=9, audit_message="")
    assert permitted.changes == [narrowed, Closed(uid="other")]
    assert causes(changes, clock_skew=9) == {"new": CLOCK}


def test_without_the_record_all_that_is_open_is_closed_once_and_not_for_good() -> None:
    permitted = permit(state(), [opened("new")], NOW, clock_skew=0, audit_message=AUDIT.message)
    assert permitted.changes == [Ended(uid="old", at=NOW, final=False)]
    ends: list[StateChange] = [Ended(uid="old", at=NOW + HOUR, final=True)]
    assert permit(state(), ends, NOW, clock_skew=0, audit_message=AUDIT.message).changes == ends
    assert causes([opened("new")], audit_message=AUDIT.message) == {"new": AUDIT}


def test_of_both_causes_each_grant_that_neither_lets_open_is_named() -> None:
    widened = opened("old", "203.0.113.7/32", "203.0.113.8/32", "203.0.113.9/32")
    assert causes([opened("new"), widened], clock_skew=9, audit_message=AUDIT.message) == {"new": CLOCK, "old": CLOCK}
    assert causes([widened], audit_message=AUDIT.message) == {"old": AUDIT}
