"""Access by four eyes: nothing opens under Required but what somebody else approved exactly as it is."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.approvals_of_access import BOB, FREE, REQUIRED, UP_TO_AN_HOUR, decided, edited
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND, Raw, named, rule, server, tenant

from vaultbrix.access.approval import approval, asked_by
from vaultbrix.access.decisions import AccessVerdict, RuleFacts, decide, decide_all, rule_status
from vaultbrix.access.request import follow_up
from vaultbrix.access.terms import terms_sha256
from vaultbrix.agent.decisions import decide_tenant
from vaultbrix.api.accessrule import AccessPhase, AccessRule, AccessRuleStatus
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import format_duration, rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.grants.state import AgentState, Ended, applied
from vaultbrix.runtime.usage import Refused


def at(of: AccessRule, on: PostgresServer = REQUIRED, after: timedelta = MINUTE, **world: Any) -> AccessVerdict:
    return decide(of, world.pop("tenant", tenant()), on, NOW + after, **world)


def test_a_rule_waits_until_somebody_else_has_approved_what_it_gives() -> None:
    waiting = at(rule())
    assert (waiting.phase, waiting.reason, waiting.grant) == (AccessPhase.PENDING, Reason.APPROVAL_NEEDED, None)
    for told in ("somebody else than jane@example.com", "vaultbrix approve jane -n team", terms_sha256(rule())):
        assert told in waiting.message
    opened = at(decided(rule()))
    assert (opened.phase, opened.reason) == (AccessPhase.OPEN, Reason.APPROVED)
    assert "approved by bob@example.com" in opened.message
    free = at(rule(), FREE).grant
    assert free is not None
    assert (free.approved_by, opened.grant) == ("", replace(free, approved_by="bob@example.com"))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"ttl": "3h"}, "edited"),
        ({"ttl": "1h"}, "edited"),
        ({"ttl": None, "expiresAt": "2026-12-01T14:00:01Z"}, "edited"),
        ({"ttl": None, "expiresAt": "2026-12-01T14:00:00.5Z"}, "edited"),
        ({"cidrs": ["203.0.113.7/32", "203.0.113.8/32"]}, "edited"),
        ({"cidrs": ["203.0.113.8/32"]}, "edited"),
        ({"login": "PerRule"}, "edited"),
        ({"tenantRef": {"name": "other"}}, "edited"),
        ({"startsAt": "2026-12-01T12:00:01Z"}, "edited"),
    ],
    ids=str,
)
def test_a_rule_that_is_edited_after_its_approval_opens_nothing_and_says_so(edit: Raw, says: str) -> None:
    verdict = at(decided(rule(), **edit))
    assert (verdict.phase, verdict.reason, verdict.grant) == (AccessPhase.PENDING, Reason.APPROVAL_OUTDATED, None)
    assert says in verdict.message
    assert "vaultbrix approve jane" in verdict.message


@pytest.mark.parametrize(
    "edit",
    [{"reason": "CHG-9"}, {"ttlAfterClosed": "1h"}, {"ttl": None, "expiresAt": "2026-12-01T14:00:00Z"}],
    ids=str,
)
def test_an_edit_that_gives_the_same_needs_no_new_decision(edit: Raw) -> None:
    assert at(decided(rule(), **edit)).phase is AccessPhase.OPEN


def test_the_order_of_addresses_is_no_other_thing_to_decide_on() -> None:
    one, other = ["203.0.113.7/32", "203.0.113.8/32"], ["203.0.113.8/32", "203.0.113.7/32"]
    assert terms_sha256(rule(cidrs=one)) == terms_sha256(rule(cidrs=other))


@pytest.mark.parametrize("asked", ["jane@example.com", "eve@example.com,jane@example.com"])
def test_whoever_asked_does_not_decide(asked: str) -> None:
    for verdict in ("Approved", "Denied"):
        of = at(decided(rule(requestedBy=asked), by="jane@example.com", verdict=verdict))
        assert (of.phase, of.reason, of.grant) == (AccessPhase.PENDING, Reason.SELF_APPROVAL, None)
    assert asked_by(rule(requestedBy=asked), "jane@example.com")
    assert not asked_by(rule(requestedBy=asked), BOB)


def test_a_decision_cannot_be_carried_to_another_rule_or_to_the_same_one_created_again() -> None:
    approved = decided(rule(startsAt=rfc3339(NOW), expiresAt=rfc3339(NOW + HOUR)))
    again = approved.model_copy(update={"metadata": rule(metadata={"uid": "another"}).metadata})
    assert at(approved).grant is not None
    assert at(again).reason is Reason.APPROVAL_OUTDATED


def test_a_denial_is_final_whatever_is_edited_afterwards() -> None:
    no = decided(rule(), verdict="Denied", **{})
    for of in (no, edited(no, ttl="1m"), edited(no, cidrs=["203.0.113.9/32"])):
        for on in (REQUIRED, UP_TO_AN_HOUR, FREE):
            verdict = at(of, on)
            assert (verdict.phase, verdict.reason, verdict.closed) == (AccessPhase.REJECTED, Reason.DENIED, True)
            assert "denied by bob@example.com" in verdict.message
    message = {"verdict": "Denied", "by": BOB, "sha256": terms_sha256(rule()), "message": "use the replica"}
    assert "denied by bob@example.com: use the replica" in at(edited(rule(), decision=message)).message


def test_nothing_in_a_status_opens_a_rule_that_waits_or_was_denied() -> None:
    no, waits = decided(rule(), verdict="Denied"), rule()
    taken = {"verdict": "Approved", "by": BOB, "sha256": terms_sha256(rule()), "at": rfc3339(NOW)}
    forged: Raw = {"phase": "Open", "openedAt": rfc3339(NOW), "sha256": taken["sha256"], "decided": taken}
    for status in ({"closedReason": "Expired"}, {"closedReason": "Denied"}, forged, {**forged, "closedReason": "x"}):
        for of, on in ((no, REQUIRED), (no, FREE), (no, UP_TO_AN_HOUR), (waits, REQUIRED), (waits, UP_TO_AN_HOUR)):
            lied = AccessRule.parse({**of.dump(), "metadata": of.metadata.dump(), "status": status})
            assert at(lied, on).grant is None


def test_a_rule_that_ended_before_it_was_denied_ended_as_it_did() -> None:
    ended = rule(status={"phase": "Expired", "closedAt": rfc3339(NOW + HOUR), "closedReason": "Expired"})
    assert at(decided(ended, verdict="Denied"), after=2 * HOUR).phase is AccessPhase.EXPIRED


def test_a_rule_that_nobody_decided_on_ends_and_says_so() -> None:
    verdict = at(rule(), after=2 * HOUR)
    assert (verdict.phase, verdict.reason, verdict.closed) == (AccessPhase.EXPIRED, Reason.UNDECIDED, True)
    assert "nobody had decided" in verdict.message
    ended = status(rule(), after=2 * HOUR)
    assert ended.closed_reason == "Undecided"
    later = status(rule(status=ended.dump()), FREE, after=3 * HOUR)
    assert named(later.conditions, "Ready").message == named(ended.conditions, "Ready").message
    assert at(decided(rule()), after=2 * HOUR).reason is Reason.EXPIRED


def test_short_rules_need_nobody_until_they_are_edited_beyond() -> None:
    short = rule(ttl="1h")
    assert (at(short, UP_TO_AN_HOUR).phase, at(short, UP_TO_AN_HOUR).reason) == (
        AccessPhase.OPEN,
        Reason.AUTO_APPROVED,
    )
    assert at(edited(short, ttl="3601s"), UP_TO_AN_HOUR).reason is Reason.APPROVAL_NEEDED
    later = rule(ttl="1h", startsAt=rfc3339(NOW + HOUR))
    assert at(later, UP_TO_AN_HOUR).reason is Reason.NOT_YET
    assert at(rule(ttl="1s"), REQUIRED).phase is AccessPhase.EXPIRED
    assert at(rule(ttl="90s"), server(accessApproval="Required", autoApproveUpTo="0s")).grant is None


def test_a_rule_for_later_is_approved_before_it_begins() -> None:
    later = rule(startsAt=rfc3339(NOW + HOUR))
    assert at(later).reason is Reason.APPROVAL_NEEDED
    assert at(later).opens_at is None
    assert at(decided(later)).opens_at == NOW + HOUR


@pytest.mark.parametrize(
    ("of", "world", "reason"),
    [
        ({"cidrs": ["10.0.0.0/8"]}, {}, Reason.PREFIX_TOO_WIDE),
        ({"ttl": "200h"}, {}, Reason.TTL_TOO_LONG),
        ({"cidrs": ["192.0.2.1/32"]}, {}, Reason.TRUSTED_SOURCE),
        ({}, {"tenant": tenant(suspended=True)}, Reason.TENANT_SUSPENDED),
        ({}, {"tenant": tenant(ready=False)}, Reason.TENANT_NOT_READY),
        ({"revoked": True}, {}, Reason.REVOKED),
    ],
)
def test_what_cannot_be_approved_away_comes_first(of: Raw, world: Raw, reason: Reason) -> None:
    on = server(accessApproval="Required", trusted={"addresses": ["192.0.2.1"]})
    for candidate in (rule(**of), decided(rule(**of))):
        verdict = at(candidate, on, **world)
        assert (verdict.reason, verdict.grant) == (reason, None)


def test_what_waits_takes_no_slot_from_what_is_approved() -> None:
    on = server(accessApproval="Required", limits={"maxRulesPerTenant": 1})
    rules = [rule("a"), decided(rule("b"))]
    verdicts = decide_all(rules, tenant(), on, NOW + MINUTE)
    assert [verdicts[r.metadata.uid].phase for r in rules] == [AccessPhase.PENDING, AccessPhase.OPEN]


def test_an_agent_closes_what_is_not_approved_any_more_and_forgets_none_of_it() -> None:
    state = AgentState("main")

    def seen(of: AccessRule, on: PostgresServer) -> bool:
        changes, _ = decide_tenant(state, ("team", "acme"), [of], tenant(), on, NOW + MINUTE)
        applied(state, changes)
        assert all(not change.final for change in changes if isinstance(change, Ended))
        return of.metadata.uid in state.grants

    assert seen(rule(), FREE)
    assert not seen(rule(), REQUIRED), "open before an approval was asked for"
    assert seen(rule(), FREE)
    assert seen(decided(rule()), REQUIRED)
    assert not seen(decided(rule(), ttl="3h"), REQUIRED)
    assert seen(decided(rule(ttl="3h")), REQUIRED)
    changes, _ = decide_tenant(
        state, ("team", "acme"), [decided(rule(), verdict="Denied")], tenant(), REQUIRED, NOW + MINUTE
    )
    assert [change.final for change in changes if isinstance(change, Ended)] == [True]


def status(of: AccessRule, on: PostgresServer = REQUIRED, after: timedelta = MINUTE) -> AccessRuleStatus:
    facts = RuleFacts(decide(of, tenant(), on, NOW + after), in_cluster=True, covered=True)
    return rule_status(of, facts, NOW + after)


def test_the_status_says_what_is_decided_on_and_which_decision_was_taken_over_when() -> None:
    before = status(rule())
    assert (before.sha256, before.decided) == (terms_sha256(rule()), None)
    assert named(before.conditions, "Accepted").reason == named(before.conditions, "Ready").reason == "ApprovalNeeded"
    of = decided(rule(status=before.dump()))
    taken = status(of, after=2 * MINUTE)
    assert taken.decided is not None
    assert taken.decided.dump() == {
        "verdict": "Approved",
        "by": BOB,
        "sha256": before.sha256,
        "at": rfc3339(NOW + 2 * MINUTE),
    }
    of = of.model_copy(update={"status": taken})
    assert status(of, after=3 * MINUTE).decided == taken.decided
    outdated = status(edited(of, ttl="3h"), after=4 * MINUTE)
    assert outdated.decided == taken.decided
    assert outdated.sha256 != taken.sha256
    assert (outdated.phase, outdated.opened_at) == (AccessPhase.PENDING, taken.opened_at)
    ended = status(decided(of, verdict="Denied"), after=5 * MINUTE)
    assert (ended.closed_at, ended.closed_reason) == (NOW + 5 * MINUTE, "Denied")
    assert named(ended.conditions, "Accepted").status == named(ended.conditions, "Ready").status == "False"


CIDRS = st.lists(st.sampled_from(["203.0.113.7/32", "203.0.113.8/32", "2001:db8::/64"]), min_size=1, unique=True)
LENGTHS = st.integers(min_value=1, max_value=4 * 3600)
TERMS = st.fixed_dictionaries(
    {
        "cidrs": CIDRS,
        "ttl": LENGTHS.map(lambda seconds: format_duration(seconds * SECOND)),
        "login": st.sampled_from(["Tenant", "PerRule"]),
    }
)
PEOPLE = st.sampled_from(["jane@example.com", BOB, "eve@example.com"])


@st.composite
def rules(draw: st.DrawFn) -> AccessRule:
    """A rule as it may come to be: decided on for these or for other terms, by whomever, edited or not."""
    name = draw(st.sampled_from(["a", "b", "c"]))
    of = rule(name, requestedBy=draw(PEOPLE), **draw(TERMS))
    if draw(st.booleans()):
        shown = of if draw(st.booleans()) else edited(of, **draw(TERMS))
        of = decided(
            of, by=draw(PEOPLE), verdict=draw(st.sampled_from(["Approved", "Denied"])), sha256=terms_sha256(shown)
        )
    return edited(of, **draw(TERMS)) if draw(st.booleans()) else of


@given(
    st.lists(rules(), max_size=3, unique_by=lambda of: of.metadata.uid),
    st.sampled_from([REQUIRED, UP_TO_AN_HOUR]),
    st.integers(min_value=0, max_value=5 * 3600),
)
def test_no_rule_is_open_without_a_decision_of_exactly_its_hash_by_somebody_else(
    of: list[AccessRule], on: PostgresServer, seconds: int
) -> None:
    now = NOW + seconds * SECOND
    verdicts = decide_all(of, tenant(), on, now)
    for one in of:
        verdict, decision = verdicts[one.metadata.uid], one.spec.decision
        by_itself = on.spec.auto_approve_up_to is not None and (one.spec.ttl or HOUR) <= on.spec.auto_approve_up_to
        by_others = (
            decision is not None
            and decision.verdict == "Approved"
            and decision.by != one.spec.requested_by
            and decision.sha256 == terms_sha256(one)
        )
        refused = decision is not None and decision.verdict == "Denied" and decision.by != one.spec.requested_by
        may = (by_itself or by_others) and not refused and now < verdict.deadline
        assert (verdict.grant is not None) is may
        assert (approval(one) is not None) is by_others
    changes, _ = decide_tenant(AgentState("main"), ("team", "acme"), of, tenant(), on, now)
    state = applied(AgentState("main"), changes)
    assert state.grants.keys() == {uid for uid, verdict in verdicts.items() if verdict.grant is not None}


def followed(of: AccessRule, on: PostgresServer | None = REQUIRED, at: Any = NOW + MINUTE, **how: Any) -> Raw | None:
    return follow_up(of, **{"more": None, "until": None, "server": on, "now": at, **how})


def test_what_an_edit_would_close_is_followed_by_a_rule_of_the_same_terms() -> None:
    of = decided(rule("jane", cidrs=["203.0.113.7/32", "2001:db8::/64"], login="PerRule"))
    made = followed(of, more=HOUR)
    assert made is not None
    assert made["metadata"] == {"namespace": "team", "generateName": "jane-"}
    assert made["spec"] == {
        "tenantRef": {"name": "acme"},
        "cidrs": ["203.0.113.7/32", "2001:db8::/64"],
        "reason": "CHG-1",
        "requestedBy": "jane@example.com",
        "login": "PerRule",
        "expiresAt": rfc3339(NOW + 3 * HOUR),
    }
    later = followed(decided(rule(startsAt=rfc3339(NOW + HOUR))), more=HOUR)
    assert later is not None
    assert later["spec"]["startsAt"] == rfc3339(NOW + HOUR)
    assert followed(of, until=NOW + 2 * HOUR) is None, "it ends then already"


@pytest.mark.parametrize(
    ("of", "on"),
    [
        (rule(), REQUIRED),
        (decided(rule(), ttl="150m"), REQUIRED),
        (decided(rule()), FREE),
        (rule(ttl="1h"), server(accessApproval="Required", autoApproveUpTo="2h")),
        (decided(rule(ttl="1h")), server(accessApproval="Required", autoApproveUpTo="2h")),
        (rule(), None),
    ],
    ids=["waits", "outdated", "free", "short", "short and approved", "hidden"],
)
def test_what_an_edit_closes_not_is_edited(of: AccessRule, on: PostgresServer | None) -> None:
    assert followed(of, on, more=HOUR) is None


def test_of_a_hidden_server_the_last_word_of_the_operator_counts() -> None:
    accepted = {"type": "Accepted", "status": "True", "reason": "AutoApproved", "lastTransitionTime": rfc3339(NOW)}
    assert followed(rule(status={"conditions": [accepted]}), None, more=HOUR) is not None
    assert followed(decided(rule()), None, more=HOUR) is not None


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"until": NOW + HOUR}, "end it when it is done with: vaultbrix revoke jane"),
        ({"until": NOW + 169 * HOUR}, "may last 168h at most on PostgresServer main"),
        ({"more": HOUR, "at": NOW + 3 * HOUR}, "never opens again"),
    ],
)
def test_an_extension_that_cannot_be_is_refused_with_what_can(how: Raw, says: str) -> None:
    with pytest.raises(Refused, match=says):
        followed(decided(rule()), **how)
