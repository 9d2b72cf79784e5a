"""Decides which sessions of tenants end because they take more than their server's limits allow, and why. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from vaultbrix.agent.watchdog.lock_table import ENOUGH_ROOM, locks_per_transaction, tenants_part
from vaultbrix.api.limits import Limits
from vaultbrix.audit.flow.report import LoudSession
from vaultbrix.grants.state import AgentState
from vaultbrix.runtime.addresses import Address
from vaultbrix.runtime.durations import span

# PostgreSQL warns from a half on, and when the queue is full no NOTIFY of anybody commits (PostgreSQL, NOTIFY).
FULLEST_QUEUE = 0.5
# A listener takes what it was notified of as its transaction ends: one that has just begun holds nothing up.
QUEUE_AGE = timedelta(seconds=10)
# A tenant is held off no longer by an ended session that does not let go of its locks.
HELD_OFF = timedelta(seconds=10)

# Process id and start.
Identity = tuple[int, datetime]


class Limit(StrEnum):
    """What a session may be beyond: a field of PostgresServer's spec.limits, or what PostgreSQL has for all."""

    LOCKS = "session.maxLocks"
    LOCK_TABLE = "lock table"
    TEMP_SPACE = "session.maxTempSpace"
    LOG = "session.maxLogPerMinute"
    TRANSACTION_AGE = "session.maxTransactionAge"
    NOTIFY_QUEUE = "notification queue"
    CONNECTIONS = "maxConnectionsPerTenant"


@dataclass(frozen=True)
class Backend:
    """A client's session as PostgreSQL shows it, of whomever; what its parallel workers hold counts as its own.

    ``address`` is None on a Unix socket, ``transaction_at`` outside a transaction. Times are by PostgreSQL's clock.
    """

    pid: int
    login: str
    address: Address | None
    started_at: datetime
    transaction_at: datetime | None = None
    locks: int = 0
    temp_bytes: int = 0
    log_bytes: int = 0
    """What it wrote into PostgreSQL's log within a minute of the last two."""

    @property
    def identity(self) -> Identity:
        """What no other session of this server has."""
        return (self.pid, self.started_at)


@dataclass(frozen=True)
class Locks:
    """The locks that there are at one moment, and those of each process that holds many.

    Where they are not ``complete`` there are more of them, of whomever: then every number is the least that it can be.
    """

    total: int
    by_process: Mapping[int, int]
    complete: bool = True


@dataclass(frozen=True)
class Sight:
    """All sessions at one moment. ``notify_queue``: how full the queue of notifications is, 0 to 1.

    ``locks_seen`` is None where all locks were seen, else how many of the more that there are.
    """

    at: datetime
    backends: tuple[Backend, ...]
    notify_queue: float = 0.0
    locks_seen: int | None = None


@dataclass(frozen=True)
class Room:
    """What PostgreSQL has for all together: locks, and connections of whoever is no superuser."""

    locks: int
    """As many as it promises; it finds memory for some more."""
    connections: int
    sees_sessions: bool
    """Whether the agent's role may see what sessions of others do, as a migration of the gate grants it."""
    lists_temp_files: bool
    """Whether it may list temporary files, as a later migration grants it."""
    slots: int
    """Each has room for max_locks_per_transaction locks: max_connections and prepared transactions."""
    prepared: int = 0
    """max_prepared_transactions."""


@dataclass(frozen=True)
class Owner:
    """Whose a login is: namespace/name of a Tenant. ``job``: it runs the approved text of a DDLApproval."""

    tenant: str
    job: bool = False


@dataclass(frozen=True)
class Ending:
    """A session that has to end: the limit that it is beyond, and what was measured."""

    backend: Backend
    owner: Owner
    limit: Limit
    message: str


