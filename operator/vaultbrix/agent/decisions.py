"""What an agent changes in its state, decided from the objects as last seen; each answer costs one Tenant's rules."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_network

from vaultbrix.access.decisions import decide_all
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.decisions import login_name, rehearsal_login
from vaultbrix.grants.state import (
    AgentState,
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


def due(state: AgentState, uids: Iterable[str], now: datetime) -> list[StateChange]:
    """End those of these grants whose deadline has come: all that can be decided without the API server."""
    grants = [state.grants[uid] for uid in uids if uid in state.grants]
    return [Ended(uid=grant.uid, at=now, final=True) for grant in grants if grant.deadline <= now]


def of_tenant(
    state: AgentState,
    key: tuple[str, str],
    rules: Sequence[AccessRule],
    tenant: Tenant | None,
    server: PostgresServer | None,
    now: datetime,
) -> tuple[list[StateChange], datetime | None]:
    """Changes for all rules that name the Tenant of this (namespace, name), and when the next of them opens.

    ``server`` is the agent's own, None while its object does not exist. A rule that closed once stays closed.
    """
    live = {rule.metadata.uid for rule in rules}
    changes: list[StateChange] = [
        Ended(uid=uid, at=now, final=False) for uid in sorted(state.uids_of_tenant("/".join(key)) - live)
    ]
    if tenant is not None and tenant.spec.server_ref.name != state.server:
        return [*changes, *(Ended(uid=uid, at=now, final=False) for uid in sorted(live & state.grants.keys()))], None
    opening: list[datetime] = []
    for uid, verdict in decide_all(rules, tenant, server, now, closed=state.closed).items():
        held = state.grants.get(uid)
        if verdict.grant is not None:
            record = GrantRecord.of(verdict.grant, held.opened_at if held else now)
            if record != held:
                changes.append(Opened(grant=record, at=now))
        elif held is not None:
            changes.append(Ended(uid=uid, at=now, final=verdict.closed))
        elif verdict.closed and uid not in state.closed:
            changes.append(Closed(uid=uid))
        if verdict.opens_at is not None:
            opening.append(verdict.opens_at)
    return changes, min(opening, default=None)


def what_it_takes_away(held: GrantRecord | None, wanted: Opened) -> StateChange | None:
    """The part of a change that closes something, for when the part that opens must not be applied; None: no such part.

    An address stays only where both the earlier and the later terms let it in, and until the earlier deadline.
    """
    if held is None:
        return None
    later = wanted.grant
    cidrs = tuple(cidr for cidr in later.cidrs if any(_within(cidr, other) for other in held.cidrs))
    cidrs += tuple(c for c in held.cidrs if c not in cidrs and any(_within(c, other) for other in later.cidrs))
    if held.role != later.role or not cidrs:
        return Ended(uid=held.uid, at=wanted.at, final=False)
    deadline = min(held.deadline, later.deadline)
    if (cidrs, deadline) == (later.cidrs, later.deadline):
        return wanted
    narrowed = replace(held, cidrs=cidrs, deadline=deadline)
    return Opened(grant=narrowed, at=wanted.at) if narrowed != held else None


def _within(cidr: str, other: str) -> bool:
    inner, outer = ip_network(cidr), ip_network(other)
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version


def of_server(state: AgentState, server: PostgresServer | None) -> list[StateChange]:
    """What the agent's PostgresServer says now; without its object, what it said last."""
    if server is None:
        return []
    spec = server.spec
    seen = ServerSeen(
        database=spec.database,
        trusted=tuple(sorted(spec.trusted_cidrs)),
        audit_grace=spec.audit_grace if spec.audit_required else None,
    )
    known = ServerSeen(database=state.database, trusted=state.trusted, audit_grace=state.audit_grace)
    return [seen] if seen != known else []


def of_audit(state: AgentState, ended: Collection[str], now: datetime) -> list[StateChange]:
    """Close all that is open and not ``ended`` already, until the record flows again; no rule ends for good by it."""
    return [Ended(uid=uid, at=now, final=False) for uid in sorted(state.grants.keys() - set(ended))]


def of_gone(state: AgentState, uids: Iterable[str]) -> list[StateChange]:
    """Forget ended rules whose objects are gone."""
    return [Forgotten(uid=uid) for uid in sorted(set(uids) & state.closed)]


def of_approval(
    state: AgentState, approval: DDLApproval, tenant: Tenant | None, now: datetime, *, gone: bool
) -> list[StateChange]:
    """Whom an approval's one-time logins stand for: the one of its rehearsal, and that of its Job.

    Known from the moment the approval exists, long before its logins do, so that no record comes too early.
    """
    uid = approval.metadata.uid
    return [
        change
        for name in (rehearsal_login(uid), login_name(uid))
        for change in _of_login(state, name, approval, tenant, now, gone=gone)
    ]


def _of_login(
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
        approved_by=approval.spec.decision.by if approval.spec.decision else "",
    )
    return [LoginSeen(name=name, login=login)] if login != known else []
