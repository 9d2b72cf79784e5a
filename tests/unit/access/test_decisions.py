from dataclasses import asdict
from typing import Any

import pytest
from tests.harness.builders import HOUR, NOW, SECOND, rule, server, tenant

from vaultbrix.access.decisions import AccessVerdict, decide
from vaultbrix.access.terms import deadline_of
from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import rfc3339


def at(seconds: int, found: AccessRule, **changes: Any) -> AccessVerdict:
    """The verdict so long after NOW, with a tenant and a server that are ready unless said otherwise."""
    world = {"tenant": tenant(), "server": server(), **changes}
    return decide(found, world.pop("tenant"), world.pop("server"), NOW + seconds * SECOND, **world)


def test_a_rule_gives_exactly_what_it_asks_for() -> None:
    found = at(1, rule(cidrs=["203.0.113.7/32", "2001:db8::/64"], metadata={"generation": 4}))
    assert (found.phase, found.reason) == (AccessPhase.OPEN, Reason.ACCEPTED)
    assert found.grant is not None
    assert asdict(found.grant) == {
        "rule": "team/jane",
        "uid": "uid-jane",
        "generation": 4,
        "tenant": "team/acme",
        "role": "tenant_acme",
        "cidrs": ("203.0.113.7/32", "2001:db8::/64"),
        "deadline": NOW + 2 * HOUR,
        "requested_by": "jane@example.com",
        "reason": "CHG-1",
        "approved_by": "",
    }


def test_the_role_is_that_of_the_slug_not_of_the_name() -> None:
    found = at(1, rule(), tenant=tenant(slug="other_slug"))
    assert found.grant is not None
    assert found.grant.role == "tenant_other_slug"


def test_ttl_counts_from_creation_and_expires_at_is_taken_as_it_is() -> None:
    assert deadline_of(rule(ttl="90s")) == NOW + 90 * SECOND
    assert deadline_of(rule(expiresAt="2026-12-01T18:00:00Z")) == NOW + 6 * HOUR


def test_a_rule_without_any_life_is_over_at_once() -> None:
    assert at(0, rule(ttl=None)).phase is AccessPhase.EXPIRED


def test_a_rule_is_open_until_its_deadline_and_not_a_moment_longer() -> None:
    short = rule(ttl="10s")
    assert at(9, short).phase is AccessPhase.OPEN
    assert at(10, short).phase is AccessPhase.EXPIRED
    assert at(10, short).reason is Reason.EXPIRED


@pytest.mark.parametrize(
    "ended",
    [
        rule(revoked=True),
        rule(metadata={"deletionTimestamp": "2026-12-01T12:00:01Z"}),
        rule(status={"phase": "Revoked"}),
    ],
    ids=["revoked", "deleting", "was revoked"],
)
def test_a_revoked_rule_gives_nothing_whatever_else_holds(ended: AccessRule) -> None:
    for world in ({}, {"tenant": None}, {"server": None}, {"closed": True}, {"tenant": tenant(suspended=True)}):
        found = at(1, ended, **world)
        assert (found.phase, found.reason, found.closed) == (AccessPhase.REVOKED, Reason.REVOKED, True)
        assert found.grant is None


def test_a_rule_that_closed_once_stays_closed_when_the_clock_jumps_back() -> None:
    assert at(-3600, rule(), closed=True).phase is AccessPhase.EXPIRED


def test_a_rule_that_closed_once_stays_closed_when_its_deadline_is_moved() -> None:
    ended = rule(expiresAt="2026-12-01T18:00:00Z", status={"closedAt": "2026-12-01T12:00:00Z", "phase": "Expired"})
    found = at(1, ended)
    assert (found.phase, found.closed, found.grant) == (AccessPhase.EXPIRED, True, None)
    assert "2026-12-01T12:00:00Z" in found.message


@pytest.mark.parametrize(
    ("world", "reason", "says"),
    [
        ({"tenant": None}, Reason.TENANT_NOT_FOUND, "acme does not exist in namespace team"),
        ({"server": None}, Reason.SERVER_NOT_FOUND, "PostgresServer main"),
        ({"tenant": tenant(suspended=True)}, Reason.TENANT_SUSPENDED, "spec.suspended"),
        ({"tenant": tenant(ready=False)}, Reason.TENANT_NOT_READY, "not provisioned"),
        (
            {"tenant": tenant(metadata={"deletionTimestamp": "2026-12-01T12:00:01Z"})},
            Reason.TENANT_NOT_READY,
            "not provisioned",
        ),
    ],
    ids=["no tenant", "no server", "suspended", "not provisioned", "tenant deleting"],
)
def test_a_rule_waits_for_its_tenant_and_says_for_what(world: dict[str, Any], reason: Reason, says: str) -> None:
    found = at(1, rule(), **world)
    assert (found.phase, found.reason, found.grant, found.closed) == (AccessPhase.PENDING, reason, None, False)
    assert says in found.message


def test_a_rule_that_waits_still_ends_at_its_deadline() -> None:
    assert at(7200, rule(), tenant=None).phase is AccessPhase.EXPIRED
    assert at(7200, rule(), server=None).phase is AccessPhase.EXPIRED
    assert at(7200, rule(), tenant=tenant(suspended=True)).phase is AccessPhase.EXPIRED


