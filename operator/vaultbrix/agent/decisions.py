"""Decides what an agent changes in its state, from the objects as last seen. Pure.

A decision costs as much as one Tenant's rules, however many there are in all.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import ip_network
from types import MappingProxyType

from vaultbrix.access.decisions import decide_all, role_of
from vaultbrix.access.terms import deadline_of
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import DDLApproval, Verdict
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.decisions import login_name, rehearsal_login
from vaultbrix.grants.grant import Grant
from vaultbrix.grants.state import (
    AgentState,
    AuditSeen,
    Closed,
    Ended,
    Forgotten,
    GrantRecord,
    LoginRecord,
    LoginSeen,
    Opened,
    ServerSeen,
    StateChange,
)


def end_due(state: AgentState, uids: Iterable[str], now: datetime) -> list[StateChange]:
    """End those of these grants whose deadline has come; that needs nothing from the API server."""
    grants = [state.grants[uid] for uid in uids if uid in state.grants]
    return [Ended(uid=grant.uid, at=now, final=True) for grant in grants if grant.deadline <= now]


def decide_tenant(
    state: AgentState,
    key: tuple[str, str],
    rules: Sequence[AccessRule],
    tenant: Tenant | None,
    server: PostgresServer | None,
    now: datetime,
    unguarded: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[StateChange], datetime | None]:
    """Decide on all rules that name the Tenant ``key``; returns changes, and when the next of the rules opens.

    ``rules`` are all that name it. ``server`` is the agent's own, None while its object does not exist. ``unguarded``
    says by uid why an approval does not count; what is open stays so. A rule that has ended once stays closed.
    """
    live = {rule.metadata.uid for rule in rules}
    changes: list[StateChange] = [
        Ended(uid=uid, at=now, final=False) for uid in sorted(state.uids_of_tenant("/".join(key)) - live)
    ]
    if tenant is not None and tenant.spec.server_ref.name != state.server:
        return [*changes, *(Ended(uid=uid, at=now, final=False) for uid in sorted(live & state.grants.keys()))], None
    opening: list[datetime] = []
    by_uid = {rule.metadata.uid: rule for rule in rules}
    unguarded = {
        uid: why for uid, why in unguarded.items() if not _gives_as_before(by_uid[uid], tenant, state.grants.get(uid))
    }
    verdicts = decide_all(rules, tenant, server, now, closed=state.closed, unguarded=unguarded)
    for uid, verdict in verdicts.items():
        open_grant = state.grants.get(uid)
        if verdict.grant is not None:
            # What was done under it before somebody approved it was approved by nobody.
            goes_on = open_grant is not None and open_grant.approved_by == verdict.grant.approved_by
            record = GrantRecord.of(verdict.grant, open_grant.opened_at if open_grant and goes_on else now)
            if record != open_grant:
                changes.append(Opened(grant=record, at=now))
        elif open_grant is not None:
            changes.append(Ended(uid=uid, at=now, final=verdict.closed))
        elif verdict.closed and uid not in state.closed:
            changes.append(Closed(uid=uid))
        if verdict.opens_at is not None:
            opening.append(verdict.opens_at)
    return changes, min(opening, default=None)


def _gives_as_before(rule: AccessRule, tenant: Tenant | None, open_grant: GrantRecord | None) -> bool:
    """Whether the rule gives what it was opened with: then its approval was taken over."""
    if tenant is None or open_grant is None:
        return False
    terms = (role_of(rule, tenant), tuple(rule.spec.cidrs), deadline_of(rule))
    return terms == (open_grant.role, open_grant.cidrs, open_grant.deadline)


def closing_part(open_grant: GrantRecord | None, opened: Opened) -> StateChange | None:
    """Return the part of a change that closes something, for when nothing may open; None if it closes nothing.

    ``open_grant`` are the rule's terms so far, None while it is not open. An address stays only where both the earlier
    and the later terms let it in, and until the earlier deadline.
    """
    if open_grant is None:
        return None
    later = opened.grant
    cidrs = tuple(cidr for cidr in later.cidrs if any(_within(cidr, other) for other in open_grant.cidrs))
    cidrs += tuple(c for c in open_grant.cidrs if c not in cidrs and any(_within(c, other) for other in later.cidrs))
    if open_grant.role != later.role or not cidrs:
        return Ended(uid=open_grant.uid, at=opened.at, final=False)
    deadline = min(open_grant.deadline, later.deadline)
    if (cidrs, deadline) == (later.cidrs, later.deadline):
        return opened
    narrowed = replace(open_grant, cidrs=cidrs, deadline=deadline)
    return Opened(grant=narrowed, at=opened.at) if narrowed != open_grant else None


@dataclass(frozen=True)
class HeldBack:
    """Why a rule that should open does not: the layer that its report names, and a message for people."""

    layer: str
    message: str


@dataclass(frozen=True)
class Permitted:
    """Changes that may be made now, and the grants whose opening had to be left out, each with the cause."""

    changes: list[StateChange]
    held_back: list[tuple[Grant, HeldBack]] = field(default_factory=list)


def without_openings(grants: Mapping[str, GrantRecord], changes: Iterable[StateChange], cause: HeldBack) -> Permitted:
    """Leave out of the changes what opens something. ``grants`` are the open ones by uid, before the changes."""
    permitted = Permitted([])
    for change in changes:
        if not isinstance(change, Opened):
            permitted.changes.append(change)
            continue
        part = closing_part(grants.get(change.grant.uid), change)
        if part is not None:
            permitted.changes.append(part)
        if part is not change:
            permitted.held_back.append((change.grant, cause))
    return permitted


def permit(
    state: AgentState, changes: list[StateChange], now: datetime, *, clock_skew: int, audit_message: str
) -> Permitted:
    """Leave out what must not open while the clock is wrong or the audit record does not flow.

    ``clock_skew`` is in whole seconds, 0 while the clock is right. ``audit_message`` says why access is closed for the
    audit record, empty while it is not; otherwise all that is open is closed, too.
    """
    permitted = Permitted(changes)
    if clock_skew:
        message = f"the clock differs by {clock_skew} s from the API server's; nothing opens"
        permitted = without_openings(state.grants, changes, HeldBack("clock", message))
    if audit_message:
        earlier = permitted.held_back
        permitted = without_openings(state.grants, permitted.changes, HeldBack("audit", audit_message))
        ended = [change.uid for change in permitted.changes if isinstance(change, Ended)]
        closings = close_for_audit(state, ended, now)
        permitted = Permitted([*permitted.changes, *closings], [*earlier, *permitted.held_back])
    return permitted


@dataclass(frozen=True)
class LogRoom:
    """Bytes of the filesystem that PostgreSQL logs to: free for it, and in all."""

    free: int
    total: int


@dataclass(frozen=True)
class LogFloor:
    """What has to stay free there: so many percent and so many bytes, but never more than half of it."""

    percent: int
    least_bytes: int

    def of(self, total: int) -> int:
        """Return the floor in bytes on a filesystem of ``total`` bytes."""
        return min(max(total * self.percent // 100, self.least_bytes), total // 2)


def below_floor(floor: LogFloor, room: LogRoom | None, *, was_below: bool) -> bool:
    """Decide whether PostgreSQL's log is about to have no room; ``room`` is None where that cannot be measured.

    Once it was, it takes a quarter more than the floor to say no, so that access does not open and close in turns.
    """
    if room is None:
        return True
    least = floor.of(room.total)
    return room.free < (least + least // 4 if was_below else least)


def rule_uid(change: StateChange) -> str:
    """Return the uid of the rule whose openness a change is about, empty where it is about none."""
    match change:
        case Opened(grant=grant):
            return grant.uid
        case Ended(uid=uid) | Closed(uid=uid):
            return uid
    return ""


def _within(cidr: str, other: str) -> bool:
    inner, outer = ip_network(cidr), ip_network(other)
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version


def follow_server(
    state: AgentState, server: PostgresServer | None, trusted_pods: frozenset[str] | None
) -> list[StateChange]:
    """Take over what the agent's PostgresServer says; without its object, what it said last goes on to hold.

    ``trusted_pods`` are the addresses of its trusted Pods. While those are not known, who was trusted still is.
    """
    if server is None:
        return []
    spec = server.spec
    pods = frozenset(state.trusted) if trusted_pods is None else trusted_pods
    seen = ServerSeen(
        database=spec.database,
        trusted=tuple(sorted({*server.trusted_networks, *pods})),
        audit_grace=spec.audit_grace if spec.audit_required else None,
        limits=spec.limits,
    )
    known = ServerSeen(
        database=state.database, trusted=state.trusted, audit_grace=state.audit_grace, limits=state.limits
    )
    return [seen] if seen != known else []


def close_for_audit(state: AgentState, ended: Collection[str], now: datetime) -> list[StateChange]:
    """Close every grant but those ``ended`` already (uids); its rule may open again once the audit record flows."""
    return [Ended(uid=uid, at=now, final=False) for uid in sorted(state.grants.keys() - set(ended))]


def remember_audit(known: AuditSeen, *, flows: bool, closes_access: bool, complete_until: datetime) -> AuditSeen | None:
    """Return how the audit record is now, if that differs from what the state knows.

    ``complete_until`` is up to when the record is complete; once the state knows such a time, that one stays until the
    record flows again.
    """
    since = None if flows else known.complete_until or complete_until
    seen = AuditSeen(complete_until=since, held=closes_access)
    return seen if seen != known else None


def forget_gone(state: AgentState, uids: Iterable[str]) -> list[StateChange]:
    """Forget those of these rules that have ended, now that their objects are gone."""
    return [Forgotten(uid=uid) for uid in sorted(set(uids) & state.closed)]


def attribute_logins(
    state: AgentState, approval: DDLApproval, tenant: Tenant | None, now: datetime, *, gone: bool
) -> list[StateChange]:
    """Record whom an approval's one-time logins stand for: the one of its rehearsal, and that of its Job.

    That is done as soon as the approval exists, long before its logins do, so that no log line comes too early.
    ``gone`` says that its object no longer exists.
    """
    uid = approval.metadata.uid
    return [
        change
        for name in (rehearsal_login(uid), login_name(uid))
        for change in _attribute_login(state, name, approval, tenant, now, gone=gone)
    ]


def _approver(approval: DDLApproval) -> str:
    """Who let the Job run. A rehearsal is approved by nobody."""
    decision = approval.spec.decision
    return decision.by if decision is not None and decision.verdict is Verdict.APPROVED else ""


def _attribute_login(
    state: AgentState, name: str, approval: DDLApproval, tenant: Tenant | None, now: datetime, *, gone: bool
) -> list[StateChange]:
    known = state.logins.get(name)
    if gone:
        if known is None or known.ended_at is not None:
            return []
        return [LoginSeen(name=name, login=known.model_copy(update={"ended_at": now}))]
    if tenant is None or tenant.spec.server_ref.name != state.server:
        return []
    login = LoginRecord(
        approval=approval.display,
        tenant=tenant.display,
        requested_by=approval.spec.requested_by,
        approved_by=_approver(approval) if name == login_name(approval.metadata.uid) else "",
    )
    return [LoginSeen(name=name, login=login)] if login != known else []
