"""The agent's record: which grants are open, which have ended, whom a login stands for. A state, and its changes. Pure.

The agent keeps it on disk and reads it back after a restart. The shipper reads it, to say which person a log line is
about.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, dataclasses

from vaultbrix.api.limits import Limits
from vaultbrix.api.login_names import job_login
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
        """Make a record of a grant that is open since ``opened_at``."""
        return cls(**{f.name: getattr(grant, f.name) for f in fields(Grant)}, opened_at=opened_at)

    def let_in(self, address: Address, at: datetime) -> bool:
        """Whether the grant let an address in at a time, give or take SLACK."""
        return (
            self.opened_at <= at + SLACK
            and (self.ended_at is None or at <= self.ended_at + SLACK)
            and self.covers(address)
        )


class LoginRecord(_Stored):
    """The approval that a one-time login belongs to, and the people behind it."""

    approval: str
    tenant: str
    requested_by: str
    approved_by: str = ""
    ended_at: datetime | None = None


class Opened(_Stored):
    """Change: a grant is open, or open on other terms than before."""

    kind: Literal["opened"] = "opened"
    grant: GrantRecord
    at: datetime


class Ended(_Stored):
    """Change: a grant is no longer open. ``final``: its rule never opens again."""

    kind: Literal["ended"] = "ended"
    uid: str
    at: datetime
    final: bool


class Closed(_Stored):
    """Change: a rule that was not open here has ended and never opens."""

    kind: Literal["closed"] = "closed"
    uid: str


class Forgotten(_Stored):
    """Change: the object of an ended rule no longer exists, so nothing about it has to be remembered."""

    kind: Literal["forgotten"] = "forgotten"
    uid: str


class ServerSeen(_Stored):
    """Change: what the PostgresServer says about database, trusted addresses, audit record and limits."""

    kind: Literal["server"] = "server"
    database: str
    trusted: tuple[str, ...]
    audit_grace: timedelta | None = None
    """How long the audit record may not flow before access is closed. None: access is never closed for it."""
    limits: Limits | None = None
    """What a tenant's sessions may take. None: nobody has said."""


class AuditSeen(_Stored):
    """Change: how the audit record was last seen.

    ``complete_until`` is None while the record flows. ``held``: access is closed until it flows again.
    """

    kind: Literal["audit"] = "audit"
    complete_until: datetime | None = None
    held: bool = False


class LoginSeen(_Stored):
    """Change: whom a one-time login stands for; ``login.ended_at`` is set once its approval is gone."""

    kind: Literal["login"] = "login"
    name: str
    login: LoginRecord


StateChange = Opened | Ended | Closed | Forgotten | ServerSeen | AuditSeen | LoginSeen
AnyStateChange = Annotated[StateChange, Field(discriminator="kind")]


@dataclass(frozen=True)
class Attribution:
    """Whom a log line is about; every field is empty when that is unknown.

    ``tenant`` and ``authorization``, the AccessRule or DDLApproval that let the person in, are namespace/name. Several
    are separated by ", ". ``approver`` is who approved it, empty where nobody did.
    """

    tenant: str = ""
    person: str = ""
    authorization: str = ""
    approver: str = ""


class Snapshot(_Stored):
    """A whole state as it is kept on disk. ``epoch`` names the journal of changes that goes on from it."""

    server: str
    epoch: str = ""
    trusted: tuple[str, ...] = ()
    database: str = "postgres"
    audit_grace: timedelta | None = None
    limits: Limits | None = None
    audit: AuditSeen = AuditSeen()
    grants: tuple[GrantRecord, ...] = ()
    ended: tuple[GrantRecord, ...] = ()
    closed: frozenset[str] = frozenset()
    logins: dict[str, LoginRecord] = {}


