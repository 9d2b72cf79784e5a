"""What a person may ask for about approvals, without a terminal."""

import asyncio
import itertools
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.harness.builders import Raw, approval, tenant
from tests.harness.command_line import may
from tests.harness.team import Team

from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval, Verdict
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
from vaultbrix.kube import person
from vaultbrix.kube.person import Fetched, Missing, NameTaken, PersonClient
from vaultbrix.runtime.errors import Transient
from vaultbrix.runtime.usage import Misused, Refused

SQL = "DROP TABLE a"
SHA = digest(SQL).hex()
STATEMENT = {"position": 1, "tag": "DROP TABLE", "gated": True, "sql": SQL, "danger": "Table"}
AT = "2026-11-25T12:00:00Z"
REHEARSAL = {"possible": True, "at": AT, "drops": ["table a"]}
MINUTE = timedelta(minutes=1)


def pending(name: str = "drop", *, metadata: Raw | None = None, **status: Any) -> DDLApproval:
    """An approval that the operator has read and rehearsed."""
    held = {"phase": "Pending", "sha256": SHA, "statements": [STATEMENT], "rehearsal": REHEARSAL, **status}
    return approval(name, metadata=metadata, status=held)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(actions, "PAUSE_SECONDS", 0.02)


def prepared(team: Team, content: bytes = SQL.encode(), *, who: Path | None = None, **changes: Any) -> Prepared:
    options = SubmitOptions(**{"tenant": "acme", "reason": "CHG-2", "name": "drop", **changes})
    return team.ask(lambda client: prepare(client, options, "--sql", content), person=who)


def test_a_submission_is_prepared_without_a_trace_and_then_created(team: Team) -> None:
    team.put(tenant())
    ready = prepared(team, b"\xef\xbb\xbfDROP TABLE a", session=True, valid_for="2h")
    assert team.versions(DDLApproval) == {}
    assert [s.sql for s in ready.plan.statements] == [SQL]
    assert ready.notes == ("--sql: the byte-order mark at its beginning is left out",)
    created = team.ask(lambda client: submit(client, ready))
    assert created.resource.spec.requested_by == "jane@example.com"
    assert ready.manifest["spec"] == {
        "tenantRef": {"name": "acme"}, "sql": SQL, "reason": "CHG-2", "requestedBy": "jane@example.com",
        "execution": "Session", "validFor": "2h", "lockTimeout": "5s", "statementTimeout": "10m",
    }  # fmt: skip
    assert list(team.versions(DDLApproval)) == ["drop"]
    assert team.read(pending()).spec == created.resource.spec
    assert created.raw["spec"] == ready.manifest["spec"]


def test_a_dry_run_creates_nothing(team: Team) -> None:
    team.put(tenant())
    ready = prepared(team)
    assert team.ask(lambda client: submit(client, ready, dry_run=True)).resource.metadata.name == "drop"
    assert team.versions(DDLApproval) == {}


def test_what_a_person_should_know_before_is_noted(team: Team) -> None:
    team.put(tenant(suspended=True), approval("same", status={"sha256": digest("SELECT 1").hex()}))
    notes = prepared(team, b"SELECT 1").notes
    assert [note.split(":")[0].split(",")[0] for note in notes] == [
        "nothing of it needs an approval",
        "Tenant acme is suspended",
        "same has the same text and is under way; this one would run it once more",
    ]


def test_approvals_that_may_not_be_listed_are_no_hindrance(team: Team) -> None:
    team.put(tenant(), pending())
    assert len(prepared(team).notes) == 1
    assert prepared(team, who=team.person(may(["get"], "tenants"))).notes == ()


def test_a_submission_that_the_cluster_does_not_allow_creates_nothing(team: Team) -> None:
    with pytest.raises(Missing, match="Tenant acme not found"):
        prepared(team)
    team.put(tenant())
    with pytest.raises(Refused, match="the API server knows you as"):
        prepared(team, who=team.admin("two words"))
    assert team.versions(DDLApproval) == {}
    team.put(pending())
    before = team.versions(DDLApproval)
    ready = prepared(team)
    with pytest.raises(NameTaken, match="has a DDLApproval of that name, whose text cannot be changed; give another"):
        team.ask(lambda client: submit(client, ready))
    assert team.versions(DDLApproval) == before


def test_approvals_are_listed_as_asked_for_and_the_most_urgent_first(team: Team) -> None:
    far = pending("far", metadata={"namespace": team.elsewhere})
    team.put(approval("beta", tenantRef={"name": "beta"}), pending("waits"), pending("done", phase="Succeeded"), far)

    def names(**options: Any) -> list[str]:
        listed = team.ask(lambda client: list_approvals(client, ApprovalsOptions(**options)))
        return [item.resource.metadata.name for item in listed]

    assert names() == ["beta", "waits", "done"]
    assert names(pending=True) == ["beta", "waits"]
    assert names(tenant="acme", pending=True) == ["waits"]
    assert "far" in names(everywhere=True)


State = tuple[ApprovalPhase | None, ApprovalPhase | None]


def states(
    team: Team, *phases: str, first: Fetched[DDLApproval] | None = None, timeout: timedelta = MINUTE
) -> list[State]:
    """Phase and outcome of each state that is told, while the operator writes these phases, one after each."""
    coming = iter(phases)

    async def followed(client: PersonClient) -> list[State]:
        told = []
        async for state in follow(client, first or await client.fetch(DDLApproval, "drop"), timeout):
            told.append((state.approval.resource.status.phase, state.outcome))
            if (phase := next(coming, None)) is not None:
                team.write_status(pending(), {"phase": phase})
        return told

    return team.ask(followed)


def fetched(team: Team) -> Fetched[DDLApproval]:
    return team.ask(lambda client: client.fetch(DDLApproval, "drop"))


