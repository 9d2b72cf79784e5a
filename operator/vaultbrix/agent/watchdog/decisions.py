"""Decides which sessions of tenants end because they take more than their server's limits allow, and why. Pure."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from vaultbrix.api.limits import Limits
from vaultbrix.audit.flow.report import LoudSession
from vaultbrix.grants.state import AgentState
from vaultbrix.runtime.addresses import Address
from vaultbrix.runtime.durations import span

# PostgreSQL warns from a half on, and when the queue is full no NOTIFY of anybody commits (PostgreSQL, NOTIFY).
FULLEST_QUEUE = 0.5
# A listener takes what it was notified of as its transaction ends: one that has just begun holds nothing up.
QUEUE_AGE = timedelta(seconds=10)


class Limit(StrEnum):
    """What a session may be beyond: a field of PostgresServer's spec.limits, or the queue that has no such field."""

    LOCKS = "session.maxLocks"
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


@dataclass(frozen=True)
class Sight:
    """All sessions at one moment. ``notify_queue``: how full the queue of notifications is, 0 to 1."""

    at: datetime
    backends: tuple[Backend, ...]
    notify_queue: float = 0.0


@dataclass(frozen=True)
class Room:
    """What PostgreSQL has for all together: locks, and connections of whoever is no superuser."""

    locks: int
    connections: int
    sees_sessions: bool
    """Whether the agent's role may see what sessions of others do, as a migration of the gate grants it."""
    lists_temp_files: bool
    """Whether it may list temporary files, as a later migration grants it."""


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
    sight: Sight, owners: Mapping[str, Owner], limits: Limits, told: Collection[tuple[int, datetime]] = ()
) -> list[Ending]:
    """Return the sessions to end, the most urgent first; each once, for the first limit that it is beyond.

    ``owners`` maps logins to their owner; a session of any other login is nobody's to end. ``told`` are sessions, as
    (pid, start), that were told to end and are on their way: what they hold counts no more.
    """
    live = [b for b in sight.backends if b.login in owners and (b.pid, b.started_at) not in told]
    found: dict[int, Ending] = {}
    for limit, beyond in (
        (Limit.LOCKS, _beyond_locks),
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


def unkept(limits: Limits, room: Room) -> list[str]:
    """Return what the limits of a server promise and PostgreSQL has no room for, each with its remedy."""
    problems = []
    locks, connections = limits.session.max_locks, limits.max_connections_per_tenant
    if locks > room.locks // 2:
        problems.append(
            f"limits.{Limit.LOCKS} {locks:,} is more than half of the {room.locks:,} locks that PostgreSQL has room "
            "for: lower it, or raise max_locks_per_transaction"
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


def _beyond_locks(backends: list[Backend], owners: Mapping[str, Owner], limits: Limits, _: Sight) -> _Found:
    most = limits.session.max_locks
    return _largest(backends, owners, lambda b: b.locks, most, lambda count: f"{count:,}", "locks")


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
) -> Iterator[tuple[Backend, str]]:
    """Of each tenant with more than ``most`` of something, the sessions that have most, until the rest is within."""
    for of_tenant in _by_tenant(backends, owners):
        total = sum(measure(b) for b in of_tenant)
        for backend in sorted(of_tenant, key=lambda b: (-measure(b), b.pid)):
            if total <= most:
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
