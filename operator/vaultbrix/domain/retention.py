"""How long records are kept: which policies follow from the manifests, and which partitions are due. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

# Tenant (namespace/name) and class of statement (pgAudit); "" is any.
Scope = tuple[str, str]


@dataclass(frozen=True)
class Policy:
    """Days to keep, and whether the operator wrote them, from a manifest."""

    days: int
    managed: bool = False


@dataclass(frozen=True)
class Changes:
    """What to do to the store's policies."""

    put: dict[Scope, int]
    remove: frozenset[Scope]


def changes(wanted: Mapping[Scope, int], stored: Mapping[Scope, Policy]) -> Changes:
    """From what is stored to what manifests ask for. What was set by hand stays, unless a manifest says otherwise."""
    return Changes(
        {scope: days for scope, days in wanted.items() if stored.get(scope) != Policy(days, managed=True)},
        frozenset(scope for scope, policy in stored.items() if policy.managed and scope not in wanted),
    )


@dataclass(frozen=True)
class Partition:
    """Records of one day (UTC) that are kept so many days. ``divided`` False: all of the day's, the longest counts."""

    name: str
    day: date
    keep: int
    divided: bool
    bytes: int

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
    """What may be dropped, oldest first."""
    today = clocks.agreed
    if today is None:
        return []
    return sorted((p for p in partitions if p.due <= today), key=lambda p: (p.day, p.keep))


def disagreement(partitions: Iterable[Partition], clocks: Clocks) -> list[Partition]:
    """What would be due by this process's clock, but not by the others."""
    ready = due(partitions, clocks)
    return [p for p in partitions if p.due <= clocks.here.astimezone(UTC).date() and p not in ready]
