"""The agent's record: what is open, what has ended, and whom a login stands for, as a state and the changes to it.

The agent keeps it on disk and reads it back after a restart; the shipper reads it to name people.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, dataclasses

from vaultbrix.grants.grant import Grant
from vaultbrix.runtime.addresses import Address

# How long an ended grant is remembered: a shipper that was away so long no longer knows people by name.
HISTORY = timedelta(days=7)

# A session's last lines are written a moment after its grant ended.
SLACK = timedelta(seconds=5)


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True)


# Pydantic's, for what is read from disk; with slots, since there is one for each open rule.
@dataclasses.dataclass(frozen=True, slots=True)
class GrantRecord(Grant):
    """A grant as it is kept on disk. Times in UTC."""

    opened_at: datetime
    ended_at: datetime | None = None

    @classmethod
    def of(cls, grant: Grant, opened_at: datetime) -> "GrantRecord":
        """From a grant that is open since ``opened_at``."""
        return cls(**{f.name: getattr(grant, f.name) for f in fields(Grant)}, opened_at=opened_at)

    def held(self, address: Address, at: datetime) -> bool:
        """Whether it let that address in at that time."""
        return (
            self.opened_at <= at + SLACK
            and (self.ended_at is None or at <= self.ended_at + SLACK)
            and self.covers(address)
        )


class LoginRecord(_Stored):
    """A one-time login and the approval it belongs to."""

    approval: str
    tenant: str
    requested_by: str
    approved_by: str = ""
    ended_at: datetime | None = None


class Opened(_Stored):
    """A grant is open, or open on other terms than before."""

    kind: Literal["opened"] = "opened"
    grant: GrantRecord
    at: datetime


class Ended(_Stored):
    """A grant is open no more. ``final``: the rule never opens again."""

    kind: Literal["ended"] = "ended"
    uid: str
    at: datetime
    final: bool


class Closed(_Stored):
    """A rule that was not open here has ended and never opens."""

    kind: Literal["closed"] = "closed"
    uid: str


class Forgotten(_Stored):
    """An ended rule's object is gone, and so it cannot open again."""

    kind: Literal["forgotten"] = "forgotten"
    uid: str


class ServerSeen(_Stored):
    """What the PostgresServer says that matters here."""

    kind: Literal["server"] = "server"
    database: str
    trusted: tuple[str, ...]
    audit_grace: timedelta | None = None
    """How long the audit record may not flow before access is closed; None: for ever."""


class AuditSeen(_Stored):
    """How the audit record was last seen. ``complete_until`` None: it flows. ``held``: access is closed for it."""

    kind: Literal["audit"] = "audit"
    complete_until: datetime | None = None
    held: bool = False


class LoginSeen(_Stored):
    """Whom a one-time login stands for; ``login.ended_at`` once its approval is gone."""

    kind: Literal["login"] = "login"
    name: str
    login: LoginRecord


Change = Opened | Ended | Closed | Forgotten | ServerSeen | AuditSeen | LoginSeen
AnyChange = Annotated[Change, Field(discriminator="kind")]


@dataclass(frozen=True)
class Identity:
    """Whom a log line is about: Tenant, person, and the rule or approval that let them in; empty when unknown."""

    tenant: str = ""
    person: str = ""
    authorization: str = ""


class Snapshot(_Stored):
    """A whole state as it is kept on disk. ``epoch`` names the journal of changes that goes on from it."""

    server: str
    epoch: str = ""
    trusted: tuple[str, ...] = ()
    database: str = "postgres"
    audit_grace: timedelta | None = None
    audit: AuditSeen = AuditSeen()
    grants: tuple[GrantRecord, ...] = ()
    ended: tuple[GrantRecord, ...] = ()
    closed: frozenset[str] = frozenset()
    logins: dict[str, LoginRecord] = {}


