from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, Raw, approval, true

from vaultbrix.api.ddlapproval import (
    FINAL_PHASES,
    ApprovalPhase,
    Danger,
    DDLApproval,
    StatementSummary,
    Verdict,
)
from vaultbrix.api.meta import rfc3339
from vaultbrix.ddl import review
from vaultbrix.ddl.plan import digest
from vaultbrix.postgres.shell_lines import ShellCredentials
from vaultbrix.runtime.usage import Misused, Refused

SHA = digest("DROP TABLE a").hex()
JANE, BOSS = "jane@example.com", "boss@example.com"
APPROVED = {"verdict": "Approved", "by": BOSS, "sha256": SHA}
CREDENTIALS = ShellCredentials("team", "acme-db")
ERROR = {"sqlstate": "42P01", "message": 'relation "a" does not exist', "statement": 1}


def statement(position: int = 1, **fields: Any) -> Raw:
    return {"position": position, "tag": "DROP TABLE", "gated": True, "sql": "DROP TABLE a", **fields}


def summary(**fields: Any) -> StatementSummary:
    return StatementSummary.model_validate(statement(**fields))


def rehearsal(**fields: Any) -> Raw:
    return {"possible": True, "at": rfc3339(NOW), **fields}


def condition(type_: str, reason: str, status: str = "False", message: str = "") -> Raw:
    return {**true(type_)[0], "status": status, "reason": reason, "message": message}


def asked(
    name: str = "drop", *, metadata: Raw | None = None, decision: Raw | None = None, **fields: Any
) -> DDLApproval:
    """Read by the operator, and waiting for a decision unless told otherwise."""
    status = {"phase": "Pending", "sha256": SHA, "statements": [statement()], **fields}
    return approval(name, metadata=metadata, status=status, **({"decision": decision} if decision else {}))


def refused(found: DDLApproval, verdict: Verdict = Verdict.APPROVED, by: str = BOSS, **options: bool) -> str:
    with pytest.raises(Refused) as caught:
        review.check_decision(found, verdict, by, **options)
    assert found.metadata.name in str(caught.value)
    return str(caught.value)


def test_what_was_read_and_waits_may_be_decided_by_somebody_else() -> None:
    for verdict in Verdict:
        assert review.check_decision(asked(), verdict, BOSS) == SHA


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize(
    ("found", "says"),
    [
        (asked(decision=APPROVED), f"Approved by {BOSS}"),
        (asked(metadata={"deletionTimestamp": rfc3339(NOW)}), "withdrawn"),
        (asked(phase="Invalid"), "is Invalid"),
        (asked(phase="Expired"), "is Expired"),
        (asked(phase=None, sha256=None), "has not been read"),
        (asked(sha256="0" * 64), "is not that of spec.sql"),
    ],
)
def test_a_decision_that_would_not_count_is_not_written(found: DDLApproval, says: str, verdict: Verdict) -> None:
    assert says in refused(found, verdict)
    assert says in refused(found, verdict, despite_rehearsal=True)


@pytest.mark.parametrize("verdict", Verdict)
def test_whoever_asked_does_not_decide(verdict: Verdict) -> None:
    assert "ask another admin" in refused(asked(), verdict, JANE, despite_rehearsal=True)


FAILED = asked(rehearsal=rehearsal(error=ERROR))
UNREHEARSED = asked(conditions=[condition("Rehearsed", "Waiting", "Unknown")])


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (FAILED, "statement 1: 42P01"),
        (asked(conditions=[condition("Rehearsed", "RehearsalFailed")]), "failed when it was rehearsed"),
        (UNREHEARSED, "not rehearsed yet"),
        (asked(rehearsal=rehearsal(drops=["view b.v"], others=["view b.v"])), "somebody else's (view b.v)"),
    ],
)
def test_what_fails_in_rehearsal_is_approved_only_on_purpose_and_denied_freely(found: DDLApproval, says: str) -> None:
    said = refused(found)
    assert says in said
    assert "--despite-rehearsal" in said
    assert review.check_decision(found, Verdict.APPROVED, BOSS, despite_rehearsal=True) == SHA
    assert review.check_decision(found, Verdict.DENIED, BOSS) == SHA


