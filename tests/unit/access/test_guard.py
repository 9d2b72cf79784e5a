"""An approval counts only where the admission policies have checked who wrote it."""

import asyncio
from typing import Any

import pytest
from tests.harness.approvals_of_access import REQUIRED, decided
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND, rule, tenant
from tests.harness.policy_objects import NAMES, SPEC, PolicyObjects

from vaultbrix.access.approval import unguarded
from vaultbrix.access.decisions import RuleFacts, decide, decide_all, rule_status
from vaultbrix.access.guard import ApprovalGuard
from vaultbrix.access.terms import terms_sha256
from vaultbrix.admission.decisions import SETTLING
from vaultbrix.admission.policies import Policies
from vaultbrix.agent.decisions import decide_tenant
from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import rfc3339
from vaultbrix.grants.state import AgentState, Ended
from vaultbrix.kube.resources import ADMISSION_POLICIES, CONFIG_MAPS

KEY = ("team", "acme")
OLD = {"creationTimestamp": rfc3339(NOW - 2 * HOUR)}


class Guarded:
    """A process that goes by approvals, with the API server that it asks."""

    def __init__(self, names: Any = NAMES) -> None:
        self.api = PolicyObjects()
        self.policies = Policies(self.api, names)
        self.taken: set[str] = set()
        self.guard = ApprovalGuard(self.api, self.policies, lambda of: of.metadata.uid in self.taken)

    def at_once(self, *rules: AccessRule) -> dict[str, str]:
        """What is answered before anything was looked at."""
        return self.guard.objections(rules, REQUIRED)

    def of(self, one: AccessRule) -> str | None:
        """What is answered after a look; None where the approval counts."""
        asyncio.run(self.guard.settle(one, REQUIRED))
        return self.at_once(one).get(one.metadata.uid)

    def change_policies(self) -> None:
        """Somebody did something to them, and put them back, generations later."""
        found = self.api.objects[ADMISSION_POLICIES.kind]["metadata"]["generation"]
        self.api.put(ADMISSION_POLICIES, SPEC, generation=found + 2)

    def look(self) -> None:
        asyncio.run(self.policies.look())


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


def test_nothing_opens_by_an_approval_before_the_policies_were_looked_at(guarded: Guarded) -> None:
    one = decided(rule())
    unknown = guarded.at_once(one)
    assert unknown == {one.metadata.uid: ""}
    verdict = decide_all([one], tenant(), REQUIRED, NOW, unguarded=unknown)[one.metadata.uid]
    assert (verdict.phase, verdict.reason, verdict.grant) == (AccessPhase.PENDING, Reason.DECISION_UNGUARDED, None)
    assert guarded.of(one) is None
    assert decide_all([one], tenant(), REQUIRED, NOW)[one.metadata.uid].grant is not None


def test_a_decision_made_while_they_were_away_never_counts(guarded: Guarded) -> None:
    one = decided(rule(metadata=OLD))
    del guarded.api.objects[ADMISSION_POLICIES.kind]
    held = guarded.of(one)
    assert held is not None
    assert "not taken over now" in held
    guarded.api.put(ADMISSION_POLICIES, SPEC, generation=1, created=NOW)
    guarded.api.now += SETTLING
    guarded.look()
    assert guarded.at_once(one) == {one.metadata.uid: ""}, "asked again, since they are others"
    final = guarded.of(one)
    assert final is not None
    assert "ask anew with another AccessRule" in final


def test_one_that_was_undecided_under_these_policies_can_be_decided_on(guarded: Guarded) -> None:
    guarded.change_policies()
    guarded.look()
    waits = rule(metadata=OLD)
    guarded.api.put_ours(waits)
    assert guarded.of(waits) is None
    assert guarded.api.reads == 0, "not in force yet, so it would say nothing"
    guarded.api.now += SETTLING + SECOND
    guarded.look()
    assert guarded.of(waits) is None
    assert guarded.api.reads == 1
    assert guarded.of(decided(waits)) is None
    never_seen = decided(rule("bob", metadata=OLD))
    assert guarded.of(never_seen) is not None


def test_a_copy_that_is_older_than_the_decision_says_nothing(guarded: Guarded) -> None:
    guarded.change_policies()
    guarded.look()
    guarded.api.now += SETTLING + SECOND
    guarded.look()
    watched = rule(metadata=OLD)
    guarded.api.put_ours(decided(watched))
    guarded.of(watched)
    assert guarded.of(decided(watched)) is not None
    guarded.of(watched)
    assert guarded.api.reads == 1, "read once for a version"


