"""Decisions on access without a terminal: what the API server takes, and what an approver may ask for."""

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.harness.builders import HOUR, MINUTE, SECOND, Raw, approval, rule, server, tenant, true
from tests.harness.command_line import READ, may
from tests.harness.team import Team

from vaultbrix.access import deciding
from vaultbrix.access.actions import Extended, ExtendOptions, extend
from vaultbrix.access.deciding import (
    Decidable,
    RuleDecisionOptions,
    ShownRule,
    decide_on_rule,
    find_decidable,
    show_rule_for_decision,
)
from vaultbrix.access.listing import RulesOptions, list_rules
from vaultbrix.access.terms import deadline_of, terms_sha256
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import DDLApproval, Verdict
from vaultbrix.api.meta import rfc3339
from vaultbrix.kube import person
from vaultbrix.kube.person import Missing
from vaultbrix.runtime.errors import Blocked
from vaultbrix.runtime.usage import Misused, Refused

OTHER = "f" * 64
BOB = "bob@example.com"
REQUIRED = server(accessApproval="Required")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(deciding, "LOOKED_AT_SECONDS", 0.3)


def accepted(status: str, reason: str) -> Raw:
    return {**true("Accepted")[0], "status": status, "reason": reason, "observedGeneration": 1}


def looked_at(team: Team, name: str = "jane", **status: Any) -> AccessRule:
    """The rule once the operator has looked at it, which waits for a decision unless its status says otherwise."""
    sha256 = terms_sha256(team.read(rule(name)))
    waiting = {"phase": "Pending", "sha256": sha256, "conditions": [accepted("False", "ApprovalNeeded")]}
    team.write_status(rule(name), {**waiting, **status})
    return team.read(rule(name))


def waiting(team: Team, name: str = "jane", **spec: Any) -> AccessRule:
    team.put(rule(name, **spec))
    return looked_at(team, name)


def decision(of: AccessRule, **changes: Any) -> Raw:
    return {"verdict": "Approved", "by": BOB, "sha256": of.status.sha256, **changes}


def write(team: Team, decision: Raw | None, **spec: Any) -> None:
    team.change(rule(), {"spec": {"decision": decision, **spec}})


def refused(team: Team, says: str, decision: Raw | None, **spec: Any) -> None:
    """The API server refuses it, says why, and nothing is changed."""
    before = team.versions(AccessRule)
    with pytest.raises(AssertionError, match=says):
        write(team, decision, **spec)
    assert team.versions(AccessRule) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sha256": OTHER}, "spec.decision.sha256 must be status.sha256: the rule is not what was decided on"),
        ({"sha256": "abc"}, "spec.decision.sha256"),
        ({"sha256": None}, "spec.decision.sha256: Required value"),
        ({"by": "jane@example.com"}, "decision.by must not be requestedBy: who asks for access does not decide on it"),
        ({"by": ""}, "spec.decision.by"),
        ({"by": None}, "spec.decision.by: Required value"),
        ({"by": "two words"}, "spec.decision.by"),
        ({"verdict": "Maybe"}, "spec.decision.verdict"),
        ({"verdict": None}, "spec.decision.verdict: Required value"),
        ({"message": "x" * 1025}, "spec.decision.message"),
    ],
    ids=str,
)
def test_a_decision_that_cannot_count_is_not_taken(team: Team, changes: Raw, says: str) -> None:
    refused(team, says, decision(waiting(team), **changes))


def test_one_of_several_who_asked_does_not_decide(team: Team) -> None:
    of = waiting(team, requestedBy="eve@example.com,jane@example.com")
    refused(team, "decision.by must not be requestedBy", decision(of, by="jane@example.com"))


def test_nothing_is_decided_before_it_is_known_what_is_decided_on(team: Team) -> None:
    says = "spec.decision must wait until the operator has written status.sha256, which it decides on"
    with pytest.raises(AssertionError, match=says):
        team.put(rule(decision={"verdict": "Approved", "by": BOB, "sha256": OTHER}))
    assert team.versions(AccessRule) == {}
    team.put(rule())
    refused(team, says, {"verdict": "Approved", "by": BOB, "sha256": terms_sha256(team.read(rule()))})


