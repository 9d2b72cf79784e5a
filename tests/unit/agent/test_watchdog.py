"""Which sessions the watchdog ends, which never, and what it says of them."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND, grant, rule, server

from vaultbrix.agent.decisions import follow_server
from vaultbrix.agent.watchdog.decisions import Backend, Limit, Owner, Room, Sight, endings, owner_of, unkept, with_log
from vaultbrix.agent.watchdog.tally import MOST_ENDS, RuleEnds, Tally
from vaultbrix.api.limits import Limits
from vaultbrix.audit.flow.report import LoudSession
from vaultbrix.grants.file import GrantsFile, load
from vaultbrix.grants.state import AgentState, GrantRecord, LoginRecord, LoginSeen, Opened, applied

LIMITS = Limits.model_validate(
    {
        "maxConnectionsPerTenant": 3,
        "session": {"maxLocks": 1000, "maxTempSpace": "100Mi", "maxTransactionAge": "1h", "maxLogPerMinute": "200Mi"},
    }
)
MIB = 2**20
ROOM = 204_800
OWNERS = {
    "tenant_a": Owner("team/a"),
    "tenant_a_r_0123456789": Owner("team/a"),
    "vaultbrix_rest_a": Owner("team/a"),
    "vaultbrix_job_1": Owner("team/a", job=True),
    "tenant_b": Owner("team/b"),
}
NOBODY = ("postgres", "vaultbrix_agent", "vaultbrix_listener", "tenant_gone")


def backend(pid: int, login: str = "tenant_a", **measured: object) -> Backend:
    values = {"address": ip_address("203.0.113.7"), "started_at": NOW + pid * SECOND, **measured}
    return Backend(pid, login, **values)  # type: ignore[arg-type]  # what a test says is special


def ended(*backends: Backend, queue: float = 0.0, told: set[int] | None = None) -> dict[int, tuple[Limit, str]]:
    gone = {b.identity: NOW + HOUR - SECOND for b in backends if b.pid in (told or ())}
    found = endings(Sight(NOW + HOUR, backends, queue), OWNERS, LIMITS, ROOM, gone)
    return {e.backend.pid: (e.limit, e.message) for e in found}


def test_a_session_with_too_many_locks_ends_and_says_how_many() -> None:
    assert ended(backend(1, locks=200_000), backend(2, locks=1000, login="tenant_b")) == {
        1: (Limit.LOCKS, "200,000 locks (limit 1,000)")
    }


def test_of_sessions_that_together_have_too_many_locks_the_largest_end_until_the_rest_is_within() -> None:
    found = ended(backend(1, locks=400), backend(2, locks=700, login="tenant_a_r_0123456789"), backend(3, locks=500))
    assert found == {2: (Limit.LOCKS, "700 locks, 1,600 with the tenant's other sessions (limit 1,000)")}


def test_a_session_that_floods_the_log_ends_and_no_other_that_had_its_process_id() -> None:
    loud = [
        LoudSession(pid=1, started_at=NOW + SECOND, role="tenant_a", minute=NOW, bytes=300 * MIB),
        LoudSession(pid=2, started_at=NOW, role="tenant_b", minute=NOW, bytes=300 * MIB),
        LoudSession(pid=9, started_at=NOW, role="tenant_b", minute=NOW, bytes=300 * MIB),
    ]
    fraction = timedelta(milliseconds=700)
    backends = (
        backend(1, started_at=NOW + SECOND + fraction), backend(2, "tenant_b"), backend(3, locks=3)
    )  # fmt: skip
    sight = with_log(Sight(NOW + HOUR, backends), loud)
    found = [(e.backend.pid, e.limit, e.message) for e in endings(sight, OWNERS, LIMITS, ROOM)]
    assert found == [(1, Limit.LOG, "300 MiB of log in a minute (limit 200 MiB)")]
    assert with_log(Sight(NOW, backends), []).backends == backends


def test_what_a_session_holds_that_is_on_its_way_out_costs_no_other_its_life() -> None:
    assert ended(backend(1, locks=200_000), backend(2, locks=900), told={1}) == {}


def test_temporary_files_count_together() -> None:
    assert ended(backend(1, temp_bytes=60 * MIB), backend(2, temp_bytes=70 * MIB)) == {
        2: (Limit.TEMP_SPACE, "70 MiB temporary files, 130 MiB with the tenant's other sessions (limit 100 MiB)")
    }


def test_a_transaction_that_is_too_old_ends_but_not_that_of_an_approved_text() -> None:
    old = NOW - HOUR
    assert ended(
        backend(1, transaction_at=old),
        backend(2, transaction_at=NOW),
        backend(3),
        backend(4, login="vaultbrix_job_1", transaction_at=old),
    ) == {1: (Limit.TRANSACTION_AGE, "a transaction open for 2h00m (limit 1h00m)")}


def test_the_newest_connections_beyond_the_limit_end_whichever_login_they_have() -> None:
    # The Job's session is the newest, and stays.
    found = ended(
        backend(1),
        backend(5, login="tenant_a_r_0123456789"),
        backend(2, login="vaultbrix_rest_a"),
        backend(4),
        backend(6, login="vaultbrix_job_1"),
        *(backend(10 + n, login="tenant_b") for n in range(3)),
    )
    assert found == dict.fromkeys((5, 4), (Limit.CONNECTIONS, "5 connections (limit 3)"))


def test_while_the_queue_of_notifications_is_too_full_the_oldest_transaction_of_a_tenant_ends() -> None:
    backends = (
        backend(1, transaction_at=NOW + 50 * MINUTE),
        backend(2, login="tenant_b", transaction_at=NOW + 30 * MINUTE),
        backend(3, login="postgres", transaction_at=NOW),
        backend(4, login="vaultbrix_job_1", transaction_at=NOW),
    )
    assert ended(*backends, queue=0.49) == {}
    ((pid, (limit, message)),) = ended(*backends, queue=0.53).items()
    assert (pid, limit) == (2, Limit.NOTIFY_QUEUE)
    assert "53% full (limit 50%)" in message
    assert "open for 30m" in message
    just_begun = backend(1, transaction_at=NOW + HOUR - SECOND)
    assert ended(just_begun, queue=0.9) == {}


def test_a_session_beyond_two_limits_ends_once_and_counts_for_no_third() -> None:
    found = ended(backend(4, locks=5000, temp_bytes=900 * MIB), backend(1), backend(2), backend(3))
    assert {pid: limit for pid, (limit, _) in found.items()} == {4: Limit.LOCKS}


backends_of_anybody = st.lists(
    st.builds(
        lambda pid, login, locks, temp, age: backend(
            pid, login, locks=locks, temp_bytes=temp * MIB, transaction_at=None if age is None else NOW + HOUR - age
        ),
        st.integers(1, 10_000),
        st.sampled_from([*OWNERS, *NOBODY]),
        st.integers(0, 3000),
        st.integers(0, 300),
        st.none() | st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=3)),
    ),
    max_size=20,
    unique_by=lambda b: b.pid,
)


@given(backends_of_anybody)
def test_afterwards_every_tenant_is_within_its_limits_and_nobody_else_was_touched(backends: list[Backend]) -> None:
    found = endings(Sight(NOW + HOUR, tuple(backends)), OWNERS, LIMITS, ROOM)
    gone = {e.backend.pid for e in found}
    assert len(gone) == len(found)
    assert all(e.backend.login in OWNERS for e in found)
    left = [b for b in backends if b.pid not in gone and b.login in OWNERS]
    locks, temp, connections = Counter[str](), Counter[str](), Counter[str]()
    for b in left:
        tenant = OWNERS[b.login].tenant
        locks[tenant] += b.locks
        temp[tenant] += b.temp_bytes
        connections[tenant] += not OWNERS[b.login].job
        assert OWNERS[b.login].job or b.transaction_at is None or NOW + HOUR - b.transaction_at <= HOUR
    assert all(count <= 1000 for count in locks.values())
    assert all(size <= 100 * MIB for size in temp.values())
    assert all(count <= 3 for count in connections.values())


@given(backends_of_anybody)
def test_who_is_within_every_limit_is_never_ended(backends: list[Backend]) -> None:
    """An oracle of its own: a tenant none of whose sums is beyond, and a session that is not old."""
    found = {e.backend.pid for e in endings(Sight(NOW + HOUR, tuple(backends)), OWNERS, LIMITS, ROOM)}
    for tenant in ("team/a", "team/b"):
        mine = [b for b in backends if b.login in OWNERS and OWNERS[b.login].tenant == tenant]
        if (
            sum(b.locks for b in mine) <= 1000
            and sum(b.temp_bytes for b in mine) <= 100 * MIB
            and len(mine) <= 3
            and all(b.transaction_at is None or b.transaction_at >= NOW for b in mine)
        ):
            assert not found & {b.pid for b in mine}


@given(backends_of_anybody, st.randoms())
def test_the_order_in_which_postgresql_shows_sessions_does_not_matter(backends: list[Backend], random: object) -> None:
    shuffled = list(backends)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' own Random
    first = endings(Sight(NOW + HOUR, tuple(backends)), OWNERS, LIMITS, ROOM)
    assert {e.backend.pid for e in first} == {
        e.backend.pid for e in endings(Sight(NOW + HOUR, tuple(shuffled)), OWNERS, LIMITS, ROOM)
    }


def test_logins_are_a_tenants_by_its_objects_whatever_memberships_say() -> None:
    state = AgentState("main")
    open_grant = grant("203.0.113.7/32", uid="uid-jane")
    state.apply(Opened(grant=GrantRecord.of(open_grant, NOW), at=NOW))
    job = LoginRecord(approval="team/drop", tenant="team/acme", requested_by="jane@example.com")
    state.apply(LoginSeen(name="vaultbrix_job_1", login=job))
    served = {"vaultbrix_rest_acme": "team/acme"}
    assert owner_of(open_grant.role, state, served) == Owner(open_grant.tenant)
    assert owner_of("vaultbrix_job_1", state, served) == Owner("team/acme", job=True)
    assert owner_of("vaultbrix_rest_acme", state, served) == Owner("team/acme")
    for login in NOBODY:
        assert owner_of(login, state, served) is None


PLENTY = Room(200_000, 95, sees_sessions=True, lists_temp_files=True, slots=100)


@pytest.mark.parametrize(
    ("room", "field"),
    [
        (replace(PLENTY, locks=3_999), "maxLocks 1,000 is more than a quarter of the 3,999"),
        (replace(PLENTY, locks=199_999), "raise max_locks_per_transaction to 2,000"),
        (replace(PLENTY, prepared=10), "max_prepared_transactions"),
        (replace(PLENTY, connections=3), "maxConnectionsPerTenant"),
        (replace(PLENTY, lists_temp_files=False), "maxTempSpace"),
        (replace(PLENTY, sees_sessions=False, lists_temp_files=False), "no limit of sessions"),
    ],
)
def test_limits_beyond_what_postgresql_has_are_told(room: Room, field: str) -> None:
    (problem,) = unkept(LIMITS, room)
    assert field in problem


def test_limits_that_postgresql_has_room_for_are_no_problem() -> None:
    assert unkept(LIMITS, PLENTY) == []


def test_the_default_limits_are_those_of_an_object_that_names_none() -> None:
    limits = server().spec.limits
    assert (limits.max_connections_per_tenant, limits.session.max_locks) == (50, 10_000)
    assert limits.session.max_temp_bytes == 2 * 2**30


def test_what_was_ended_is_counted_by_tenant_and_limit_and_by_rule_and_stays_small() -> None:
    tally = Tally("node-1")
    (ending,) = endings(Sight(NOW, (backend(1, locks=5000),)), OWNERS, LIMITS, ROOM)
    before = rule(status={"agents": [{
        "name": "node-1", "generation": 1, "hba": True, "kernel": True, "at": "2026-12-01T12:00:00Z",
        "endedByWatchdog": 2, "watchdog": "6,000 locks (limit 1,000)",
    }]})  # fmt: skip
    tally.add(ending, [before], NOW)
    tally.add(ending, [before], NOW)
    (entry,) = tally.ends
    assert (entry.tenant, entry.limit, entry.sessions) == ("team/a", "session.maxLocks", 2)
    assert tally.of_rule("uid-jane") == RuleEnds(4, "5,000 locks (limit 1,000)")
    assert tally.of_rule("uid-other") == RuleEnds()
    for number in range(3 * MOST_ENDS):
        owners = {"tenant_a": Owner(f"team/{number}")}
        tally.add(endings(Sight(NOW, (backend(1, locks=5000),)), owners, LIMITS, ROOM)[0], [], NOW)
    assert [e.tenant for e in tally.ends] == [f"team/{n}" for n in range(2 * MOST_ENDS, 3 * MOST_ENDS)]


def test_limits_are_known_to_an_agent_that_starts_while_the_api_server_is_down(tmp_path: Path) -> None:
    state, file = AgentState("main"), GrantsFile(tmp_path / "grants.json")
    changes = follow_server(state, server(limits=LIMITS.dump()), frozenset())
    file.append(state, changes, NOW)
    assert load(tmp_path / "grants.json", "main").limits == LIMITS
    assert follow_server(applied(state, changes), server(limits=LIMITS.dump()), frozenset()) == []
    assert follow_server(state, None, frozenset()) == []
    (changed,) = follow_server(state, server(limits={}), frozenset())
    assert applied(state, [changed]).limits == Limits()
