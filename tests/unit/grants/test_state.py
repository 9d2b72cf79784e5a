from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, NOW, SECOND, approval, rule, server, tenant

from vaultbrix.agent.decisions import attribute_logins, decide_tenant, end_due, follow_server, forget_gone
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.decisions import login_name
from vaultbrix.grants.state import HISTORY, SLACK, AgentState, Attribution, Snapshot, StateChange
from vaultbrix.runtime.addresses import Address

JANE = ip_address("203.0.113.7")
EMPTY = Snapshot(server="main")


def after(kept: Snapshot, now: datetime, *decide: Callable[[AgentState], list[StateChange]]) -> Snapshot:
    """The state as it is kept, after some decisions."""
    state = AgentState.of(kept)
    for decision in decide:
        for change in decision(state):
            state.apply(change)
    return state.snapshot("", now)


def advance(
    kept: Snapshot,
    rules: Iterable[AccessRule] = (),
    *,
    now: datetime = NOW,
    tenants: Iterable[Tenant] | None = None,
    on: PostgresServer | None = None,
    approvals: Iterable[DDLApproval] = (),
) -> Snapshot:
    """All that an agent decides when everything was touched."""
    known = {t.key: t for t in (tenants if tenants is not None else [tenant()])}
    found, place, waiting = list(rules), on or server(), list(approvals)
    acme = known.get(("team", "acme"))
    decisions: list[Callable[[AgentState], list[StateChange]]] = [
        lambda state: follow_server(state, place, frozenset()),
        lambda state: decide_tenant(state, ("team", "acme"), found, acme, place, now)[0],
        lambda state: forget_gone(state, state.closed - {r.metadata.uid for r in found}),
    ]
    decisions += [
        lambda state, one=one: attribute_logins(state, one, known.get(("team", "acme")), now, gone=False)
        for one in waiting
    ]
    return after(kept, now, *decisions)


def expire(kept: Snapshot, now: datetime) -> Snapshot:
    return after(kept, now, lambda state: end_due(state, list(state.grants), now))


def uids(state: Snapshot) -> list[str]:
    return sorted(g.uid for g in state.grants)


def person(kept: Snapshot, role: str, address: Address | None, at: datetime) -> Attribution:
    return AgentState.of(kept).attribute(role, address, at)


def test_an_open_rule_is_remembered_with_the_time_it_opened() -> None:
    opened = advance(EMPTY, [rule()], now=NOW + SECOND)
    later = advance(opened, [rule()], now=NOW + HOUR)
    assert uids(later) == ["uid-jane"]
    assert later.grants[0].opened_at == NOW + SECOND
    assert later == opened


def test_the_state_is_the_same_whatever_the_order_of_the_rules() -> None:
    rules = [rule("a"), rule("b"), rule("c")]
    assert set(advance(EMPTY, rules).grants) == set(advance(EMPTY, reversed(rules)).grants)


def test_rules_of_other_servers_are_left_to_their_agents() -> None:
    found = advance(EMPTY, [rule()], tenants=[tenant(serverRef={"name": "other"})])
    assert found.grants == ()


def test_a_rule_ends_at_its_deadline_without_the_api_server() -> None:
    opened = advance(EMPTY, [rule(ttl="10s"), rule("bob", ttl="20s")])
    assert expire(opened, NOW + 9 * SECOND) == opened
    ended = expire(opened, NOW + 10 * SECOND)
    assert uids(ended) == ["uid-bob"]
    assert ended.closed == {"uid-jane"}
    assert [(g.uid, g.ended_at) for g in ended.ended] == [("uid-jane", NOW + 10 * SECOND)]


def test_a_rule_that_expired_stays_closed_when_the_clock_jumps_back() -> None:
    ended = expire(advance(EMPTY, [rule(ttl="10s")]), NOW + 10 * SECOND)
    assert advance(ended, [rule(ttl="10s")], now=NOW).grants == ()
    assert advance(advance(ended, [rule(ttl="10s")], now=NOW), [rule(ttl="10s")], now=NOW).grants == ()


def test_a_rule_that_ended_stays_closed_when_its_deadline_is_moved() -> None:
    ended = advance(EMPTY, [rule(expiresAt="2026-12-01T12:00:10Z")], now=NOW + 10 * SECOND)
    moved = rule(expiresAt="2026-12-01T18:00:00Z")
    assert advance(ended, [moved], now=NOW + 11 * SECOND).grants == ()


def test_a_revoked_rule_closes_at_once_and_stays_closed() -> None:
    revoked = advance(advance(EMPTY, [rule()]), [rule(revoked=True)], now=NOW + SECOND)
    assert revoked.grants == ()
    assert revoked.closed == {"uid-jane"}
    assert advance(revoked, [rule()], now=NOW + 2 * SECOND).grants == ()


def test_a_deleted_rule_closes_and_one_created_again_is_another() -> None:
    gone = advance(advance(EMPTY, [rule()]), [], now=NOW + SECOND)
    assert (gone.grants, gone.closed) == ((), frozenset())
    again = rule(metadata={"uid": "uid-again"})
    assert uids(advance(gone, [again], now=NOW + 2 * SECOND)) == ["uid-again"]


def test_a_closed_rule_stays_closed_while_its_tenant_is_gone() -> None:
    ended = expire(advance(EMPTY, [rule(ttl="10s")]), NOW + 10 * SECOND)
    without = advance(ended, [rule(ttl="10s")], now=NOW, tenants=[])
    assert advance(without, [rule(ttl="10s")], now=NOW).grants == ()