def test_a_decision_is_written_once_for_what_the_rule_gives_and_stays(team: Team) -> None:
    of = waiting(team)
    write(team, decision(of))
    once = "is written once for what the rule gives; only a rule that was edited since is decided on again"
    refused(team, once, decision(of, by="carol@example.com"))
    refused(team, once, decision(of, verdict="Denied"))
    refused(team, "decision stays once it is written", None)
    team.change(of, {"spec": {"ttl": "3h"}})
    refused(team, "must be status.sha256", decision(of, sha256=terms_sha256(team.read(of))))
    again = looked_at(team)
    write(team, decision(again, by="carol@example.com"))
    assert terms_sha256(team.read(of)) == again.status.sha256


def test_a_denial_is_final(team: Team) -> None:
    of = waiting(team)
    write(team, decision(of, verdict="Denied", message="use the replica"))
    team.change(of, {"spec": {"ttl": "1h"}})
    again = looked_at(team)
    refused(team, "was Denied, which is final; create another AccessRule", decision(again))


@pytest.mark.parametrize("ended", ["closed", "revoked"])
def test_a_rule_that_has_ended_is_not_decided_on(team: Team, ended: str) -> None:
    of = waiting(team)
    if ended == "closed":
        team.write_status(of, {"phase": "Expired", "closedAt": rfc3339(datetime.now(UTC)), "closedReason": "Expired"})
    else:
        team.change(of, {"spec": {"revoked": True}})
    refused(team, "the rule has ended, so there is nothing to decide; create another AccessRule", decision(of))


def shown(team: Team, verdict: Verdict = Verdict.APPROVED, by: str = BOB, **options: Any) -> ShownRule:
    message = "no" if verdict is Verdict.DENIED else ""
    asked = RuleDecisionOptions(**{"name": "jane", "verdict": verdict, "message": message, **options})
    return team.ask(lambda client: show_rule_for_decision(client, asked), person=team.admin(by))


def decided(team: Team, seen: ShownRule, **others: Any) -> AccessRule:
    return team.ask(lambda client: decide_on_rule(client, seen), person=team.admin(seen.by), **others)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_was_shown_is_what_is_decided(team: Team, verdict: Verdict) -> None:
    team.put(tenant())
    of = waiting(team)
    seen = shown(team, verdict)
    assert (seen.rule.status.sha256, seen.by) == (of.status.sha256, BOB)
    assert seen.tenant is not None
    seen.check_typed(f" {seen.check()[:8].upper()} ")
    # What agents and operator report meanwhile is no change of what was shown.
    report = {"name": "agent-1", "generation": 1, "hba": False, "kernel": False, "at": rfc3339(datetime.now(UTC))}
    made = decided(team, seen, others=[lambda: team.write_status(of, {"agents": [report]})])
    assert made.spec.decision is not None
    assert made.spec.decision.dump() == {
        "verdict": str(verdict),
        "by": BOB,
        "sha256": of.status.sha256,
        "message": "no" if verdict is Verdict.DENIED else "",
    }


def test_of_two_who_decide_at_once_the_second_is_told(team: Team) -> None:
    of = waiting(team)
    second = shown(team, Verdict.DENIED, "carol@example.com")
    with pytest.raises(Refused, match=r"jane was decided: Approved by bob@example.com"):
        decided(team, second, others=[lambda: write(team, decision(of))])
    kept = team.read(of).spec.decision
    assert kept is not None
    assert (kept.by, kept.verdict) == (BOB, "Approved")


