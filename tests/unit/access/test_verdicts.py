"""The limit on a tenant's rules, and verdicts that are kept until something changes them."""

import asyncio
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.harness.approvals_of_access import REQUIRED, decided
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND, rule, server, tenant
from tests.harness.policy_objects import NAMES, PolicyObjects

from vaultbrix.access.decisions import AccessVerdict, decide, decide_all
from vaultbrix.access.guard import ApprovalGuard
from vaultbrix.access.verdicts import Verdicts
from vaultbrix.admission.policies import Policies
from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.cache import Cache

TEAM = ("team", "acme")


def made(name: str, seconds: int, **spec: Any) -> AccessRule:
    """A rule created so long after NOW."""
    created = rfc3339(NOW + seconds * SECOND)
    return rule(name, metadata={"creationTimestamp": created, **spec.pop("metadata", {})}, **spec)


def phases(rules: list[AccessRule], most: int, at: timedelta = MINUTE) -> dict[str, str]:
    verdicts = decide_all(rules, tenant(), server(limits={"maxRulesPerTenant": most}), NOW + at)
    return {uid.removeprefix("uid-"): str(verdict.phase) for uid, verdict in verdicts.items()}


def test_the_oldest_rules_have_the_slots_in_whatever_order_they_are_seen() -> None:
    rules = [made("c", 3), made("a", 1), made("b", 2)]
    assert phases(rules, 2) == {"a": "Open", "b": "Open", "c": "Rejected"}


def test_rules_of_one_second_are_told_apart_by_uid() -> None:
    rules = [made("b", 0), made("a", 0)]
    assert phases(rules, 1) == phases(rules[::-1], 1) == {"a": "Open", "b": "Rejected"}


def test_the_refusal_names_the_limit_and_the_remedy() -> None:
    verdicts = decide_all([made("a", 1), made("b", 2)], tenant(), server(limits={"maxRulesPerTenant": 1}), NOW + MINUTE)
    told = verdicts["uid-b"]
    assert told.reason is Reason.TOO_MANY_RULES
    assert "spec.limits.maxRulesPerTenant" in told.message
    assert "revoke one" in told.message


def test_a_rule_that_is_about_to_open_takes_a_slot_and_one_that_has_ended_gives_it_back() -> None:
    later = made("a", 1, startsAt="2026-12-01T13:00:00Z")
    ended = made("b", 2, ttl="10s")
    assert phases([later, ended, made("c", 3)], 1) == {"a": "Pending", "b": "Expired", "c": "Rejected"}
    assert phases([ended, made("c", 3)], 1) == {"b": "Expired", "c": "Open"}


def test_rules_that_are_rejected_for_themselves_take_no_slot() -> None:
    wide = made("a", 1, cidrs=["10.0.0.0/8"])
    assert phases([wide, made("b", 2)], 1) == {"a": "Rejected", "b": "Open"}


SPECS = st.fixed_dictionaries(
    {"ttl": st.sampled_from(["10s", "30m", "2h"]), "revoked": st.booleans()},
    optional={"startsAt": st.just("2026-12-01T12:20:00Z"), "cidrs": st.just(["10.0.0.0/8"])},
)


@given(st.lists(SPECS, max_size=12), st.integers(1, 5), st.integers(0, 7200))
def test_no_more_rules_are_open_than_the_limit_and_no_slot_stays_free(
    specs: list[dict[str, Any]], most: int, seconds: int
) -> None:
    rules = [made(f"r{n:02}", n % 3, **spec) for n, spec in enumerate(specs)]
    limited = server(limits={"maxRulesPerTenant": most})
    now = NOW + seconds * SECOND
    together = decide_all(rules, tenant(), limited, now)
    alone = {r.metadata.uid: decide(r, tenant(), limited, now) for r in rules}

    def counts(verdict: AccessVerdict) -> bool:
        return verdict.grant is not None or verdict.opens_at is not None

    wanting = sum(map(counts, alone.values()))
    assert sum(map(counts, together.values())) == min(wanting, most)
    for uid, verdict in together.items():
        assert verdict == alone[uid] or (verdict.reason is Reason.TOO_MANY_RULES and counts(alone[uid]))