def test_a_closed_rule_stays_closed_while_its_tenant_is_on_another_server() -> None:
    ended = expire(advance(EMPTY, [rule(ttl="10s")]), NOW + 10 * SECOND)
    elsewhere = advance(ended, [rule(ttl="10s")], now=NOW, tenants=[tenant(serverRef={"name": "other"})])
    assert advance(elsewhere, [rule(ttl="10s")], now=NOW).grants == ()


def test_a_suspended_tenant_closes_its_rules_and_opens_them_again_afterwards() -> None:
    opened = advance(EMPTY, [rule()])
    suspended = advance(opened, [rule()], now=NOW + SECOND, tenants=[tenant(suspended=True)])
    assert (suspended.grants, suspended.closed) == ((), frozenset())
    assert uids(advance(suspended, [rule()], now=NOW + 2 * SECOND)) == ["uid-jane"]


def test_without_its_server_object_nothing_is_open_and_the_trusted_addresses_stay() -> None:
    opened = advance(EMPTY, [rule()], on=server(trustedCIDRs=["10.0.0.0/16"], database="app"))
    without = after(
        opened,
        NOW + SECOND,
        lambda state: follow_server(state, None, None),
        lambda state: decide_tenant(state, ("team", "acme"), [rule()], tenant(), None, NOW + SECOND)[0],
    )
    assert (without.grants, without.trusted, without.database) == ((), ("10.0.0.0/16",), "app")


def test_the_state_survives_the_disk() -> None:
    state = advance(expire(advance(EMPTY, [rule(ttl="1s")]), NOW + HOUR), [rule("bob")], approvals=[approval()])
    assert Snapshot.model_validate_json(state.model_dump_json()) == state
    assert state.grants[0].deadline == NOW + 2 * HOUR


def test_an_ended_grant_is_remembered_for_as_long_as_a_shipper_may_be_away() -> None:
    first = advance(advance(EMPTY, [rule("a")]), [], now=NOW + SECOND)
    second = advance(advance(first, [rule("b")], now=NOW + HOUR), [], now=NOW + HOUR)
    assert [g.uid for g in second.ended] == ["uid-a", "uid-b"]
    late = NOW + SECOND + HISTORY
    fresh = rule("c", metadata={"creationTimestamp": late.isoformat()})
    third = advance(advance(second, [fresh], now=late), [], now=late)
    assert [g.uid for g in third.ended] == ["uid-b", "uid-c"]


@given(st.lists(st.tuples(st.integers(-5, 30), st.booleans()), max_size=15))
def test_a_rule_that_was_closed_never_opens_again_whatever_the_clock_does(steps: list[tuple[int, bool]]) -> None:
    state, was_closed = EMPTY, False
    for seconds, connected in steps:
        now = NOW + timedelta(seconds=seconds)
        state = advance(state, [rule(ttl="10s")], now=now) if connected else expire(state, now)
        was_closed = was_closed or "uid-jane" in state.closed
        assert not (was_closed and state.grants)
        assert all(g.deadline > now for g in state.grants)


class TestNames:
    """Whom a log line is about."""

    def test_a_person_is_named_by_role_address_and_time(self) -> None:
        state = advance(EMPTY, [rule()])
        assert person(state, "tenant_acme", JANE, NOW) == Attribution("team/acme", "jane@example.com", "team/jane")

    @pytest.mark.parametrize(
        ("role", "address"),
        [("tenant_beta", "203.0.113.7"), ("tenant_acme", "203.0.113.8"), ("tenant_acme", "2001:db8::1")],
    )
    def test_what_no_grant_explains_stays_unknown(self, role: str, address: str) -> None:
        assert person(advance(EMPTY, [rule()]), role, ip_address(address), NOW) == Attribution()

    def test_a_session_over_the_unix_socket_stays_unknown(self) -> None:
        assert person(advance(EMPTY, [rule()]), "tenant_acme", None, NOW) == Attribution()

    def test_the_last_lines_of_an_ended_session_are_still_named_and_later_ones_are_not(self) -> None:
        ended = advance(advance(EMPTY, [rule()]), [], now=NOW + HOUR)
        assert person(ended, "tenant_acme", JANE, NOW + HOUR + SLACK).person == "jane@example.com"
        assert person(ended, "tenant_acme", JANE, NOW + HOUR + SLACK + SECOND) == Attribution()
        assert person(ended, "tenant_acme", JANE, NOW - SLACK - SECOND) == Attribution()

    def test_several_people_behind_one_address_are_all_named(self) -> None:
        bob = rule("bob", requestedBy="bob@example.com", cidrs=["203.0.113.0/24"])
        found = person(advance(EMPTY, [rule(), bob]), "tenant_acme", JANE, NOW)
        assert found == Attribution("team/acme", "bob@example.com, jane@example.com", "team/bob, team/jane")

    def test_a_one_time_login_names_its_approval_from_anywhere_at_any_time(self) -> None:
        state = advance(EMPTY, approvals=[approval(metadata={"uid": "0a1b2c3d-4e5f"})])
        login = login_name("0a1b2c3d-4e5f")
        expected = Attribution("team/acme", "jane@example.com", "team/drop")
        assert person(state, login, None, NOW) == person(state, login, JANE, NOW + HOUR) == expected

    def test_approvals_of_other_servers_and_of_tenants_unknown_name_nobody(self) -> None:
        assert advance(EMPTY, approvals=[approval()], tenants=[]).logins == {}
        elsewhere = [tenant(serverRef={"name": "other"})]
        assert advance(EMPTY, approvals=[approval()], tenants=elsewhere).logins == {}