def test_an_approval_is_followed_to_its_end(team: Team) -> None:
    team.put(pending())
    assert states(team, timeout=timedelta()) == [("Pending", None)]
    assert states(team, "Running", "Succeeded") == [
        ("Pending", None), ("Running", None), ("Succeeded", ApprovalPhase.SUCCEEDED),
    ]  # fmt: skip
    team.write_status(pending(), {"phase": "Denied"})
    denied = fetched(team)
    team.delete(pending())
    assert states(team, first=denied) == [("Denied", ApprovalPhase.DENIED)]


def test_waiting_outlasts_an_api_server_that_is_away_but_not_the_approval(team: Team) -> None:
    team.put(pending())
    known = fetched(team)
    team.write_status(pending(), {"phase": "Failed"})

    async def outlasted(client: PersonClient) -> list[State]:
        with pytest.raises(Transient):
            async for _ in follow(client, known, timedelta(milliseconds=20)):
                pass
        resuming = asyncio.create_task(asyncio.to_thread(team.api.resume))
        told = [(s.approval.resource.status.phase, s.outcome) async for s in follow(client, known, MINUTE)]
        await resuming
        return told

    team.api.pause()
    told = team.ask(outlasted)
    assert len(told) > 2
    assert told[-1] == ("Failed", ApprovalPhase.FAILED)
    team.delete(pending())
    with pytest.raises(Missing, match="DDLApproval drop was deleted meanwhile"):
        states(team, first=known)


def test_a_wait_checks_its_options_and_finds_the_approval_first(team: Team) -> None:
    team.put(pending())
    with pytest.raises(Misused, match="--timeout soon"):
        team.ask(lambda client: wait(client, WaitOptions(name="drop", timeout="soon")))
    with pytest.raises(Missing, match=r"did you mean drop\?"):
        team.ask(lambda client: wait(client, WaitOptions(name="drip")))


def decision(**changes: Any) -> DecisionOptions:
    return DecisionOptions(**{"name": "drop", "verdict": Verdict.APPROVED, **changes})


def shown(team: Team, held: DDLApproval | None = None, who: str = "boss", **changes: Any) -> ShownApproval:
    team.put(held or pending())
    return team.ask(lambda client: show_for_decision(client, decision(**changes)), person=team.admin(who))


def decided(team: Team, approval_shown: ShownApproval, **options: Any) -> DDLApproval:
    return team.ask(lambda client: decide(client, approval_shown), person=team.admin(approval_shown.by), **options)


def test_what_was_shown_is_decided(team: Team) -> None:
    approval_shown = shown(team, message="fine", allow_nested=True, sha256=SHA[:8].upper())
    assert approval_shown.check() == SHA
    assert decided(team, approval_shown).spec.decision is not None
    written = team.read(pending()).spec.decision
    assert written is not None
    assert written.dump() == {
        "verdict": "Approved", "by": "boss", "sha256": SHA, "message": "fine", "allowNested": True,
    }  # fmt: skip


def test_a_decision_waits_until_the_operator_has_read_and_rehearsed_the_text(team: Team) -> None:
    team.put(approval())

    announced = {"type": "Rehearsed", "status": "Unknown", "reason": "Waiting", "message": "", "lastTransitionTime": AT}
    read = {"phase": "Pending", "sha256": SHA, "statements": [STATEMENT], "conditions": [announced]}

    async def showing(client: PersonClient) -> ShownApproval:
        waiting = asyncio.create_task(show_for_decision(client, decision()))
        for known in (read, {"rehearsal": REHEARSAL}):
            await asyncio.sleep(0.5)
            assert not waiting.done()
            team.write_status(pending(), known)
        return await waiting

    approval_shown = team.ask(showing, person=team.admin("boss"))
    assert approval_shown.check() == SHA
    assert approval_shown.approval.status.rehearsal is not None


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
def test_a_decision_that_would_not_count_is_never_written(
    team: Team, held: DDLApproval, who: str, changes: Raw, says: str
) -> None:
    approval_shown = shown(team, held, who, **changes)
    before = team.versions(DDLApproval)
    with pytest.raises(Refused, match=says):
        approval_shown.check()
    with pytest.raises(Refused, match=says):
        decided(team, approval_shown)
    assert team.versions(DDLApproval) == before


def test_a_change_of_no_matter_is_decided_over(team: Team) -> None:
    approval_shown = shown(team)
    team.change(pending(), {"metadata": {"labels": {"a": "b"}}})
    assert decided(team, approval_shown).spec.decision is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (pending(rehearsal={**REHEARSAL, "drops": ["table a", "table b"]}), "not as it was shown any more"),
        (None, "was deleted meanwhile"),
        (pending(phase="Denied"), "nothing is left to decide"),
    ],
    ids=["rehearsed anew", "made anew", "denied"],
)
def test_what_has_changed_since_it_was_shown_is_not_decided(team: Team, change: DDLApproval | None, says: str) -> None:
    approval_shown = shown(team)
    if change is None:
        team.delete(pending())
        team.put(pending())
    else:
        team.write_status(change, change.dump()["status"])
    before = team.versions(DDLApproval)
    with pytest.raises(Refused, match=says):
        decided(team, approval_shown)
    assert team.versions(DDLApproval) == before


def test_a_decision_that_always_collides_is_given_up(team: Team) -> None:
    approval_shown = shown(team)
    numbers = itertools.count()

    def relabel() -> None:
        team.change(pending(), {"metadata": {"labels": {"number": str(next(numbers))}}})

    with pytest.raises(Refused, match="drop changes all the time"):
        decided(team, approval_shown, others=itertools.repeat(relabel))
    assert team.read(pending()).spec.decision is None