def test_that_somebody_was_undecided_is_for_those_terms_alone(guarded: Guarded) -> None:
    guarded.change_policies()
    guarded.look()
    guarded.api.now += SETTLING + SECOND
    guarded.look()
    waits = rule(metadata=OLD)
    guarded.api.put_ours(waits)
    guarded.of(waits)
    wider = rule(metadata=OLD, cidrs=["198.51.100.0/24"])
    assert guarded.of(decided(wider)) is not None


def test_a_look_that_fails_is_made_again(guarded: Guarded) -> None:
    one = decided(rule())
    guarded.api.away = True
    held = guarded.of(one)
    assert held is not None
    assert "is not known" in held
    guarded.api.away = False
    guarded.look()
    assert guarded.of(one) is None


def test_what_was_taken_over_stays_whatever_becomes_of_the_policies(guarded: Guarded) -> None:
    here, before = decided(rule(metadata=OLD)), decided(rule("bob", metadata=OLD))
    guarded.api.put(ADMISSION_POLICIES, SPEC, created=NOW - 3 * HOUR)
    assert guarded.of(here) is not None, "the binding is an hour old"
    guarded.taken.add(before.metadata.uid)
    guarded.api.objects.clear()
    guarded.look()
    assert guarded.of(before) is None
    guarded.guard.forget(before.metadata.uid)
    guarded.taken.clear()
    assert guarded.of(before) is not None


def test_a_release_without_policies_has_nothing_to_check() -> None:
    assert Guarded(None).at_once(decided(rule(metadata=OLD))) == {}


def test_an_approval_is_checked_though_nobody_knows_its_server_yet(guarded: Guarded) -> None:
    """Else one of a Tenant that comes later would pass for taken over."""
    one = decided(rule(metadata=OLD))
    asyncio.run(guarded.guard.settle(one, None))
    assert "ask anew" in guarded.guard.objections([one], None)[one.metadata.uid]
    assert guarded.guard.objections([rule(metadata=OLD)], None) == {}


def test_a_fault_in_a_look_ends_nothing_and_opens_nothing(guarded: Guarded) -> None:
    one = decided(rule())
    names = guarded.api.objects.pop(CONFIG_MAPS.kind)
    guarded.api.objects[CONFIG_MAPS.kind] = {"metadata": {}, "data": 7}

    async def until_decided() -> None:
        again: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        loop = asyncio.create_task(guarded.guard.run(again.put_nowait))
        guarded.at_once(one)
        await again.get()
        assert guarded.at_once(one) == {one.metadata.uid: ""}
        guarded.api.objects[CONFIG_MAPS.kind] = names
        await again.get()
        loop.cancel()

    asyncio.run(until_decided())
    assert guarded.at_once(one) == {}


def test_the_loop_looks_and_has_the_tenant_decided_again(guarded: Guarded) -> None:
    one = decided(rule())

    async def until_decided() -> tuple[str, str]:
        again: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        loop = asyncio.create_task(guarded.guard.run(again.put_nowait))
        guarded.at_once(one)
        tenant_key = await again.get()
        loop.cancel()
        return tenant_key

    assert asyncio.run(until_decided()) == KEY
    assert guarded.at_once(one) == {}


def test_an_open_rule_stays_open_in_the_agent_and_opens_no_further() -> None:
    one = decided(rule())
    state = AgentState("main")
    for change in decide_tenant(state, KEY, [one], tenant(), REQUIRED, NOW + MINUTE)[0]:
        state.apply(change)
    why = {one.metadata.uid: "nobody knows"}
    assert decide_tenant(state, KEY, [one], tenant(), REQUIRED, NOW + MINUTE, why) == ([], None)
    for terms in ({"cidrs": ["203.0.113.0/28"]}, {"ttl": "3h"}, {"login": "PerRule"}):
        wider = decided(rule(**terms))
        changes, _ = decide_tenant(state, KEY, [wider], tenant(), REQUIRED, NOW + MINUTE, why)
        assert [type(change) for change in changes] == [Ended]


def test_an_approval_that_does_not_count_is_no_decision_taken_over() -> None:
    one = decided(rule())
    said = decide(one, tenant(), REQUIRED, NOW, unguarded="nobody knows")
    facts = RuleFacts(said, in_cluster=False, covered=None, unguarded=True)
    status = rule_status(one, facts, NOW)
    assert (status.decided, status.phase) == (None, AccessPhase.PENDING)
    told = rule(status=status.dump())
    assert unguarded([told]) == {told.metadata.uid: "nobody knows"}
    assert terms_sha256(told) == status.sha256