def owner_of(login: str, state: AgentState, served: Mapping[str, str]) -> Owner | None:
    """Return whose sessions a login's are, None for whoever is no tenant: an admin, operator, agent.

    That rests on objects alone, since a tenant could make another one a member of its role. A login of direct access
    that no grant covers is ended by the layer of sessions. ``served`` maps logins of the data API to Tenants.
    """
    if (job := state.logins.get(login)) is not None:
        return Owner(job.tenant, job=True)
    if (tenant := state.tenant_of(login) or served.get(login)) is not None:
        return Owner(tenant)
    return None


def with_log(sight: Sight, loud: Iterable[LoudSession]) -> Sight:
    """Return the sight with what a shipper says of sessions that wrote much into the log.

    The log names a session by its process id and by its start in whole seconds.
    """
    written = {(session.pid, int(session.started_at.timestamp())): session.bytes for session in loud}
    backends = (
        replace(b, log_bytes=written.get((b.pid, int(b.started_at.timestamp())), 0)) if written else b
        for b in sight.backends
    )
    return replace(sight, backends=tuple(backends))


def endings(
    sight: Sight,
    owners: Mapping[str, Owner],
    limits: Limits,
    room: int,
    told: Mapping[Identity, datetime] = MappingProxyType({}),
) -> list[Ending]:
    """Return the sessions to end, the most urgent first; each once, for the first limit that it is beyond.

    ``owners`` maps logins to their owner; a session of any other login is nobody's to end. ``room`` is how many locks
    PostgreSQL has room for. ``told`` are sessions that were told to end, when, and are on their way: what they hold
    counts no more.
    """
    live = [b for b in sight.backends if b.login in owners and b.identity not in told]
    found = {e.backend.pid: e for e in _come_back(live, sight, owners, limits, told)}
    for limit, beyond in (
        (Limit.LOCKS, _beyond_locks(room)),
        (Limit.LOCK_TABLE, _beyond_table(room)),
        (Limit.TEMP_SPACE, _beyond_temp_space),
        (Limit.LOG, _beyond_log),
        (Limit.TRANSACTION_AGE, _beyond_age),
        (Limit.NOTIFY_QUEUE, _beyond_queue),
        (Limit.CONNECTIONS, _beyond_connections),
    ):
        remaining = [b for b in live if b.pid not in found]
        for backend, message in beyond(remaining, owners, limits, sight):
            found[backend.pid] = Ending(backend, owners[backend.login], limit, message)
    return list(found.values())


def tenants_of(sight: Sight, owners: Mapping[str, Owner], told: Mapping[Identity, datetime]) -> dict[int, str | None]:
    """Return whose each process is; None: nobody's, or one that was told to end long ago and does not."""
    return {
        b.pid: owners[b.login].tenant
        if b.login in owners and sight.at - told.get(b.identity, sight.at) <= HELD_OFF
        else None
        for b in sight.backends
    }


def may_be_beyond(locks: Locks, known: Mapping[int, str | None], limits: Limits, room: int) -> bool:
    """Whether tenants may hold more locks than they may, so that it has to be seen who they are.

    ``known`` is what the last sight said of processes. One that was not there then may be of any tenant.
    """
    held: dict[str | None, int] = defaultdict(int)
    unknown = 0
    for pid, count in locks.by_process.items():
        if pid in known:
            held[known[pid]] += count
        else:
            unknown += count
    held.pop(None, None)
    largest, all_tenants = max(held.values(), default=0) + unknown, sum(held.values()) + unknown
    return largest > limits.session.max_locks or all_tenants > _most_of_all(limits, room)


