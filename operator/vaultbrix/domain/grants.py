"""The agent's record on disk, ``grants.json``: what is open, what has ended, and whom a login stands for.

The agent reads it back after a restart; the shipper reads it to name people.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from ipaddress import ip_network

from pydantic import BaseModel, ConfigDict

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.domain.access import Address, Grant, decide
from vaultbrix.domain.approval import login_name


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

    @classmethod
    def of(cls, grant: Grant) -> "GrantRecord":
        """From a grant."""
        return cls(**vars(grant))

    def grant(self) -> Grant:
        """As a grant again."""
        return Grant(**dict(self))


class LoginRecord(BaseModel):
    """A one-time login and the approval it belongs to."""

    model_config = ConfigDict(frozen=True)

    approval: str
    tenant: str
    requested_by: str
    approved_by: str = ""


class AgentState(BaseModel):
    """The whole file. ``closed`` holds uids of rules that ended and whose objects may still exist."""

    server: str
    trusted: tuple[str, ...] = ()
    database: str = "postgres"
    grants: tuple[GrantRecord, ...] = ()
    closed: frozenset[str] = frozenset()
    logins: dict[str, LoginRecord] = {}

    def person(self, role: str, address: Address | None) -> tuple[str, str]:
        """(person, rule or approval) behind a login role and an address; ("", "") where it is unknown.

        Two people behind the same role and address are both named: which of them it was, nobody can tell.
        """
        if role in self.logins:
            login = self.logins[role]
            return login.requested_by, login.approval
        if address is None:
            return "", ""
        found = [
            g for g in self.grants if g.role == role and any(address in network for network in map(ip_network, g.cidrs))
        ]
        people = sorted({g.requested_by for g in found})
        rules = sorted({g.rule for g in found})
        return ", ".join(people), ", ".join(rules)


def expire(state: AgentState, now: datetime) -> AgentState:
    """The state without the grants whose deadline has come: all that can be decided without the API server."""
    ended = {g.uid for g in state.grants if g.deadline <= now}
    if not ended:
        return state
    return state.model_copy(
        update={
            "grants": tuple(g for g in state.grants if g.uid not in ended),
            "closed": state.closed | ended,
        }
    )


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
    grants: list[GrantRecord] = []
    closed: set[str] = set()
    for rule in rules:
        tenant = tenants.get((rule.metadata.namespace, rule.spec.tenant_ref.name))
        if tenant is not None and tenant.spec.server_ref.name != state.server:
            continue
        verdict = decide(rule, tenant, server, now, closed=rule.metadata.uid in state.closed)
        if verdict.grant is not None:
            grants.append(GrantRecord.of(verdict.grant))
        elif verdict.closed:
            closed.add(rule.metadata.uid)
    return AgentState(
        server=state.server,
        database=server.spec.database if server else state.database,
        trusted=tuple(sorted(server.spec.trusted_cidrs)) if server else state.trusted,
        grants=tuple(sorted(grants, key=lambda g: g.rule)),
        closed=frozenset(closed),
        logins=_logins(approvals, tenants, state.server),
    )


def _logins(
    approvals: Iterable[DDLApproval], tenants: Mapping[tuple[str, str], Tenant], server: str
) -> dict[str, LoginRecord]:
    # Known from the moment the approval exists, long before its login does, so no record comes too early.
    found = {}
    for approval in approvals:
        tenant = tenants.get((approval.metadata.namespace, approval.spec.tenant_ref.name))
        if tenant is not None and tenant.spec.server_ref.name == server:
            found[login_name(tenant.role, approval.metadata.uid)] = LoginRecord(
                approval=approval.display,
                tenant=tenant.display,
                requested_by=approval.spec.requested_by,
                approved_by=approval.spec.decision.by if approval.spec.decision else "",
            )
    return found
