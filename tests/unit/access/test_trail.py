"""Which events of an AccessRule are due, and of which rules there are any."""

from typing import Any

import pytest
from tests.harness.builders import HOUR, NOW, SECOND, rule, server

from vaultbrix.access.terms import terms_sha256
from vaultbrix.access.trail import concerned, facts_of
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.meta import rfc3339
from vaultbrix.audit.trail.decisions import Fact

REQUIRED, UP_TO = server(accessApproval="Required"), server(accessApproval="Required", autoApproveUpTo="3h")
OPENED, CLOSED = rfc3339(NOW + SECOND), rfc3339(NOW + HOUR)


def decided(found: AccessRule, by: str = "bob@example.com", verdict: str = "Approved") -> AccessRule:
    decision = {"verdict": verdict, "by": by, "sha256": terms_sha256(found), "message": "CHG-1"}
    return AccessRule.parse({**found.dump(), "spec": {**found.spec.dump(), "decision": decision}})


def due(found: AccessRule, **status: Any) -> list[Fact]:
    changed = AccessRule.parse({**found.dump(), "status": {**found.status.dump(), **status}})
    return facts_of(changed, changed.status, NOW + 2 * SECOND)


def words(found: list[Fact]) -> list[str]:
    return [str(each.event.event) for each in found]


@pytest.mark.parametrize(
    ("found", "where", "told"),
    [
        (rule(), REQUIRED, True),
        (rule(), server(), False),
        (rule(), None, False),
        (rule(), UP_TO, False),
        (decided(rule()), server(), True),
        (decided(rule()), None, True),
        (rule(status={"trail": {"server": "main"}}), server(), True),
        # From before there were events, and nobody ever decided.
        (rule(status={"closedAt": CLOSED}), REQUIRED, False),
    ],
)
def test_only_rules_on_which_somebody_decides_are_told(found: AccessRule, where: Any, told: bool) -> None:
    assert concerned(found, where) is told


def test_a_life_is_told_from_request_to_end() -> None:
    found = decided(rule())
    assert words(due(rule())) == ["Requested"]
    assert words(due(found)) == ["Requested", "Decided"]
    assert words(due(found, openedAt=OPENED)) == ["Requested", "Decided", "Opened"]
    facts = due(found, openedAt=OPENED, closedAt=CLOSED, closedReason="Expired")
    assert words(facts) == ["Requested", "Decided", "Opened", "Ended"]
    requested, decision, _, ended = (each.event for each in facts)
    assert (requested.by, requested.message, requested.at) == ("jane@example.com", "CHG-1", NOW)
    assert "203.0.113.7/32" in requested.terms
    assert (decision.by, decision.counts, decision.verdict) == ("bob@example.com", True, "Approved")
    assert (ended.reason, ended.at) == ("Expired", NOW + HOUR)


def test_an_edit_is_a_request_of_its_own_and_the_decision_stays_told() -> None:
    before = decided(rule())
    after = AccessRule.parse({**before.dump(), "spec": {**before.spec.dump(), "cidrs": ["203.0.113.9/32"]}})
    marks = [[each.mark for each in due(found)] for found in (before, after)]
    assert marks[0][0] != marks[1][0]
    assert marks[0][1] == marks[1][1]


def test_a_decision_that_does_not_count_is_told_with_the_reason() -> None:
    own = due(decided(rule(), by="jane@example.com"))[1].event
    assert (own.counts, own.reason) == (False, "SelfApproval")
    before = decided(rule())
    late = AccessRule.parse({**before.dump(), "spec": {**before.spec.dump(), "cidrs": ["203.0.113.9/32"]}})
    outdated = due(late)[1].event
    assert (outdated.counts, outdated.reason) == (False, "ApprovalOutdated")
    denied = due(decided(rule(), verdict="Denied"))[1].event
    assert (denied.counts, denied.verdict) == (True, "Denied")


def test_decisions_that_replace_each_other_are_told_one_by_one() -> None:
    marks = [due(decided(rule(), by=by))[1].mark for by in ("bob@example.com", "carol@example.com")]
    assert len(set(marks)) == 2


def test_one_that_may_have_gone_unchecked_is_told_as_that_and_again_should_it_count() -> None:
    found = decided(rule())
    why = {"type": "Accepted", "status": "False", "reason": "DecisionUnguarded", "message": "nobody knows"}
    held = due(found, conditions=[{**why, "lastTransitionTime": rfc3339(NOW)}])
    event, counted = held[1].event, due(found)[1].event
    assert (event.counts, event.reason, event.why, event.by) == (False, "DecisionUnguarded", "nobody knows", counted.by)
    assert counted.counts
    assert held[1].mark != due(found)[1].mark