@pytest.mark.parametrize("edit", [{"ttl": "3h"}, {"cidrs": ["198.51.100.9/32"]}, {"reason": "something else"}], ids=str)
def test_a_rule_that_changes_between_show_and_decision_is_not_decided_on(team: Team, edit: Raw) -> None:
    of = waiting(team)
    seen = shown(team)

    def change() -> None:
        team.change(of, {"spec": edit})
        looked_at(team)

    with pytest.raises(Refused, match="jane is not as it was shown any more; nothing was decided"):
        decided(team, seen, others=[change])
    assert team.read(of).spec.decision is None


def test_another_rule_of_the_same_name_is_not_decided_on(team: Team) -> None:
    of = waiting(team)
    seen = shown(team)

    def replace() -> None:
        team.delete(of)
        waiting(team)

    with pytest.raises(Missing, match="was deleted meanwhile"):
        decided(team, seen, others=[replace])
    assert team.read(of).spec.decision is None


def test_what_would_not_count_is_refused_before_it_is_written(team: Team) -> None:
    of = waiting(team)
    before = team.versions(AccessRule)
    with pytest.raises(Refused, match=r"jane was asked for by jane@example.com, who cannot decide on it"):
        shown(team, by="jane@example.com").check()
    with pytest.raises(Refused, match="so it is not what you mean"):
        shown(team, sha256="01234567").check()
    with pytest.raises(Refused, match="that is not how its sha256 begins"):
        shown(team).check_typed("01234567")
    with pytest.raises(Missing, match="AccessRule none not found"):
        shown(team, name="none")
    with pytest.raises(Misused, match="--message: say why"):
        shown(team, Verdict.DENIED, message=" ")
    with pytest.raises(Misused, match="--message: has 1025 characters"):
        shown(team, message="x" * 1025)
    with pytest.raises(Misused, match="--sha256 abc: give its first 8"):
        shown(team, sha256="abc")
    assert team.versions(AccessRule) == before
    team.change(of, {"spec": {"ttl": "3h"}})
    with pytest.raises(Refused, match=r"has a status.sha256 that is not of what it gives"):
        shown(team).check()
    looked_at(team)
    decided(team, shown(team, Verdict.DENIED))
    with pytest.raises(Refused, match=r"was denied by bob@example.com, which is final"):
        shown(team, by="carol@example.com").check()


@pytest.mark.parametrize(
    ("status", "spec", "says"),
    [
        ({"sha256": None}, {}, "has not been looked at by the operator yet"),
        ({"sha256": OTHER}, {}, "has a status.sha256 that is not of what it gives"),
        ({"closedAt": "2026-11-01T13:00:00Z"}, {}, "ended at 2026-11-01T13:00:00Z"),
        ({}, {"revoked": True}, "was revoked"),
    ],
)
def test_a_rule_that_cannot_be_decided_on_says_why(team: Team, status: Raw, spec: Raw, says: str) -> None:
    team.put(rule(**spec))
    looked_at(team, **status)
    with pytest.raises(Refused, match=says):
        shown(team).check()


def test_a_name_stands_for_whichever_kind_has_it(team: Team) -> None:
    team.put(rule("a"), approval("b"), rule("c"), approval("c"))

    def found(reference: str, **options: Any) -> Decidable:
        return team.ask(lambda client: find_decidable(client, reference), **options)

    assert (found("a"), found("b")) == (Decidable(AccessRule, "a"), Decidable(DDLApproval, "b"))
    with pytest.raises(Misused, match="accessrule/c or ddlapproval/c"):
        found("c")
    for kind, names in ((AccessRule, ("accessrule/c", "ar/c")), (DDLApproval, ("ddlapproval/c", "ddl/c"))):
        assert [found(name) for name in names] == [Decidable(kind, "c")] * 2
    with pytest.raises(Misused, match="write accessrule/NAME or ddlapproval/NAME"):
        found("tenant/c")
    with pytest.raises(Missing, match="has neither an AccessRule nor a DDLApproval none"):
        found("none")
    eve = team.person(may(READ, "ddlapprovals"))
    assert found("c", person=eve) == Decidable(DDLApproval, "c")
    with pytest.raises(Blocked, match="forbidden"):
        found("a", person=eve)