def test_what_cannot_be_rehearsed_may_be_approved() -> None:
    for found in (
        asked(rehearsal=rehearsal(possible=False, message="VACUUM")),
        asked(conditions=[condition("Rehearsed", "NotPossible")]),
    ):
        assert review.rehearsed(found) is review.Rehearsed.IMPOSSIBLE
        assert review.check_decision(found, Verdict.APPROVED, BOSS) == SHA


@pytest.mark.parametrize("prefix", ["", "3f2a9c1", "3f2a9c1g", "0" * 65, "[bold]12"])
def test_a_prefix_that_is_too_short_to_mean_one_text_is_no_consent(prefix: str) -> None:
    with pytest.raises(Misused, match="first 8 or more characters"):
        review.check_prefix(prefix)
    assert review.check_prefix(" 3F2A9C1B ") == "3f2a9c1b"


def test_any_change_that_matters_to_a_decision_is_noticed_and_no_other() -> None:
    shown = review.seen(asked())
    for found in (
        asked(metadata={"uid": "another"}),
        asked(metadata={"deletionTimestamp": rfc3339(NOW)}),
        asked(sha256="0" * 64),
        asked(rehearsal=rehearsal()),
        asked(statements=[statement(danger="Table")]),
        asked(phase="Invalid"),
        asked(decision=APPROVED),
    ):
        assert review.seen(found) != shown
    assert review.seen(asked(metadata={"resourceVersion": "7"}, conditions=true("Parsed"))) == shown


def test_the_worst_statement_gives_the_danger() -> None:
    assert review.worst([summary(danger=d) for d in (Danger.NONE, Danger.COLUMN, Danger.INDEX)]) is Danger.COLUMN
    assert review.worst([summary(), summary(danger="Table")]) is Danger.UNKNOWN
    assert review.worst([]) is None


def test_victims_are_named_with_what_is_known_of_their_size() -> None:
    found = asked(
        rehearsal=rehearsal(
            drops=["table acme.a", "view acme.v", "acme.b"],
            affected=[
                {"object": "acme.a", "rows": 5, "bytes": 8192},
                {"object": "acme.b", "rows": -1, "bytes": 0},
                {"object": "acme.c", "rows": 7, "bytes": 1, "rewritten": True},
            ],
        )
    ).status.rehearsal
    assert found is not None
    gone, changed = review.victims(found)
    assert gone == [
        review.Victim("table acme.a", 5, 8192),
        review.Victim("view acme.v"),
        review.Victim("acme.b", -1, 0),
    ]
    assert changed == [review.Victim("acme.c", 7, 1, rewritten=True)]


names = st.text(min_size=1, max_size=20)


@given(st.lists(names, unique=True), st.lists(names, unique=True))
def test_no_victim_is_lost_between_drops_and_sizes(drops: list[str], affected: list[str]) -> None:
    sizes = [{"object": name, "rows": 1, "bytes": 1} for name in affected]
    found = asked(rehearsal=rehearsal(drops=drops, affected=sizes)).status.rehearsal
    assert found is not None
    gone, changed = review.victims(found)
    assert [v.name for v in gone] == drops
    assert len(changed) + sum(v.rows is not None for v in gone) == len(affected)


def test_what_is_not_to_be_seen_at_a_glance_is_said() -> None:
    assert review.warnings(summary(notes=["calls f()"])) == ["calls f()"]
    assert "outside a transaction" in review.warnings(summary(transactional=False))[0]
    assert review.warnings(summary(sql="x" * 1024)) == ["longer than is shown here"]
    (said,) = review.warnings(summary(sql="DROP TABLE \u043erders"))
    assert "U+043E CYRILLIC SMALL LETTER O" in said
    known = summary(sql="DROP TABLE \u043erders", notes=["name holds U+043E"])
    assert review.warnings(known) == ["name holds U+043E"]
    (said,) = review.warnings(summary(sql="".join(chr(0x4E00 + n) for n in range(20))))
    assert said.endswith("and 15 more")