def test_a_second_tenant_of_the_same_slug_opens_nothing() -> None:
    thief = tenant("thief", slug="acme", ready=False)
    assert at(1, rule(tenantRef={"name": "thief"}), tenant=thief).grant is None


@pytest.mark.parametrize(
    ("spec", "limits", "reason", "says"),
    [
        ({"ttl": "169h"}, {}, Reason.TTL_TOO_LONG, "168h"),
        ({"ttl": "2h"}, {"maxTTL": "1h"}, Reason.TTL_TOO_LONG, "spec.limits.maxTTL"),
        ({"expiresAt": "2027-12-01T12:00:00Z"}, {}, Reason.TTL_TOO_LONG, "168h"),
        ({"cidrs": ["10.0.0.0/23"]}, {}, Reason.PREFIX_TOO_WIDE, "/24"),
        ({"cidrs": ["10.0.0.0/24", "0.0.0.0/1"]}, {}, Reason.PREFIX_TOO_WIDE, "spec.cidrs[1]"),
        ({"cidrs": ["2001:db8::/63"]}, {}, Reason.PREFIX_TOO_WIDE, "spec.limits.minPrefixV6"),
        ({"cidrs": ["10.0.0.0/24"]}, {"minPrefixV4": 25}, Reason.PREFIX_TOO_WIDE, "/25"),
        ({"cidrs": ["10.0.0.1/24"]}, {}, Reason.PREFIX_TOO_WIDE, "host bits"),
        ({"cidrs": ["10.0.0.0/24\nhost all all all trust"]}, {}, Reason.PREFIX_TOO_WIDE, "spec.cidrs[0]"),
    ],
    ids=str,
)
def test_a_rule_beyond_the_limits_opens_nothing_and_names_the_limit(
    spec: dict[str, Any], limits: dict[str, Any], reason: Reason, says: str
) -> None:
    found = at(1, rule(**spec), server=server(limits=limits))
    assert (found.phase, found.reason, found.grant) == (AccessPhase.REJECTED, reason, None)
    assert says in found.message


def test_a_rule_at_the_limits_opens() -> None:
    widest = rule(ttl="168h", cidrs=["10.0.0.0/24", "2001:db8::/64"])
    assert at(1, widest).phase is AccessPhase.OPEN


def test_a_rejected_rule_opens_when_the_limit_is_raised() -> None:
    long = rule(ttl="169h")
    assert not at(1, long).closed
    assert at(1, long, server=server(limits={"maxTTL": "200h"})).phase is AccessPhase.OPEN


@pytest.mark.parametrize("closed", [False, True])
def test_there_is_a_grant_exactly_when_the_rule_is_open(closed: bool) -> None:
    for found in (rule(), rule(revoked=True), rule(ttl="1s"), rule(cidrs=["10.0.0.0/8"])):
        for world in ({}, {"tenant": None}, {"server": None}, {"tenant": tenant(ready=False)}):
            verdict = at(5, found, closed=closed, **world)
            assert (verdict.grant is not None) == (verdict.phase is AccessPhase.OPEN)
            assert verdict.deadline == deadline_of(found)


def test_a_clock_that_was_set_back_closes_nothing_that_is_open() -> None:
    opened = {"openedAt": rfc3339(NOW)}
    begun = rule(startsAt=rfc3339(NOW), status=opened)
    assert decide(begun, tenant(), server(), NOW - HOUR).phase is AccessPhase.OPEN
    assert decide(rule(), tenant(), server(), NOW - HOUR).phase is AccessPhase.OPEN
    assert decide(rule(startsAt=rfc3339(NOW)), tenant(), server(), NOW - HOUR).reason is Reason.NOT_YET


@pytest.mark.parametrize(
    ("trusted", "cidr", "overlap"),
    [
        ({"trusted": {"addresses": ["203.0.113.7"]}}, "203.0.113.7/32", "203.0.113.7/32"),
        ({"trusted": {"addresses": ["203.0.113.7"]}}, "203.0.113.0/24", "203.0.113.7/32"),
        ({"trusted": {"addresses": ["2001:db8::7"]}}, "2001:db8::/64", "2001:db8::7/128"),
        ({"trustedCIDRs": ["203.0.112.0/20"]}, "203.0.113.7/32", "203.0.112.0/20"),
    ],
)
def test_a_rule_for_a_source_that_the_kernel_lets_in_anyway_is_rejected(
    trusted: dict[str, Any], cidr: str, overlap: str
) -> None:
    found = decide(rule(cidrs=["198.51.100.9/32", cidr]), tenant(), server(**trusted), NOW)
    assert (found.phase, found.reason, found.grant) == (AccessPhase.REJECTED, Reason.TRUSTED_SOURCE, None)
    assert f"spec.cidrs[1] {cidr} overlaps {overlap}" in found.message
    assert decide(rule(cidrs=["198.51.100.9/32"]), tenant(), server(**trusted), NOW).grant is not None
