"""The agent's record on disk, ``grants.json``: what is open, what has ended, and whom a login stands for.

The agent reads it back after a restart; the shipper reads it to name people.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_network

from pydantic import BaseModel, ConfigDict

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.domain.access import Address, Grant, decide
from vaultbrix.domain.approval import login_name

# How long an ended grant is remembered: a shipper that was away so long no longer knows people by name.
HISTORY = timedelta(days=7)

# A session's last lines are written a moment after its grant ended.
SLACK = timedelta(seconds=5)


class GrantRecord(BaseModel):
    """A grant as it is kept on disk. ``deadline`` in UTC."""

    model_config = ConfigDict(frozen=True)

    rule: str
    uid: str
    generation: int
    tenant: str
    role: str
    cidrs: tuple[str, ...]
    deadline: datetime
    requested_by: str
    reason: str
    opened_at: datetime
    ended_at: datetime | None = None

    @classmethod
    def of(cls, grant: Grant, opened_at: datetime) -> "GrantRecord":
        """From a grant that is open since ``opened_at``."""
        return cls(**vars(grant), opened_at=opened_at)

    def grant(self) -> Grant:
        """As a grant again."""
        return Grant(**self.model_dump(exclude={"opened_at", "ended_at"}))

    def held(self, role: str, address: Address, at: datetime) -> bool:
        """Whether it let that address in as that role at that time."""
        return (
            self.role == role
            and self.opened_at <= at + SLACK
            and (self.ended_at is None or at <= self.ended_at + SLACK)
            and any(address in network for network in map(ip_network, self.cidrs))
        )


class LoginRecord(BaseModel):
    """A one-time login and the approval it belongs to."""

    model_config = ConfigDict(frozen=True)

    approval: str
    tenant: str
    requested_by: str
    approved_by: str = ""
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Identity:
    """Whom a log line is about: Tenant, person, and the rule or approval that let them in; empty when unknown."""

    tenant: str = ""
    person: str = ""
    ground: str = ""


class AgentState(BaseModel):
    """The whole file. ``closed`` holds uids of rules that ended and whose objects may still exist."""

    server: str
    trusted: tuple[str, ...] = ()
    database: str = "postgres"
    grants: tuple[GrantRecord, ...] = ()
    ended: tuple[GrantRecord, ...] = ()
    closed: frozenset[str] = frozenset()
    logins: dict[str, LoginRecord] = {}

    def person(self, role: str, address: Address | None, at: datetime) -> Identity:
        """Who was behind a login role and an address at a time; all fields empty where it is unknown.

        Several people behind the same role and address are all named: which of them it was, nobody can tell.
        """
        if role in self.logins:
            login = self.logins[role]
            return Identity(login.tenant, login.requested_by, login.approval)
        if address is None:
            return Identity()
        found = [g for g in (*self.grants, *self.ended) if g.held(role, address, at)]
        return Identity(
            tenant=", ".join(sorted({g.tenant for g in found})),
            person=", ".join(sorted({g.requested_by for g in found})),
            ground=", ".join(sorted({g.rule for g in found})),
        )


def expire(state: AgentState, now: datetime) -> AgentState:
    """The state without the grants whose deadline has come: all that can be decided without the API server."""
    due = {g.uid for g in state.grants if g.deadline <= now}
    if not due:
        return state
    kept = tuple(g for g in state.grants if g.uid not in due)
    return state.model_copy(update={"grants": kept, "ended": _ended(state, kept, now), "closed": state.closed | due})


def advance(
    state: AgentState,
    *,
    rules: Iterable[AccessRule],
    tenants: Mapping[tuple[str, str], Tenant],
    server: PostgresServer | None,
    approvals: Iterable[DDLApproval],
    now: datetime,
) -> AgentState:
    """The next state, from the objects as last seen. A rule that closed once stays closed while its object exists."""
    since = {g.uid: g.opened_at for g in state.grants}
    grants: list[GrantRecord] = []
    closed: set[str] = set()
    for rule in rules:
        tenant = tenants.get((rule.metadata.namespace, rule.spec.tenant_ref.name))
        if tenant is not None and tenant.spec.server_ref.name != state.server:
            # A Tenant that was created again elsewhere may come back.
            closed |= {rule.metadata.uid} & state.closed
            continue
        verdict = decide(rule, tenant, server, now, closed=rule.metadata.uid in state.closed)
        if verdict.grant is not None:
            grants.append(GrantRecord.of(verdict.grant, since.get(verdict.grant.uid, now)))
        elif verdict.closed:
            closed.add(rule.metadata.uid)
    opened = tuple(sorted(grants, key=lambda g: g.rule))
    return AgentState(
        server=state.server,
        database=server.spec.database if server else state.database,
        trusted=tuple(sorted(server.spec.trusted_cidrs)) if server else state.trusted,
        grants=opened,
        ended=_ended(state, opened, now),
        closed=frozenset(closed),
        logins=_ended_logins(state, now) | _logins(approvals, tenants, state.server),
    )


def _ended(state: AgentState, kept: tuple[GrantRecord, ...], now: datetime) -> tuple[GrantRecord, ...]:
    gone = [g.model_copy(update={"ended_at": now}) for g in state.grants if g not in kept]
    if not gone:
        return state.ended
    return (*(g for g in state.ended if g.ended_at is None or g.ended_at > now - HISTORY), *gone)


def _ended_logins(state: AgentState, now: datetime) -> dict[str, LoginRecord]:
    # Of approvals that are gone, as far as they are not still there: lines of theirs may be shipped later.
    kept = {
        name: login if login.ended_at else login.model_copy(update={"ended_at": now})
        for name, login in state.logins.items()
    }
    return {name: login for name, login in kept.items() if login.ended_at and login.ended_at > now - HISTORY}


def _logins(
    approvals: Iterable[DDLApproval], tenants: Mapping[tuple[str, str], Tenant], server: str
) -> dict[str, LoginRecord]:
    # Known from the moment the approval exists, long before its login does, so no record comes too early.
    found = {}
    for approval in approvals:
        tenant = tenants.get((approval.metadata.namespace, approval.spec.tenant_ref.name))
        if tenant is not None and tenant.spec.server_ref.name == server:
            found[login_name(approval.metadata.uid)] = LoginRecord(
                approval=approval.display,
                tenant=tenant.display,
                requested_by=approval.spec.requested_by,
                approved_by=approval.spec.decision.by if approval.spec.decision else "",
            )
    return found