def filled(*rules: AccessRule, most: int = 50) -> tuple[Cache, Verdicts]:
    cache = Cache()
    for resource in (server(limits={"maxRulesPerTenant": most}), tenant(), *rules):
        cache.put(resource)
    api = PolicyObjects()
    return cache, Verdicts(cache, ApprovalGuard(api, Policies(api, None)))


def test_verdicts_are_kept_until_an_object_or_the_time_changes_one() -> None:
    cache, verdicts = filled(made("a", 0, ttl="1h"), made("b", 0, startsAt="2026-12-01T12:30:00Z"))
    first = verdicts.of_tenant(TEAM, NOW + MINUTE)
    assert verdicts.of_tenant(TEAM, NOW + 2 * MINUTE) is first
    opened = verdicts.of_tenant(TEAM, NOW + 30 * MINUTE)
    assert opened["uid-b"].phase is AccessPhase.OPEN
    assert verdicts.of_tenant(TEAM, NOW + HOUR)["uid-a"].phase is AccessPhase.EXPIRED
    # A clock that jumps back.
    assert verdicts.of_tenant(TEAM, NOW + MINUTE)["uid-b"].phase is AccessPhase.PENDING
    cache.put(made("a", 0, revoked=True, metadata={"resourceVersion": "2", "generation": 2}))
    assert verdicts.of_tenant(TEAM, NOW + MINUTE)["uid-a"].phase is AccessPhase.REVOKED
    cache.put(tenant(metadata={"resourceVersion": "2"}, suspended=True))
    assert verdicts.of_tenant(TEAM, NOW + MINUTE)["uid-b"].reason is Reason.TENANT_SUSPENDED
    cache.remove(PostgresServer, "", "main")
    assert verdicts.of_tenant(TEAM, NOW + MINUTE)["uid-b"].reason is Reason.SERVER_NOT_FOUND
    for name in ("a", "b"):
        cache.remove(AccessRule, "team", name)
    assert verdicts.of_tenant(TEAM, NOW + MINUTE) == {}


def test_rules_of_another_tenant_neither_count_nor_change_anything() -> None:
    cache, verdicts = filled(made("a", 0), most=1)
    first = verdicts.of_tenant(TEAM, NOW + MINUTE)
    cache.put(made("z", 0, tenantRef={"name": "other"}))
    assert verdicts.of_tenant(TEAM, NOW + MINUTE) is first
    assert set(first) == {"uid-a"}


@given(
    st.sampled_from([{}, {"phase": "Open"}, {"phase": "Revoked"}, {"closedAt": rfc3339(NOW)}, {"phase": "Expired"}]),
    st.booleans(),
)
def test_a_verdict_that_is_kept_is_the_one_that_would_be_decided(status: dict[str, Any], deleting: bool) -> None:
    cache, verdicts = filled(made("a", 0))
    verdicts.of_tenant(TEAM, NOW + MINUTE)
    more = {"deletionTimestamp": rfc3339(NOW)} if deleting else {}
    later = made("a", 0, status=status, metadata={"resourceVersion": "2", **more})
    cache.put(later)
    kept = verdicts.of_tenant(TEAM, NOW + MINUTE)["uid-a"]
    assert kept == decide(later, tenant(), server(), NOW + MINUTE)


def test_an_approval_counts_as_soon_as_the_policies_were_looked_at() -> None:
    cache, api = Cache(), PolicyObjects()
    one = decided(rule())
    for resource in (REQUIRED, tenant(), one):
        cache.put(resource)
    guard = ApprovalGuard(api, Policies(api, NAMES))
    verdicts = Verdicts(cache, guard)
    assert verdicts.of(one, NOW).grant is None
    asyncio.run(guard.settle(one, REQUIRED))
    assert verdicts.of(one, NOW).grant is not None