def unkept(limits: Limits, room: Room) -> list[str]:
    """Return what the limits of a server promise and PostgreSQL has no room for, each with its remedy."""
    problems = []
    locks, connections = limits.session.max_locks, limits.max_connections_per_tenant
    if locks > tenants_part(room.locks):
        problems.append(
            f"limits.{Limit.LOCKS} {locks:,} is more than a quarter of the {room.locks:,} locks that PostgreSQL has "
            "room for: lower it, or raise max_locks_per_transaction"
        )
    elif room.locks < ENOUGH_ROOM:
        problems.append(
            f"a statement may fill the {room.locks:,} locks that PostgreSQL has room for before it is seen, and others "
            f"cannot log in then: raise max_locks_per_transaction to {locks_per_transaction(room.slots):,}"
        )
    if room.prepared:
        problems.append(
            "locks of prepared transactions belong to no session that could be ended: set max_prepared_transactions "
            "to 0"
        )
    if connections >= room.connections:
        problems.append(
            f"limits.{Limit.CONNECTIONS} {connections:,} leaves nobody else one of PostgreSQL's {room.connections:,} "
            "connections: lower it, or raise max_connections"
        )
    if not room.sees_sessions:
        problems.append("no limit of sessions is watched until the operator has installed the gate")
    elif not room.lists_temp_files:
        problems.append(f"limits.{Limit.TEMP_SPACE} is not watched until the operator has updated the gate")
    return problems


_Found = Iterable[tuple[Backend, str]]
_Beyond = Callable[[list[Backend], Mapping[str, Owner], Limits, Sight], _Found]


def _beyond_locks(room: int) -> _Beyond:
    """The rest is within the limit also where not all locks were seen, and there are as many as there is room for."""

    def beyond(backends: list[Backend], owners: Mapping[str, Owner], limits: Limits, sight: Sight) -> _Found:
        most = limits.session.max_locks
        rest = most if sight.locks_seen is None else most * sight.locks_seen // max(room, sight.locks_seen)
        least = "" if sight.locks_seen is None else "at least "

        def shown(count: int) -> str:
            return f"{least if count != most else ''}{count:,}"

        return _largest(backends, owners, lambda b: b.locks, most, shown, "locks", rest)

    return beyond


def _come_back(
    live: list[Backend],
    sight: Sight,
    owners: Mapping[str, Owner],
    limits: Limits,
    told: Mapping[Identity, datetime],
) -> Iterator[Ending]:
    """Sessions with locks of a tenant that began after an earlier one was told to end, which has not let go yet.

    Else each that comes back may take as much again while those before it are still busy letting go.
    """
    most = limits.session.max_locks
    held: dict[str, int] = defaultdict(int)
    since: dict[str, datetime] = {}
    for backend in sight.backends:
        at = told.get(backend.identity)
        if at is not None and sight.at - at <= HELD_OFF and backend.login in owners:
            tenant = owners[backend.login].tenant
            held[tenant] += backend.locks
            since[tenant] = min(at, since.get(tenant, at))
    for backend in live:
        owner = owners[backend.login]
        still = held[owner.tenant]
        if backend.locks and still > most and backend.started_at > since[owner.tenant]:
            earlier = f"while {still:,} of sessions of the tenant that were ended are still there"
            yield Ending(backend, owner, Limit.LOCKS, f"{backend.locks:,} locks, {earlier} (limit {most:,})")


def _most_of_all(limits: Limits, room: int) -> int:
    """How many locks all tenants may hold together; one of them as many as its limit says, were that all there are."""
    return max(tenants_part(room), limits.session.max_locks)


def _beyond_table(room: int) -> _Beyond:
    """Of the tenants with most locks the sessions with most, while tenants together have more than they may."""

    def beyond(backends: list[Backend], owners: Mapping[str, Owner], limits: Limits, _: Sight) -> _Found:
        total, most = sum(b.locks for b in backends), _most_of_all(limits, room)
        if total <= most:
            return
        groups = {
            owners[of_tenant[0].login].tenant: sorted(of_tenant, key=lambda b: (b.locks, -b.pid))
            for of_tenant in _by_tenant(backends, owners)
        }
        sums = {tenant: sum(b.locks for b in of_tenant) for tenant, of_tenant in groups.items()}
        everything = total
        while total > most:
            tenant = max(sums, key=lambda name: (sums[name], name))
            backend = groups[tenant].pop()
            yield (
                backend,
                f"{backend.locks:,} locks, {sums[tenant]:,} with the tenant's other sessions, while all tenants hold "
                f"{everything:,} (limit {most:,})",
            )
            total -= backend.locks
            sums[tenant] -= backend.locks

    return beyond