def test_the_one_that_waits_longest_comes_first_and_the_ended_last() -> None:
    def made(name: str, age: timedelta, **fields: Any) -> DDLApproval:
        return asked(name, metadata={"creationTimestamp": rfc3339(NOW - age)}, **fields)

    found = review.by_urgency(
        [
            made("ended-early", 4 * HOUR, phase="Succeeded", finishedAt=rfc3339(NOW - HOUR)),
            made("ended-late", 5 * HOUR, phase="Failed", finishedAt=rfc3339(NOW - MINUTE)),
            made("decided", 3 * HOUR, decision=APPROVED),
            made("approved", 9 * HOUR, phase="Approved", decision=APPROVED),
            made("running", HOUR, phase="Running", decision=APPROVED),
            made("new", MINUTE, phase=None),
            made("old", 2 * HOUR),
        ]
    )
    assert [a.metadata.name for a in found] == [
        "old", "new", "running", "approved", "decided", "ended-late", "ended-early"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "decision", "ended", "decided"),
    [
        (None, None, None, None),
        ("Pending", None, None, None),
        ("Pending", APPROVED, None, None),
        ("Approved", APPROVED, None, "Approved"),
        ("Running", APPROVED, None, "Approved"),
        ("Succeeded", APPROVED, "Succeeded", "Approved"),
        ("Failed", APPROVED, "Failed", "Approved"),
        ("Expired", APPROVED, "Expired", "Approved"),
        ("Expired", None, "Expired", "Expired"),
        ("Denied", APPROVED, "Denied", "Denied"),
        ("Invalid", None, "Invalid", "Invalid"),
    ],
)
def test_waiting_ends_when_there_is_an_answer(
    phase: str | None, decision: Raw | None, ended: str | None, decided: str | None
) -> None:
    found = asked(phase=phase, decision=decision)
    assert review.settled(found, decided=False) == ended
    assert review.settled(found, decided=True) == decided


def test_every_phase_says_where_it_stands_and_what_to_do_next() -> None:
    for phase in (None, *ApprovalPhase):
        found = asked(phase=phase, decision=None if phase in (None, "Pending", "Invalid") else APPROVED)
        assert review.state(found, NOW + MINUTE)
        assert bool(review.next_steps(found, CREDENTIALS)) is (phase is not ApprovalPhase.SUCCEEDED)
        for step in review.next_steps(found, CREDENTIALS):
            assert "vaultbrix" not in step or "-n team" in step


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"error": {**ERROR, "sqlstate": "55P03"}}, "--lock-timeout"),
        ({"error": {**ERROR, "sqlstate": "57014"}}, "--statement-timeout"),
        ({"conditions": [condition("Ready", "EffectGrew")]}, "more would go than was approved"),
        ({"conditions": [condition("Ready", "Interrupted")]}, "what is left to do"),
        ({"error": ERROR}, "vaultbrix ddl submit acme -n team"),
        ({"error": {**ERROR, "sqlstate": "57014"}, "statements": [statement(transactional=False)]}, "left to do"),
        ({"error": {**ERROR, "sqlstate": "55P03", "statement": 2}, "executed": 1}, "left to do"),
    ],
)
def test_a_failure_says_what_helps_against_it(status: Raw, says: str) -> None:
    (step,) = review.next_steps(asked(phase="Failed", decision=APPROVED, **status), CREDENTIALS)
    assert says in step


def test_a_tenant_that_sends_it_itself_is_told_how_and_until_when() -> None:
    found = approval(execution="Session", status={"phase": "Approved", "expiresAt": rfc3339(NOW)}, decision=APPROVED)
    said = " ".join(review.next_steps(found, CREDENTIALS))
    assert f"before {rfc3339(NOW)}" in said
    assert "jsonpath='{.spec.sql}'" in said
    assert "get secret acme-db -o jsonpath='{.data.uri}'" in said, "libpq takes no other URL of the Secret"


def test_progress_says_what_runs_and_a_log_gets_no_line_for_every_percent() -> None:
    def running(**fields: Any) -> DDLApproval:
        return asked(phase="Running", decision=APPROVED, progress={"statement": 2, "of": 5, **fields})

    found = running(phase="building index", percent=43)
    assert review.progress(found, NOW) == "Running: statement 2 of 5, building index, 43 %"
    assert review.progress(asked(), NOW + MINUTE) == "Pending: has waited 1m for a decision"
    assert review.milestone(found) == review.milestone(running(phase="building index", percent=44))
    assert review.milestone(found) != review.milestone(running(phase="building index", percent=51))
    assert review.milestone(found) != review.milestone(running(phase="sorting", percent=43))


