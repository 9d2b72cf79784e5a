"""AccessRule decisions, shared by operator and agent so that both reach the same answer on their own.

A rule *opens* a grant: some addresses may log in as one role until a deadline. The union of open grants
is what every layer enforces, so closing one rule never takes away what another open rule still gives.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.conditions import ConditionType, Reason, is_true
from vaultbrix.api.meta import format_duration, rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Grant:
    """What one open rule gives. ``deadline`` is aware and in UTC; ``cidrs`` are canonical."""

    rule: str
    uid: str
    generation: int
    tenant: str
    role: str
    cidrs: tuple[str, ...]
    deadline: datetime
    requested_by: str
    reason: str

    def covers(self, address: Address) -> bool:
        """Whether the address may connect under this grant."""
        return any(address in network for network in map(ip_network, self.cidrs))


@dataclass(frozen=True)
class AccessVerdict:
    """The answer for one rule now. ``grant`` is present exactly when the phase is Open."""

    phase: AccessPhase
    reason: Reason
    message: str
    deadline: datetime
    grant: Grant | None = None

    @property
    def closed(self) -> bool:
        """Whether the rule has ended for good."""
        return self.phase in (AccessPhase.EXPIRED, AccessPhase.REVOKED)


def deadline_of(rule: AccessRule) -> datetime:
    """When the rule ends: ``expiresAt``, or creation plus ``ttl``."""
    if rule.spec.expires_at is not None:
        return rule.spec.expires_at
    if rule.spec.ttl is None:
        return rule.metadata.creation_timestamp
    return rule.metadata.creation_timestamp + rule.spec.ttl


def decide(
    rule: AccessRule,
    tenant: Tenant | None,
    server: PostgresServer | None,
    now: datetime,
    *,
    closed: bool = False,
) -> AccessVerdict:
    """What the rule gives at ``now``.

    ``closed`` says that the caller already ended it: a clock that jumps back, or an edit that moves the
    deadline, never opens it again. ``tenant`` and ``server`` are None while they do not exist.
    """
    deadline = deadline_of(rule)

    def verdict(phase: AccessPhase, reason: Reason, message: str) -> AccessVerdict:
        return AccessVerdict(phase, reason, message, deadline)

    if rule.spec.revoked or rule.deleting or rule.status.phase is AccessPhase.REVOKED:
        return verdict(AccessPhase.REVOKED, Reason.REVOKED, "the rule was revoked")
    if closed or rule.status.closed_at is not None or now >= deadline:
        return verdict(
            AccessPhase.EXPIRED,
            Reason.EXPIRED,
            f"the rule ended at {rfc3339(min(deadline, rule.status.closed_at or now))}; "
            "create another AccessRule for more time",
        )
    if tenant is None:
        return verdict(
            AccessPhase.PENDING,
            Reason.TENANT_NOT_FOUND,
            f"Tenant {rule.spec.tenant_ref.name} does not exist in namespace {rule.metadata.namespace}; "
            "correct spec.tenantRef in another rule, or create the Tenant",
        )
    if server is None:
        return verdict(
            AccessPhase.PENDING,
            Reason.SERVER_NOT_FOUND,
            f"PostgresServer {tenant.spec.server_ref.name} of Tenant {tenant.display} does not exist",
        )
    rejected = _rejection(rule, server, deadline)
    if rejected is not None:
        return verdict(AccessPhase.REJECTED, *rejected)
    if tenant.spec.suspended:
        return verdict(
            AccessPhase.PENDING,
            Reason.TENANT_SUSPENDED,
            f"Tenant {tenant.display} is suspended (spec.suspended)",
        )
    # Provisioned is written by the operator alone and only for the owner of the slug, so a second Tenant
    # of the same slug cannot open the first one's role.
    if tenant.deleting or not is_true(tenant.status.conditions, ConditionType.PROVISIONED):
        return verdict(
            AccessPhase.PENDING,
            Reason.TENANT_NOT_READY,
            f"Tenant {tenant.display} is not provisioned; see its conditions",
        )
    grant = Grant(
        rule=rule.display,
        uid=rule.metadata.uid,
        generation=rule.metadata.generation,
        tenant=tenant.display,
        role=tenant.role,
        cidrs=tuple(rule.spec.cidrs),
        deadline=deadline,
        requested_by=rule.spec.requested_by,
        reason=rule.spec.reason,
    )
    return AccessVerdict(AccessPhase.OPEN, Reason.ACCEPTED, f"open until {rfc3339(deadline)}", deadline, grant)


def _rejection(rule: AccessRule, server: PostgresServer, deadline: datetime) -> tuple[Reason, str] | None:
    limits = server.spec.limits
    name = server.metadata.name
    if deadline - rule.metadata.creation_timestamp > limits.max_ttl:
        return (
            Reason.TTL_TOO_LONG,
            f"the rule would last longer than {format_duration(limits.max_ttl)}, the limit of PostgresServer "
            f"{name} (spec.limits.maxTTL); shorten spec.ttl or spec.expiresAt",
        )
    for index, text in enumerate(rule.spec.cidrs):
        try:
            network = ip_network(text)
        except ValueError as error:
            return Reason.PREFIX_TOO_WIDE, f"spec.cidrs[{index}]: {error}"
        least = limits.min_prefix_v4 if network.version == 4 else limits.min_prefix_v6
        if network.prefixlen < least:
            return (
                Reason.PREFIX_TOO_WIDE,
                f"spec.cidrs[{index}] {text} is wider than /{least}, the limit of PostgresServer {name} "
                f"(spec.limits.minPrefixV{network.version})",
            )
    return None


def kernel_deadlines(grants: Iterable[Grant]) -> dict[str, datetime]:
    """CIDR → the latest deadline among the grants that name it: the wanted content of the kernel's set.

    Nested prefixes stay entries of their own; the kernel lets a packet through if any entry covers it.
    """
    wanted: dict[str, datetime] = {}
    for grant in grants:
        for cidr in grant.cidrs:
            wanted[cidr] = max(wanted.get(cidr, grant.deadline), grant.deadline)
    return wanted


def hba_pairs(grants: Iterable[Grant]) -> list[tuple[str, str]]:
    """Sorted (role, CIDR) pairs: one pg_hba line each."""
    return sorted({(grant.role, cidr) for grant in grants for cidr in grant.cidrs})


@dataclass(frozen=True)
class Session:
    """A client backend as pg_stat_activity shows it; ``address`` is None on a Unix socket."""

    pid: int
    role: str
    address: Address | None


def sessions_to_end(sessions: Iterable[Session], grants: Mapping[str, Iterable[Grant]]) -> list[Session]:
    """Tenant sessions that no open grant of their role covers.

    ``grants`` maps a role to its open grants; ``sessions`` are those of tenants' own logins only. A trusted
    (cluster-internal) address is no excuse: tenants do not log in from there.
    """
    return [s for s in sessions if s.address is None or not any(g.covers(s.address) for g in grants.get(s.role, ()))]


def parse_address(text: str) -> Address:
    """An address as PostgreSQL prints it: without mask, an IPv4-mapped IPv6 one as IPv4."""
    address = ip_address(text.split("/", 1)[0].split("%", 1)[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