@dataclass
class AgentState:
    """What is in force, changed by ``apply`` only.

    ``grants`` are the open ones by uid of their rule. ``closed`` are uids of rules that have ended and whose objects
    may still exist. ``logins`` are one-time logins by name.
    """

    server: str
    trusted: tuple[str, ...] = ()
    database: str = "postgres"
    grants: dict[str, GrantRecord] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    logins: dict[str, LoginRecord] = field(default_factory=dict)
    audit_grace: timedelta | None = None
    limits: Limits | None = None
    audit: AuditSeen = field(default_factory=AuditSeen)
    _of_tenant: dict[str, set[str]] = field(default_factory=dict)
    _of_role: dict[str, set[str]] = field(default_factory=dict)
    _ended: dict[str, list[GrantRecord]] = field(default_factory=dict)
    # The role of each login that grants of it let in, whether they are open or have ended.
    _role_of: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot) -> "AgentState":
        """Make the state that a snapshot holds."""
        state = cls(snapshot.server, snapshot.trusted, snapshot.database, logins=dict(snapshot.logins))
        state.closed = set(snapshot.closed)
        state.audit_grace, state.limits, state.audit = snapshot.audit_grace, snapshot.limits, snapshot.audit
        for grant in snapshot.grants:
            state._open(grant)
        for grant in snapshot.ended:
            state._keep(grant)
        return state

    def snapshot(self, epoch: str, now: datetime) -> Snapshot:
        """Make a snapshot, and forget what ended longer ago than HISTORY."""
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
            limits=self.limits,
            audit=self.audit,
            grants=tuple(self.grants.values()),
            ended=tuple(self.ended),
            closed=frozenset(self.closed),
            logins=self.logins,
        )

    @property
    def ended(self) -> Iterator[GrantRecord]:
        """The grants that have ended within HISTORY."""
        return (grant for grants in self._ended.values() for grant in grants)

    def apply(self, change: StateChange) -> None:
        """Apply one change to the state."""
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
            case ServerSeen():
                self.database, self.trusted = change.database, change.trusted
                self.audit_grace, self.limits = change.audit_grace, change.limits
            case AuditSeen():
                self.audit = change
            case LoginSeen(name=name, login=login):
                self.logins[name] = login

    def uids_of_tenant(self, tenant: str) -> set[str]:
        """Return the uids of the open grants of a Tenant (namespace/name)."""
        return set(self._of_tenant.get(tenant, ()))

    def tenant_of(self, role: str) -> str | None:
        """Return the Tenant (namespace/name) that an open grant lets a login role in as, None where there is none."""
        return next((self.grants[uid].tenant for uid in self._uids_of(role)), None)

    def covering(self, role: str, address: Address | None) -> list[GrantRecord]:
        """Return the open grants that let a login role in from an address."""
        grants = (self.grants[uid] for uid in self._uids_of(role))
        return [grant for grant in grants if address is not None and grant.covers(address)]

    def attribute(self, role: str, address: Address | None, at: datetime) -> Attribution:
        """Return who was behind a login role and an address at a time.

        Several people behind the same role and address are all named, since nobody can tell which of them it was.
        """
        if role in self.logins:
            login = self.logins[role]
            return Attribution(login.tenant, login.requested_by, login.approval, login.approved_by)
        if address is None:
            return Attribution()
        matching = [g for g in self._known(role) if g.let_in(address, at)]
        return Attribution(
            tenant=", ".join(sorted({g.tenant for g in matching})),
            person=", ".join(sorted({g.requested_by for g in matching})),
            authorization=", ".join(sorted({g.rule for g in matching})),
            approver=", ".join(sorted({g.approved_by for g in matching if g.approved_by})),
        )

    def approval_of(self, uid: str) -> str:
        """Return the approval (namespace/name) with that uid, empty where it is not known."""
        login = self.logins.get(job_login(uid))
        return login.approval if login is not None else ""

    def attribution_changes(self, role: str) -> list[datetime]:
        """Return the times, in order, at which ``attribute`` may change its answer for a login role."""
        known = self._known(role)
        ends = [grant.ended_at + SLACK for grant in known if grant.ended_at]
        return sorted([grant.opened_at - SLACK for grant in known] + ends)

    def _uids_of(self, login: str) -> Collection[str]:
        return self._of_role.get(self._role_of.get(login, login), ())

    def _known(self, login: str) -> list[GrantRecord]:
        """Open grants of a login role, and those that have ended."""
        role = self._role_of.get(login, login)
        return [*(self.grants[uid] for uid in self._uids_of(login)), *self._ended.get(role, ())]

    def _keep(self, ended: GrantRecord) -> None:
        self._ended.setdefault(ended.role, []).append(ended)
        self._role_of.update(dict.fromkeys(ended.logins, ended.role))

    def _open(self, grant: GrantRecord) -> None:
        self.grants[grant.uid] = grant
        self._of_tenant.setdefault(grant.tenant, set()).add(grant.uid)
        self._of_role.setdefault(grant.role, set()).add(grant.uid)
        self._role_of.update(dict.fromkeys(grant.logins, grant.role))

    def _end(self, uid: str, at: datetime, *, unless: GrantRecord | None = None) -> None:
        grant = self.grants.pop(uid, None)
        if grant is None:
            return
        for index, key in ((self._of_tenant, grant.tenant), (self._of_role, grant.role)):
            index[key].discard(uid)
            if not index[key]:
                del index[key]
        # A grant that goes on for the same addresses, approved by the same, needs no record of its earlier deadline.
        if unless is None or _attributed(unless) != _attributed(grant):
            self._keep(replace(grant, ended_at=at))


def _attributed(grant: GrantRecord) -> tuple[object, ...]:
    return (grant.role, grant.cidrs, grant.approved_by)


def applied(state: AgentState, changes: Iterable[StateChange]) -> AgentState:
    """Apply the changes to the state and return that same state."""
    for change in changes:
        state.apply(change)
    return state