def test_a_status_that_says_something_else_than_the_text_is_noticed() -> None:
    assert review.contradictions(asked()) == []
    hidden = asked(statements=[statement(sql="SELECT 1"), statement(2)])
    assert review.contradictions(hidden) == [
        "read here, statement 1 is: DROP TABLE a",
        "read here, statement 2 is: not there",
    ]
    assert review.contradictions(asked(phase="Succeeded", statements=[])) == []
    newer = approval(sql="BEGIN", status={"phase": "Pending", "sha256": SHA})
    assert "controls the transaction" in review.contradictions(newer)[0]


def test_each_cause_is_told_once_and_what_ran_has_none() -> None:
    conditions = [
        *true("Parsed"),
        condition("Executed", "TenantSuspended", message="suspended"),
        condition("Ready", "TenantSuspended", message="suspended"),
        condition("PassIssued", "Waiting", message="nothing through"),
    ]
    found = asked(phase="Approved", decision=APPROVED, conditions=conditions)
    assert [c.type for c in review.not_true(found)] == ["Ready", "PassIssued"]
    assert review.not_true(asked(phase="Succeeded", conditions=conditions)) == []


def test_that_nobody_has_decided_is_said_once_and_what_else_is_amiss_is_said_too() -> None:
    found = asked(
        conditions=[
            condition("Ready", "TenantNotFound", message="no Tenant acme"),
            condition("Decided", "Undecided", message="no admin has decided yet"),
            condition("PassIssued", "Waiting", message="nothing through"),
            condition("Rehearsed", "Waiting", message="waits for the Tenant"),
        ]
    )
    assert [c.type for c in review.not_true(found)] == ["Ready", "Rehearsed"]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (asked(phase=None, sha256=None), "is the operator running?"),
        (asked(conditions=[condition("Ready", "Undecided", message="waits")]), "has waited 0s for a decision"),
        (
            asked(phase="Approved", decision=APPROVED, conditions=[condition("Ready", "TenantSuspended", message="s")]),
            f"approved by {BOSS} (TenantSuspended: s)",
        ),
        (asked(phase="Denied", conditions=[condition("Ready", "Denied", message="denied: no")]), "Denied: denied: no"),
        (asked(phase="Failed"), "Failed: failed"),
    ],
)
def test_why_it_is_not_there_yet_is_one_line(found: DDLApproval, says: str) -> None:
    assert review.shortfall(found, NOW).endswith(says)


@given(
    st.sampled_from([None, *ApprovalPhase]),
    st.sampled_from([None, APPROVED, {**APPROVED, "verdict": "Denied"}]),
    st.sampled_from([None, SHA, "0" * 64]),
    st.sampled_from([None, rehearsal(), rehearsal(error=ERROR), rehearsal(possible=False)]),
    st.sampled_from([JANE, BOSS]),
    st.sampled_from(list(Verdict)),
    st.booleans(),
)
def test_only_a_waiting_text_that_was_read_is_decided_and_never_by_who_asked(
    phase: ApprovalPhase | None, decision: Raw | None, sha256: str | None, rehearsed: Raw | None, by: str,
    verdict: Verdict, despite: bool,
) -> None:  # fmt: skip
    found = asked(phase=phase, decision=decision, sha256=sha256, rehearsal=rehearsed)
    try:
        told = review.check_decision(found, verdict, by, despite_rehearsal=despite)
    except Refused as error:
        assert str(error)
        return
    assert told == SHA == sha256
    assert by == BOSS
    assert decision is None
    assert phase not in FINAL_PHASES
    assert despite or verdict is Verdict.DENIED or rehearsed is None or "error" not in rehearsed


def test_who_approves_what_is_nested_is_warned_unless_that_is_allowed_too() -> None:
    nested = asked(rehearsal=rehearsal(nested=True, drops=["view s.v"]))
    (caution,) = review.cautions(nested, Verdict.APPROVED, allow_nested=False)
    assert "--allow-nested" in caution
    assert review.cautions(nested, Verdict.APPROVED, allow_nested=True) == []
    assert review.cautions(nested, Verdict.DENIED, allow_nested=False) == []
    for other in (asked(), asked(rehearsal=rehearsal(drops=["view s.v"]))):
        assert review.cautions(other, Verdict.APPROVED, allow_nested=False) == []
