"""Which events of a DDLApproval are due: from the object and the status that is about to be written."""

from typing import Any

import pytest
from tests.harness.builders import NOW, SECOND, approval

from vaultbrix.api.ddlapproval import DDLApprovalStatus
from vaultbrix.api.meta import rfc3339
from vaultbrix.audit.trail.decisions import Fact
from vaultbrix.ddl.trail import facts_of

SHA = "a" * 64
DELETED = {"deletionTimestamp": rfc3339(NOW + 60 * SECOND)}
GOOD = {"verdict": "Approved", "by": "pat@example.com", "sha256": SHA, "message": "CHG-1"}


def condition(type_: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {
        "type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": rfc3339(NOW),
    }  # fmt: skip


def due(
    phase: str | None, *, decision: Any = None, metadata: Any = None, executed: int | None = None, **status: Any
) -> list[Fact]:
    written = {**({"phase": phase} if phase else {}), "sha256": SHA, **status}
    found = approval(metadata=metadata, decision=decision) if decision else approval(metadata=metadata)
    return facts_of(found, DDLApprovalStatus.model_validate(written), NOW + SECOND, executed=executed)


def words(found: list[Fact]) -> list[str]:
    return [str(each.event.event) for each in found]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (due(None), []),
        (due("Pending"), ["Requested"]),
        (due("Invalid"), ["Requested", "Ended"]),
        # Not taken over yet, as while the policies are not in force.
        (due("Pending", decision=GOOD), ["Requested"]),
        (due("Approved", decision=GOOD), ["Requested", "Decided"]),
        (due("Running", decision=GOOD, startedAt=rfc3339(NOW)), ["Requested", "Decided", "Started"]),
        (due("Succeeded", decision=GOOD, startedAt=rfc3339(NOW)), ["Requested", "Decided", "Started", "Ended"]),
        (due("Failed", decision=GOOD, startedAt=rfc3339(NOW)), ["Requested", "Decided", "Started", "Ended"]),
        (due("Expired", decision=GOOD), ["Requested", "Decided", "Ended"]),
        (due("Denied", decision=GOOD), ["Requested", "Decided"]),
        (due(None, metadata=DELETED), ["Requested", "Withdrawn"]),
        (due("Pending", metadata=DELETED), ["Requested", "Withdrawn"]),
        (due("Running", decision=GOOD, metadata=DELETED), ["Requested", "Decided", "Withdrawn"]),
        (due("Denied", decision=GOOD, metadata=DELETED), ["Requested", "Decided"]),
        (due("Succeeded", decision=GOOD, metadata=DELETED), ["Requested", "Decided", "Ended"]),
    ],
)
def test_what_is_told_of_each_phase(found: list[Fact], told: list[str]) -> None:
    assert words(found) == told


def test_a_decision_is_told_as_it_was_written_and_whether_it_counts() -> None:
    taken = due(
        "Approved", decision=GOOD, decidedAt=rfc3339(NOW), conditions=[condition("Decided", "True", "Approved")]
    )
    said = taken[1].event
    assert (said.by, said.verdict, said.sha256, said.message) == ("pat@example.com", "Approved", SHA, "CHG-1")
    assert (said.counts, said.at, said.reason) == (True, NOW, "")
    refused = condition("Decided", "False", "SelfApproval", "pat asked for it")
    said = due("Denied", decision=GOOD, conditions=[refused])[1].event
    assert (said.counts, said.reason, said.why, said.until) == (False, "SelfApproval", "pat asked for it", None)


def test_an_end_says_how_much_took_effect() -> None:
    failed = due(
        "Failed", decision=GOOD, executed=None, finishedAt=rfc3339(NOW),
        conditions=[condition("Ready", "False", "StatementFailed", "statement 2: 42P01")],
    )[-1].event  # fmt: skip
    assert (failed.reason, failed.at) == ("Failed", NOW)
    assert failed.why == "StatementFailed: statement 2: 42P01"
    withdrawn = due("Running", decision=GOOD, metadata=DELETED, executed=3)[-1].event
    assert (withdrawn.executed, withdrawn.at) == (3, NOW + 60 * SECOND)