@dataclass
class AgentState:
    """What is in force. ``closed`` holds uids of rules that ended and whose objects may still exist."""

    server: str
    trusted: tuple[str, ...] = ()
    database: str = "postgres"
    grants: dict[str, GrantRecord] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    logins: dict[str, LoginRecord] = field(default_factory=dict)
    audit_grace: timedelta | None = None
    audit: AuditSeen = field(default_factory=AuditSeen)
    _of_tenant: dict[str, set[str]] = field(default_factory=dict)
    _of_role: dict[str, set[str]] = field(default_factory=dict)
    _ended: dict[str, list[GrantRecord]] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot) -> "AgentState":
        """From what was kept."""
        state = cls(snapshot.server, snapshot.trusted, snapshot.database, logins=dict(snapshot.logins))
        state.closed = set(snapshot.closed)
        state.audit_grace, state.audit = snapshot.audit_grace, snapshot.audit
        for grant in snapshot.grants:
            state._open(grant)
        for grant in snapshot.ended:
            state._ended.setdefault(grant.role, []).append(grant)
        return state

    def snapshot(self, epoch: str, now: datetime) -> Snapshot:
        """As it is kept, without what ended too long ago to matter."""
        since = now - HISTORY
        for role, grants in list(self._ended.items()):
            self._ended[role] = [g for g in grants if g.ended_at is None or g.ended_at > since]
            if not self._ended[role]:
                del self._ended[role]
        self.logins = {n: login for n, login in self.logins.items() if not login.ended_at or login.ended_at > since}
        return Snapshot(
            server=self.server,
            epoch=epoch,
            trusted=self.trusted,
            database=self.database,
            audit_grace=self.audit_grace,
            audit=self.audit,
            grants=tuple(self.grants.values()),
            ended=tuple(self.ended),
            closed=frozenset(self.closed),
            logins=self.logins,
        )

    @property
    def ended(self) -> Iterator[GrantRecord]:
        """Grants that were open until lately."""
        return (grant for grants in self._ended.values() for grant in grants)

    def apply(self, change: Change) -> None:
        """Take over a change."""
        match change:
            case Opened(grant=grant, at=at):
                self._end(grant.uid, at, unless=grant)
                self._open(grant)
            case Ended(uid=uid, at=at, final=final):
                self._end(uid, at)
                if final:
                    self.closed.add(uid)
            case Closed(uid=uid):
                self.closed.add(uid)
            case Forgotten(uid=uid):
                self.closed.discard(uid)
            case ServerSeen(database=database, trusted=trusted, audit_grace=grace):
                self.database, self.trusted, self.audit_grace = database, trusted, grace
            case AuditSeen():
                self.audit = change
            case LoginSeen(name=name, login=login):
                self.logins[name] = login

    def of_tenant(self, tenant: str) -> set[str]:
        """uids of the open grants of a Tenant (namespace/name)."""
        return set(self._of_tenant.get(tenant, ()))

    def person(self, role: str, address: Address | None, at: datetime) -> Identity:
        """Who was behind a login role and an address at a time; all fields empty where it is unknown.

        Several people behind the same role and address are all named: which of them it was, nobody can tell.
        """
        if role in self.logins:
            login = self.logins[role]
            return Identity(login.tenant, login.requested_by, login.approval)
        if address is None:
            return Identity()
        candidates = [*(self.grants[uid] for uid in self._of_role.get(role, ())), *self._ended.get(role, ())]
        found = [g for g in candidates if g.held(address, at)]
        return Identity(
            tenant=", ".join(sorted({g.tenant for g in found})),
            person=", ".join(sorted({g.requested_by for g in found})),
            authorization=", ".join(sorted({g.rule for g in found})),
        )

    def turns(self, role: str) -> list[datetime]:
        """When it may change who is behind a login role, in order; between two of these times it does not."""
        known = [*(self.grants[uid] for uid in self._of_role.get(role, ())), *self._ended.get(role, ())]
        ends = [grant.ended_at + SLACK for grant in known if grant.ended_at]
        return sorted([grant.opened_at - SLACK for grant in known] + ends)

    def _open(self, grant: GrantRecord) -> None:
        self.grants[grant.uid] = grant
        self._of_tenant.setdefault(grant.tenant, set()).add(grant.uid)
        self._of_role.setdefault(grant.role, set()).add(grant.uid)

    def _end(self, uid: str, at: datetime, *, unless: GrantRecord | None = None) -> None:
        grant = self.grants.pop(uid, None)
        if grant is None:
            return
        for index, key in ((self._of_tenant, grant.tenant), (self._of_role, grant.role)):
            index[key].discard(uid)
            if not index[key]:
                del index[key]
        # A grant that goes on for the same addresses needs no record of its earlier deadline.
        if unless is None or (unless.role, unless.cidrs) != (grant.role, grant.cidrs):
            self._ended.setdefault(grant.role, []).append(replace(grant, ended_at=at))


def applied(state: AgentState, changes: Iterable[Change]) -> AgentState:
    """The state after the changes; the same object."""
    for change in changes:
        state.apply(change)
    return state