def _beyond_temp_space(backends: list[Backend], owners: Mapping[str, Owner], limits: Limits, _: Sight) -> _Found:
    most = limits.session.max_temp_bytes
    return _largest(backends, owners, lambda b: b.temp_bytes, most, lambda size: f"{size >> 20} MiB", "temporary files")


def _beyond_log(backends: list[Backend], owners: Mapping[str, Owner], limits: Limits, _: Sight) -> _Found:
    most = limits.session.max_log_bytes
    return _largest(
        backends, owners, lambda b: b.log_bytes, most, lambda size: f"{size >> 20} MiB", "of log in a minute"
    )


def _largest(
    backends: list[Backend],
    owners: Mapping[str, Owner],
    measure: Callable[[Backend], int],
    most: int,
    shown: Callable[[int], str],
    unit: str,
    rest: int | None = None,
) -> Iterator[tuple[Backend, str]]:
    """Of each tenant with more than ``most`` of something, the sessions that have most, until ``rest`` remains.

    That is ``most`` unless said otherwise.
    """
    for of_tenant in _by_tenant(backends, owners):
        total = sum(measure(b) for b in of_tenant)
        if total <= most:
            continue
        for backend in sorted(of_tenant, key=lambda b: (-measure(b), b.pid)):
            if total <= (most if rest is None else rest):
                break
            own = measure(backend)
            others = f", {shown(total)} with the tenant's other sessions" if total != own else ""
            yield backend, f"{shown(own)} {unit}{others} (limit {shown(most)})"
            total -= own


def _beyond_age(backends: list[Backend], owners: Mapping[str, Owner], limits: Limits, sight: Sight) -> _Found:
    most = limits.session.max_transaction_age
    for backend in _transactions(backends, owners):
        age = _age(backend, sight)
        if age > most:
            yield backend, f"a transaction open for {span(age)} (limit {span(most)})"


def _beyond_queue(backends: list[Backend], owners: Mapping[str, Owner], _: Limits, sight: Sight) -> _Found:
    """The oldest transaction, while the queue is too full. PostgreSQL does not tell who listens."""
    if sight.notify_queue < FULLEST_QUEUE:
        return
    for backend in _transactions(backends, owners)[:1]:
        age = _age(backend, sight)
        if age >= QUEUE_AGE:
            full = f"{sight.notify_queue:.0%} full (limit {FULLEST_QUEUE:.0%})"
            yield backend, f"the queue is {full}, and of tenants' transactions this is the oldest, open for {span(age)}"


def _beyond_connections(backends: list[Backend], owners: Mapping[str, Owner], limits: Limits, _: Sight) -> _Found:
    most = limits.max_connections_per_tenant
    for of_tenant in _by_tenant(backends, owners):
        beyond = len(of_tenant) - most
        newest = sorted(
            (b for b in of_tenant if not owners[b.login].job), key=lambda b: (b.started_at, b.pid), reverse=True
        )
        for backend in newest[: max(0, beyond)]:
            yield backend, f"{len(of_tenant):,} connections (limit {most:,})"


def _transactions(backends: list[Backend], owners: Mapping[str, Owner]) -> list[Backend]:
    """The sessions in a transaction, the oldest first. An approved text takes the time that it takes."""
    open_ = [b for b in backends if b.transaction_at is not None and not owners[b.login].job]
    return sorted(open_, key=lambda b: (b.transaction_at or b.started_at, b.pid))


def _age(backend: Backend, sight: Sight) -> timedelta:
    return sight.at - (backend.transaction_at or sight.at)


def _by_tenant(backends: list[Backend], owners: Mapping[str, Owner]) -> Iterable[list[Backend]]:
    groups: dict[str, list[Backend]] = defaultdict(list)
    for backend in backends:
        groups[owners[backend.login].tenant].append(backend)
    return groups.values()
