"""How long records are kept: which policies follow from the manifests, and which partitions are due. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from vaultbrix.api.audit_retention import AuditRetention
from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.audit.records import DEFAULT_DAYS
from vaultbrix.runtime.counted import counted, verb

# Tenant (namespace/name) and class of statement (pgAudit); "" is any.
Scope = tuple[str, str]


@dataclass(frozen=True)
class Policy:
    """Days to keep; whether partitions, of any policy, wait for the archive; and whether the operator wrote it."""

    days: int
    archive: bool = False
    managed: bool = False


def required_policies(servers: Sequence[PostgresServer], tenants: Iterable[Tenant]) -> dict[Scope, Policy]:
    """The policies of one store, for its servers and the tenants on them.

    What a server says holds for records of its tenants, unless they ask for longer, and of no tenant. Where servers
    differ, the longest holds for records of no tenant, and each tenant gets a policy of its own.
    """
    by_server = {server.metadata.name: _days_by_class(server.spec.audit_retention) for server in servers}
    classes = {class_ for days_by_class in by_server.values() for class_ in days_by_class if class_}
    common = {
        class_: max(
            days_by_class.get(class_, days_by_class.get("", DEFAULT_DAYS)) for days_by_class in by_server.values()
        )
        for class_ in ("", *sorted(classes))
        if any(by_server.values())
    }
    days_by_scope = {("", class_): days for class_, days in common.items()}
    for tenant in tenants:
        of_server = by_server[tenant.spec.server_ref.name]
        days_by_class = _lengthened(of_server, _days_by_class(tenant.spec.audit_retention))
        if of_server != common and any(by_server.values()) and "" not in days_by_class:
            # All of it: otherwise what the servers have in common would count.
            days_by_class = {"": DEFAULT_DAYS, **of_server, **days_by_class}
        days_by_scope.update(
            {
                (f"{tenant.metadata.namespace}/{tenant.metadata.name}", name): days
                for name, days in days_by_class.items()
            }
        )
    archive = any(s.spec.audit_retention and s.spec.audit_retention.archive_first for s in servers)
    if archive:
        days_by_scope.setdefault(("", ""), DEFAULT_DAYS)
    return {
        scope: Policy(days, archive=archive and scope == ("", ""), managed=True)
        for scope, days in days_by_scope.items()
    }


def shorter_than_server(server: PostgresServer, tenant: Tenant) -> str:
    """What of the tenant's auditRetention has no effect, since the server keeps records longer; empty where all has."""
    of_server, of_tenant = (_days_by_class(each.spec.audit_retention) for each in (server, tenant))
    ignored = [
        f"{class_ or 'days'} {days} (the PostgresServer says {_days_of(of_server, class_)})"
        for class_, days in of_tenant.items()
        if days < _days_of(of_server, class_)
    ]
    return f"of spec.auditRetention has no effect, being shorter: {', '.join(ignored)}" if ignored else ""


def _lengthened(of_server: Mapping[str, int], of_tenant: Mapping[str, int]) -> dict[str, int]:
    """What a tenant asks for, where that is longer: nobody shortens the record of what they did themselves."""
    if not of_tenant:
        return {}
    # Days of the tenant's for all classes stand before what the server says of one.
    classes = {*of_tenant, *of_server} if "" in of_tenant else set(of_tenant)
    return {class_: max(_days_of(of_server, class_), _days_of(of_tenant, class_)) for class_ in sorted(classes)}


def _days_of(days_by_class: Mapping[str, int], class_: str) -> int:
    return days_by_class.get(class_, days_by_class.get("", DEFAULT_DAYS))


def _days_by_class(retention: AuditRetention | None) -> dict[str, int]:
    return retention.by_class if retention else {}


@dataclass(frozen=True)
class Changes:
    """Policies to write to the store, and those to delete from it."""

    put: dict[Scope, Policy]
    remove: frozenset[Scope]


