"""The lock table is never full: how soon it is looked at again, who ends when it fills, and that the sum fits."""

from collections import Counter
from datetime import timedelta
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import NOW, SECOND

from vaultbrix.agent.watchdog.decisions import (
    HELD_OFF,
    Backend,
    Limit,
    Locks,
    Owner,
    Sight,
    endings,
    may_be_beyond,
    tenants_of,
)
from vaultbrix.agent.watchdog.lock_table import (
    ENOUGH_ROOM,
    FEWEST_SEEN,
    LONGEST_PAUSE,
    SEEN_AGAIN,
    SHORTEST_PAUSE,
    TAKEN_PER_SECOND,
    locks_per_transaction,
    most_to_see,
    most_until_told,
    pause,
    tenants_part,
)
from vaultbrix.api.limits import Limits

LIMITS = Limits.model_validate({"session": {"maxLocks": 10_000}})
ROOM = 204_800
OWNERS = {f"tenant_{letter}": Owner(f"team/{letter}") for letter in "abcdefgh"}


def backend(pid: int, login: str, locks: int, started: timedelta = timedelta(0)) -> Backend:
    return Backend(pid, login, ip_address("203.0.113.7"), NOW + started, locks=locks)


@given(st.integers(ENOUGH_ROOM, 10_000_000), st.floats(0, 1))
def test_what_can_be_taken_until_the_takers_are_told_to_end_fits(room: int, part: float) -> None:
    seen = int(part * tenants_part(room))
    assert most_until_told(seen, room) <= room


def test_less_room_would_not_be_enough() -> None:
    assert most_until_told(tenants_part(ENOUGH_ROOM - 2_000), ENOUGH_ROOM - 2_000) > ENOUGH_ROOM - 2_000


@given(st.integers(0, 2_000_000), st.integers(1, 2_000_000))
def test_the_next_look_comes_before_half_is_full_and_never_too_often(seen: int, room: int) -> None:
    seconds = pause(seen, room)
    assert seconds >= SHORTEST_PAUSE
    assert seconds <= LONGEST_PAUSE or seen * 0.6e-6 == seconds
    if room >= ENOUGH_ROOM and seen <= tenants_part(room):
        assert seen + TAKEN_PER_SECOND * seconds <= room // 2 + 1


@given(st.integers(0, 10_000_000), st.integers(1, 50_000_000))
def test_looks_read_as_much_as_there_was_and_soon_all_of_it(seen: int, there: int) -> None:
    most, read = most_to_see(seen), 0
    assert most >= max(seen, FEWEST_SEEN)
    while most <= there:
        read += most
        most *= SEEN_AGAIN
    assert read <= there * SEEN_AGAIN / (SEEN_AGAIN - 1)


@given(st.integers(1, 10_000))
def test_the_remedy_that_is_told_is_enough(slots: int) -> None:
    assert locks_per_transaction(slots) * slots >= ENOUGH_ROOM
    assert (locks_per_transaction(slots) - 1) * slots < ENOUGH_ROOM


sessions_of_tenants = st.lists(
    st.tuples(st.sampled_from(sorted(OWNERS)), st.integers(17, 30_000)), max_size=40
).map(lambda drawn: [backend(pid, login, locks) for pid, (login, locks) in enumerate(drawn, 1)])  # fmt: skip


@given(sessions_of_tenants, st.integers(ENOUGH_ROOM, 1_000_000))
def test_afterwards_all_tenants_together_hold_no_more_than_they_may(backends: list[Backend], room: int) -> None:
    found = endings(Sight(NOW, tuple(backends)), OWNERS, LIMITS, room)
    gone = {e.backend.pid for e in found}
    held = Counter[str]()
    for b in backends:
        held[b.login] += b.locks * (b.pid not in gone)
    assert sum(held.values()) <= tenants_part(room)
    assert all(count <= 10_000 for count in held.values())


@given(sessions_of_tenants)
def test_within_the_tenants_limit_nobody_ends_while_there_is_room(backends: list[Backend]) -> None:
    totals = Counter[str]()
    for b in backends:
        totals[b.login] += b.locks
    within = [b for b in backends if totals[b.login] <= 10_000]
    room = 4 * sum(b.locks for b in within) + 4
    assert endings(Sight(NOW, tuple(within)), OWNERS, LIMITS, room) == []


@given(sessions_of_tenants, st.integers(0, 2**32))
def test_a_part_of_the_locks_ends_nobody_whom_all_of_them_would_spare(backends: list[Backend], seed: int) -> None:
    """What a look that was cut short sees of each session is anything up to what it holds."""
    parts = [backend(b.pid, b.login, b.locks * (seed >> b.pid % 32 & 1)) for b in backends]
    seen = sum(b.locks for b in parts)
    totals = Counter[str]()
    for b in backends:
        totals[b.login] += b.locks
    room = max(ENOUGH_ROOM, 8 * sum(totals.values()))
    found = endings(Sight(NOW, tuple(parts), locks_seen=seen), OWNERS, LIMITS, room)
    assert all(totals[e.backend.login] > 10_000 for e in found)


