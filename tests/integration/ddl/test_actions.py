"""What a person may ask for about approvals, without a terminal and without a cluster."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from tests.harness.builders import Raw, approval, tenant
from tests.harness.fake_kube import FakeKube

from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval, Verdict
from vaultbrix.api.meta import Resource
from vaultbrix.ddl import actions
from vaultbrix.ddl.actions import (
    ApprovalsOptions,
    DecisionOptions,
    Prepared,
    ShownApproval,
    SubmitOptions,
    WaitOptions,
    decide,
    follow,
    list_approvals,
    prepare,
    show_for_decision,
    submit,
    wait,
)
from vaultbrix.ddl.plan import digest
from vaultbrix.ddl.submission import Unfit
from vaultbrix.kube import person
from vaultbrix.kube.person import Fetched, Missing, NameTaken, PersonClient
from vaultbrix.runtime.errors import Transient
from vaultbrix.runtime.usage import Misused, Refused

T = TypeVar("T")

SQL = "DROP TABLE a"
SHA = digest(SQL).hex()
STATEMENT = {"position": 1, "tag": "DROP TABLE", "gated": True, "sql": SQL, "danger": "Table"}
REHEARSAL = {"possible": True, "at": "2026-11-25T12:00:00Z", "drops": ["table a"]}
MINUTE = timedelta(minutes=1)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def client(kube: FakeKube | None) -> PersonClient:
    return PersonClient(kube, namespace="team")  # type: ignore[arg-type]


def pending(name: str = "drop", *, metadata: Raw | None = None, **status: Any) -> DDLApproval:
    """An approval that the operator has read and rehearsed."""
    held = {"phase": "Pending", "sha256": SHA, "statements": [STATEMENT], "rehearsal": REHEARSAL, **status}
    return approval(name, metadata=metadata, status=held)


async def collected(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(actions, "PAUSE_SECONDS", 0)


def request(**changes: Any) -> SubmitOptions:
    return SubmitOptions(**{"tenant": "acme", "reason": "CHG-2", "name": "drop", **changes})


def prepared(kube: FakeKube, content: bytes = SQL.encode(), **changes: Any) -> Prepared:
    return run(prepare(client(kube), request(**changes), "--sql", content))


def test_a_submission_is_prepared_without_a_trace_and_then_created() -> None:
    kube = FakeKube(tenant())
    ready = prepared(kube, b"\xef\xbb\xbfDROP TABLE a", session=True, valid_for="2h")
    assert kube.created == []
    assert [s.sql for s in ready.plan.statements] == [SQL]
    assert ready.notes == ("--sql: the byte-order mark at its beginning is left out",)
    created = run(submit(client(kube), ready))
    assert kube.created == [ready.manifest]
    assert created.resource.spec.requested_by == "jane@example.com"
    assert ready.manifest["spec"] == {
        "tenantRef": {"name": "acme"}, "sql": SQL, "reason": "CHG-2", "requestedBy": "jane@example.com",
        "execution": "Session", "validFor": "2h", "lockTimeout": "5s", "statementTimeout": "10m",
    }  # fmt: skip


def test_a_dry_run_creates_nothing() -> None:
    kube = FakeKube(tenant())
    assert run(submit(client(kube), prepared(kube), dry_run=True)).resource.metadata.name == "drop"
    assert kube.created == []


def test_what_a_person_should_know_before_is_noted() -> None:
    kube = FakeKube(tenant(suspended=True), approval("same", status={"sha256": digest("SELECT 1").hex()}))
    notes = prepared(kube, b"SELECT 1").notes
    assert [note.split(":")[0].split(",")[0] for note in notes] == [
        "nothing of it needs an approval",
        "Tenant acme is suspended",
        "same has the same text and is under way; this one would run it once more",
    ]


def test_approvals_that_may_not_be_listed_are_no_hindrance() -> None:
    kube = FakeKube(tenant())
    kube.forbidden = {("list", "ddlapprovals")}
    assert prepared(kube).notes == ()


@pytest.mark.parametrize(
    ("changes", "content", "says"),
    [
        ({"valid_for": "0s"}, SQL, "--valid-for 0s"),
        ({"lock_timeout": "x"}, SQL, "--lock-timeout x"),
        ({"statement_timeout": "x"}, SQL, "--statement-timeout x"),
        ({"timeout": "x"}, SQL, "--timeout x"),
        ({"reason": " "}, SQL, "--reason"),
        ({"name": "No Name"}, SQL, "--name No Name"),
        ({}, "", "--sql: is empty"),
    ],
)
def test_what_is_wrong_by_itself_is_told_before_anybody_is_asked(changes: Raw, content: str, says: str) -> None:
    with pytest.raises(Misused, match=says):
        run(prepare(client(None), request(**changes), "--sql", content.encode()))


def test_a_text_that_cannot_be_approved_is_refused_with_its_place() -> None:
    with pytest.raises(Unfit) as unfit:
        run(prepare(client(None), request(), "-f x.sql", b"DROP TABLE a;\nDROP TABEL b"))
    assert unfit.value.refusal.message.startswith("-f x.sql: line 2, column 6")
    assert (unfit.value.refusal.line, unfit.value.refusal.caret) == ("DROP TABEL b", "     ^")


def test_a_submission_that_the_cluster_does_not_allow_creates_nothing() -> None:
    with pytest.raises(Missing, match="Tenant acme not found"):
        prepared(FakeKube())
    with pytest.raises(Refused, match="the API server knows you as"):
        prepared(FakeKube(tenant(), who="two words"))
    kube = FakeKube(tenant(), pending())
    with pytest.raises(NameTaken, match="has a DDLApproval of that name, whose text cannot be changed; give another"):
        run(submit(client(kube), prepared(kube)))
    assert kube.created == []


def test_approvals_are_listed_as_asked_for_and_the_most_urgent_first() -> None:
    done, far = pending("done", phase="Succeeded"), pending("far", metadata={"namespace": "else"})
    beta = approval("beta", tenantRef={"name": "beta"})
    asking = client(FakeKube(done, pending("waits"), beta, far))

    def names(**options: Any) -> list[str]:
        return [item.resource.metadata.name for item in run(list_approvals(asking, ApprovalsOptions(**options)))]

    assert names() == ["beta", "waits", "done"]
    assert names(pending=True) == ["beta", "waits"]
    assert names(tenant="acme", pending=True) == ["waits"]
    assert "far" in names(everywhere=True)


def states(kube: FakeKube, first: DDLApproval, timeout: timedelta = MINUTE, **options: Any) -> list[Any]:
    waited = run(collected(follow(client(kube), Fetched(first, first.dump()), timeout, **options)))
    return [(state.approval.resource.status.phase, state.outcome) for state in waited]


def test_an_approval_is_followed_to_its_end() -> None:
    kube = FakeKube(pending())
    kube.then("drop", {"status": {"phase": "Running"}}, {"status": {"phase": "Succeeded"}})
    assert states(kube, pending()) == [
        ("Pending", None), ("Running", None), ("Succeeded", ApprovalPhase.SUCCEEDED),
    ]  # fmt: skip
    assert states(FakeKube(), pending(phase="Denied")) == [("Denied", ApprovalPhase.DENIED)]
    assert states(FakeKube(pending()), pending(), timedelta()) == [("Pending", None)]


def test_waiting_outlasts_an_api_server_that_is_away_but_not_the_approval() -> None:
    kube = FakeKube(pending(phase="Failed"))
    kube.unreachable = 2
    assert states(kube, pending())[-1] == ("Failed", ApprovalPhase.FAILED)
    with pytest.raises(Missing, match="DDLApproval drop was deleted meanwhile"):
        states(FakeKube(), pending())
    kube.unreachable = 1_000_000
    with pytest.raises(Transient):
        states(kube, pending(), timedelta(milliseconds=20))


def test_a_wait_checks_its_options_and_finds_the_approval_first() -> None:
    with pytest.raises(Misused, match="--timeout soon"):
        run(wait(client(None), WaitOptions(name="drop", timeout="soon")))
    with pytest.raises(Missing, match=r"did you mean drop\?"):
        run(wait(client(FakeKube(pending())), WaitOptions(name="drip")))


def decision(**changes: Any) -> DecisionOptions:
    return DecisionOptions(**{"name": "drop", "verdict": Verdict.APPROVED, **changes})


def shown(*objects: Resource, who: str = "boss", **changes: Any) -> tuple[FakeKube, ShownApproval]:
    kube = FakeKube(*(objects or (pending(),)), who=who)
    return kube, run(show_for_decision(client(kube), decision(**changes)))


def test_what_was_shown_is_decided() -> None:
    kube, approval_shown = shown(message="fine", allow_nested=True, sha256=SHA[:8].upper())
    assert approval_shown.check() == SHA
    decided = run(decide(client(kube), approval_shown))
    assert decided.spec.decision is not None
    (patch,) = kube.patched
    assert patch["spec"]["decision"] == {
        "verdict": "Approved", "by": "boss", "sha256": SHA, "message": "fine", "allowNested": True,
    }  # fmt: skip


def test_a_decision_waits_until_the_operator_has_read_and_rehearsed_the_text() -> None:
    unread = pending(phase=None, sha256=None, statements=[], rehearsal=None)
    kube = FakeKube(unread, who="boss")
    kube.then("drop", {}, {}, {"status": pending().dump()["status"]})
    assert run(show_for_decision(client(kube), decision())).check() == SHA


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (decision(sha256="abc"), "--sha256 abc: give its first 8"),
        (decision(message="x" * 1025), "--message: has 1025 characters"),
        (decision(verdict=Verdict.DENIED, message=" "), "--message: say why"),
    ],
)
def test_a_decision_that_is_wrong_by_itself_is_told_before_anybody_is_asked(
    options: DecisionOptions, says: str
) -> None:
    with pytest.raises(Misused, match=says):
        run(show_for_decision(client(None), options))


@pytest.mark.parametrize(
    ("held", "who", "changes", "says"),
    [
        (pending(), "jane@example.com", {}, "cannot decide on it"),
        (pending(), "boss", {"sha256": "0" * 8}, "is not the one that you mean; nothing was decided"),
        (pending(sha256="0" * 64), "boss", {}, "somebody else than the operator wrote it"),
        (pending(rehearsal={**REHEARSAL, "error": {"message": "no"}}), "boss", {}, "--despite-rehearsal"),
        (pending(phase="Expired"), "boss", {}, "nothing is left to decide"),
    ],
)
def test_a_decision_that_would_not_count_is_never_written(held: DDLApproval, who: str, changes: Raw, says: str) -> None:
    kube, approval_shown = shown(held, who=who, **changes)
    with pytest.raises(Refused, match=says):
        approval_shown.check()
    with pytest.raises(Refused, match=says):
        run(decide(client(kube), approval_shown))
    assert kube.patched == []


def test_nothing_but_the_beginning_of_the_sha256_is_consent() -> None:
    _, approval_shown = shown()
    approval_shown.check_typed(f" {SHA[:8].upper()}\n")
    for typed in ("", "yes", SHA[:7], SHA):
        with pytest.raises(Refused, match="nothing was decided"):
            approval_shown.check_typed(typed)


def test_a_text_that_is_cut_short_is_shown_in_full_to_who_approves_it() -> None:
    cut = pending(statements=[{**STATEMENT, "sql": "x" * 1024}])
    assert shown(cut)[1].needs_full_text
    assert not shown()[1].needs_full_text
    assert not shown(cut, verdict=Verdict.DENIED, message="no")[1].needs_full_text


def test_a_change_of_no_matter_is_decided_over() -> None:
    kube, approval_shown = shown()
    kube.put(pending(metadata={"labels": {"a": "b"}}))
    assert run(decide(client(kube), approval_shown)).spec.decision is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (pending(rehearsal={**REHEARSAL, "drops": ["table a", "table b"]}), "not as it was shown any more"),
        (pending(metadata={"uid": "another"}), "was deleted meanwhile"),
        (pending(phase="Denied"), "nothing is left to decide"),
    ],
)
def test_what_has_changed_since_it_was_shown_is_not_decided(change: DDLApproval, says: str) -> None:
    kube, approval_shown = shown()
    kube.put(change)
    with pytest.raises(Refused, match=says):
        run(decide(client(kube), approval_shown))
    assert kube.patched == []


def test_a_decision_that_always_collides_is_given_up() -> None:
    kube, approval_shown = shown()
    kube.conflicts = 1000
    with pytest.raises(Refused, match="drop changes all the time"):
        run(decide(client(kube), approval_shown))