def changes(required: Mapping[Scope, Policy], stored: Mapping[Scope, Policy]) -> Changes:
    """From what is stored to what manifests ask for. What was set by hand stays, unless a manifest says otherwise."""
    return Changes(
        {scope: policy for scope, policy in required.items() if stored.get(scope) != policy},
        frozenset(scope for scope, policy in stored.items() if policy.managed and scope not in required),
    )


@dataclass(frozen=True)
class Partition:
    """Records of one day (UTC) that are kept so many days. ``divided`` False: all of the day's, the longest counts.

    ``archive_allows`` False: it has to be exported first.
    """

    name: str
    day: date
    keep: int
    divided: bool
    bytes: int
    archive_allows: bool = True

    @property
    def due(self) -> date:
        """From this day on (UTC), every record in it is old enough."""
        return self.day + timedelta(days=1 + self.keep)


@dataclass(frozen=True)
class Clocks:
    """Who says what time it is. ``newest`` is the youngest day with a record, None for an empty store."""

    here: datetime
    store: datetime
    newest: date | None

    @property
    def agreed(self) -> date | None:
        """The day that all of them have reached: a clock that stepped forward alone must not make anything old."""
        if self.newest is None:
            return None
        return min(self.here.astimezone(UTC).date(), self.store.astimezone(UTC).date(), self.newest)


def due(partitions: Iterable[Partition], clocks: Clocks) -> list[Partition]:
    """Partitions that may be dropped, oldest first."""
    today = clocks.agreed
    if today is None:
        return []
    return sorted((p for p in partitions if p.due <= today and p.archive_allows), key=lambda p: (p.day, p.keep))


def unexported(partitions: Iterable[Partition], clocks: Clocks) -> list[Partition]:
    """Partitions that would be due, but are not in the archive."""
    today = clocks.agreed
    return [] if today is None else [p for p in partitions if p.due <= today and not p.archive_allows]


def disagreement(partitions: Iterable[Partition], clocks: Clocks) -> list[Partition]:
    """Partitions that would be due by this process's clock, but not by the others."""
    today, here = clocks.agreed, clocks.here.astimezone(UTC).date()
    return [p for p in partitions if p.due <= here and (today is None or p.due > today)]


@dataclass(frozen=True)
class Dropped:
    """A partition that is gone, and how many rows it had."""

    partition: Partition
    rows: int


@dataclass(frozen=True)
class Outcome:
    """What a run did. Of what is due, ``held`` stay because queries held them, ``unexported`` for the archive's sake.

    ``waiting`` are due by this process's clock alone. ``quarantine`` counts lines that were erased.
    """

    dropped: Sequence[Dropped] = ()
    held: Sequence[Partition] = ()
    unexported: Sequence[Partition] = ()
    waiting: Sequence[Partition] = ()
    quarantine: int = 0


def verdict(outcome: Outcome, at: datetime) -> State:
    """Status, reason and message of AuditRetentionApplied after a run that ended at that time."""
    if outcome.held:
        message = (
            f"due, but held by a query: {_names(outcome.held)}; they go with the next run,"
            " or end the query and run: vaultbrix audit retention apply"
        )
        return State(False, Reason.HELD_BY_QUERY, message)
    if outcome.unexported:
        message = f"due, but not in the archive: {_names(outcome.unexported)}; run: vaultbrix audit export"
        return State(False, Reason.NOT_ARCHIVED, message)
    if outcome.waiting:
        message = (
            f"due by the operator's clock, but not by the store's or by its newest record: {_names(outcome.waiting)};"
            " set the clocks right, see whether the record flows"
        )
        return State(False, Reason.CLOCKS_DISAGREE, message)
    partitions, rows = len(outcome.dropped), sum(gone.rows for gone in outcome.dropped)
    dropped = (
        f"{counted(partitions, 'partition')} with {counted(rows, 'row')} {verb(partitions, 'was', 'were')} dropped"
    )
    return State(True, Reason.APPLIED, f"on {at.astimezone(UTC).date()}, {dropped}")


def _names(partitions: Sequence[Partition]) -> str:
    names = [partition.name for partition in partitions]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