def test_of_a_tenant_beyond_its_limit_less_stays_where_only_a_part_was_seen() -> None:
    """A tenth of a full table was seen, so a tenth of the limit may stay, and the rest is within it surely."""
    backends = (backend(1, "tenant_a", 12_000), backend(2, "tenant_a", 5_000), backend(3, "tenant_a", 900))
    (whole,) = endings(Sight(NOW, backends), OWNERS, LIMITS, ROOM)
    assert whole.backend.pid == 1
    part = endings(Sight(NOW, backends, locks_seen=ROOM // 10), OWNERS, LIMITS, ROOM)
    assert {e.backend.pid for e in part} == {1, 2}
    assert part[0].message == ("at least 12,000 locks, at least 17,900 with the tenant's other sessions (limit 10,000)")


def test_of_tenants_within_their_limits_the_one_with_most_ends_where_they_hold_too_much_together() -> None:
    backends = tuple(backend(pid, f"tenant_{letter}", 9_000 + pid) for pid, letter in enumerate("abcdef", 1))
    (ending,) = endings(Sight(NOW, backends), OWNERS, LIMITS, ROOM)
    assert (ending.backend.login, ending.limit) == ("tenant_f", Limit.LOCK_TABLE)
    assert ending.message == (
        "9,006 locks, 9,006 with the tenant's other sessions, while all tenants hold 54,021 (limit 51,200)"
    )
    assert endings(Sight(NOW, backends[:5]), OWNERS, LIMITS, ROOM) == []


def test_a_limit_beyond_the_room_is_what_the_admin_wants() -> None:
    limits = Limits.model_validate({"session": {"maxLocks": 10_000_000}})
    assert endings(Sight(NOW, (backend(1, "tenant_a", 200_000),)), OWNERS, limits, ROOM) == []


def come_back(told_before: timedelta, earlier: int = 60_000) -> set[int]:
    """Who ends while a session holds ``earlier`` locks that was told to end so long ago."""
    dying = backend(1, "tenant_a", earlier)
    at = NOW + 60 * SECOND
    told = {dying.identity: at - told_before}
    live = (
        backend(2, "tenant_a", 900),
        backend(3, "tenant_a", 20, started=61 * SECOND),
        backend(4, "tenant_a", 0, started=61 * SECOND),
        backend(5, "tenant_b", 9_000, started=61 * SECOND),
    )
    return {e.backend.pid for e in endings(Sight(at, (dying, *live)), OWNERS, LIMITS, ROOM, told)}


def test_who_comes_back_while_what_it_held_is_still_there_takes_nothing_more() -> None:
    """Only sessions that are new, of the same tenant, and have locks."""
    assert come_back(SECOND) == {3}


def test_a_tenant_is_held_off_for_a_short_while_only() -> None:
    assert come_back(HELD_OFF + SECOND) == set()
    assert come_back(SECOND, earlier=9_000) == set()


@given(sessions_of_tenants, st.sets(st.integers(1, 40)), st.integers(ENOUGH_ROOM, 1_000_000))
def test_whoever_would_end_is_looked_for(backends: list[Backend], unknown: set[int], room: int) -> None:
    """Though some began after sessions were last looked at."""
    earlier = Sight(NOW, tuple(b for b in backends if b.pid not in unknown))
    locks = Locks(sum(b.locks for b in backends), {b.pid: b.locks for b in backends})
    found = endings(Sight(NOW, tuple(backends)), OWNERS, LIMITS, room)
    assert may_be_beyond(locks, tenants_of(earlier, OWNERS, {}), LIMITS, room) or not found


def test_an_admin_with_many_locks_is_not_looked_for_again_and_again() -> None:
    stuck = backend(2, "tenant_a", 50_000)
    sight = Sight(NOW, (backend(1, "postgres", 80_000), stuck))
    known = tenants_of(sight, OWNERS, {stuck.identity: NOW - 2 * HELD_OFF})
    assert not may_be_beyond(Locks(130_000, {1: 80_000, 2: 50_000}), known, LIMITS, ROOM)
    assert may_be_beyond(Locks(130_000, {1: 80_000, 2: 50_000}), tenants_of(sight, OWNERS, {}), LIMITS, ROOM)
    assert may_be_beyond(Locks(91_000, {1: 80_000, 3: 11_000}), known, LIMITS, ROOM)