def test_those_that_wait_are_listed(team: Team) -> None:
    waiting(team, "a")
    team.put(rule("b", status={"phase": "Open", "conditions": [accepted("True", "Approved")]}), rule("c"))
    listed = team.ask(lambda client: list_rules(client, RulesOptions(pending=True)))
    assert [item.resource.metadata.name for item in listed] == ["a"]


def approved(team: Team, on: Any = REQUIRED, **spec: Any) -> AccessRule:
    """A rule that somebody has approved."""
    team.put(tenant(), on)
    write(team, decision(waiting(team, **spec)))
    return looked_at(team, phase="Open", conditions=[accepted("True", "Approved")])


def extended(team: Team, **options: Any) -> Extended:
    asked = ExtendOptions(**{"name": "jane", "wait": False, **options})
    return team.ask(lambda client: extend(client, asked))


def test_an_approved_rule_goes_on_while_its_extension_waits(team: Team) -> None:
    of = approved(team, cidrs=["203.0.113.7/32", "2001:db8::/64"], login="PerRule")
    done = extended(team, lasting="1h")
    assert done.first == of
    assert team.read(of) == of
    assert done.rule.metadata.name.startswith("jane-")
    assert done.rule.spec.dump() == {
        **{key: value for key, value in of.spec.dump().items() if key not in ("ttl", "decision")},
        "expiresAt": rfc3339(deadline_of(of) + HOUR),
    }


def test_an_extension_that_takes_nothing_away_is_an_edit(team: Team) -> None:
    team.put(tenant(), REQUIRED)
    waiting(team)
    done = extended(team, lasting="1h")
    assert (done.first, done.rule.metadata.name, list(team.versions(AccessRule))) == (None, "jane", ["jane"])


def test_an_approved_rule_is_not_shortened_into_closing(team: Team) -> None:
    of = approved(team)
    soon = rfc3339(datetime.now(UTC) + 30 * MINUTE)
    with pytest.raises(Refused, match="also one that shortens it; end it when it is done with: vaultbrix revoke jane"):
        extended(team, until=soon)
    assert team.read(of) == of


def test_a_rule_that_needs_nobody_is_edited_up_to_there_and_followed_beyond(team: Team) -> None:
    team.put(tenant(), server(accessApproval="Required", autoApproveUpTo="3h"))
    waiting(team)
    looked_at(team, phase="Open", conditions=[accepted("True", "AutoApproved")])
    assert extended(team, lasting="1h").first is None
    done = extended(team, lasting="1h")
    assert done.first is not None
    assert sorted(team.versions(AccessRule)) == sorted(["jane", done.rule.metadata.name])


def test_where_the_server_may_not_be_read_what_the_operator_said_counts(team: Team) -> None:
    eve = team.person(may(READ, "tenants", "accessrules"), may(["create", "patch"], "accessrules"))
    team.put(tenant(), REQUIRED)
    waiting(team)
    looked_at(team, phase="Open", conditions=[accepted("True", "AutoApproved")])
    options = ExtendOptions(name="jane", lasting="1h", wait=False)
    assert team.ask(lambda client: extend(client, options), person=eve).first is not None


def test_an_extension_is_no_longer_than_the_server_allows(team: Team) -> None:
    of = approved(team)
    with pytest.raises(Refused, match="the rule that follows jane may last 168h at most"):
        extended(team, until=rfc3339(datetime.now(UTC) + 169 * HOUR))
    late = rfc3339(datetime.now(UTC) + 168 * HOUR - 30 * SECOND)
    assert extended(team, until=late).first == of


def test_a_rule_for_later_is_followed_by_one_that_begins_no_earlier(team: Team) -> None:
    start = rfc3339(datetime.now(UTC) + HOUR)
    of = approved(team, startsAt=start)
    done = extended(team, lasting="1h")
    assert done.rule.spec.starts_at == of.spec.starts_at
