"""AccessRule decisions, shared by operator and agent so that both reach the same answer on their own.

A rule *opens* a grant: some addresses may log in as one role until a deadline. The union of open grants
is what every layer enforces, so closing one rule never takes away what another open rule still gives.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from types import MappingProxyType

from vaultbrix.access.approval import acceptance, approval, denied, needs_nobody, objection
from vaultbrix.access.terms import deadline_of, start_of, terms_sha256
from vaultbrix.api.accessrule import (
    AccessPhase,
    AccessRule,
    AccessRuleStatus,
    DecisionTaken,
    RuleLogin,
    Sessions,
)
from vaultbrix.api.conditions import (
    Condition,
    ConditionType,
    Reason,
    State,
    conditions,
    failed_states,
    find_condition,
    is_true,
    ready_states,
)
from vaultbrix.api.login_names import login_for
from vaultbrix.api.meta import format_duration, rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.grants.grant import Grant
from vaultbrix.runtime.addresses import overlapping
from vaultbrix.runtime.counted import counted
from vaultbrix.runtime.errors import Expected


@dataclass(frozen=True)
class AccessVerdict:
    """The answer for one rule now. ``grant`` is there exactly when the phase is Open, ``opens_at`` before startsAt."""

    phase: AccessPhase
    reason: Reason
    message: str
    deadline: datetime
    grant: Grant | None = None
    opens_at: datetime | None = None

    @property
    def closed(self) -> bool:
        """Whether the rule has ended for good."""
        return self.phase in (AccessPhase.EXPIRED, AccessPhase.REVOKED) or self.reason is Reason.DENIED


def decide_all(
    rules: Iterable[AccessRule],
    tenant: Tenant | None,
    server: PostgresServer | None,
    now: datetime,
    *,
    closed: Container[str] = frozenset(),
    unguarded: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, AccessVerdict]:
    """uid → verdict for all rules of one Tenant, which share the server's limit on their number.

    ``closed`` are uids of rules that the caller already ended; ``unguarded`` says by uid why a rule's approval does not
    count, empty while that is being looked at.

    Those that have opened count first, then the oldest, so that no rule takes the place of one that is open; creation
    times are whole seconds.
    """
    verdicts: dict[str, AccessVerdict] = {}
    used = 0
    for rule in sorted(rules, key=_precedence):
        uid = rule.metadata.uid
        verdict = decide(rule, tenant, server, now, closed=uid in closed, unguarded=unguarded.get(uid))
        if server is not None and (verdict.grant is not None or verdict.opens_at is not None):
            used += 1
            if used > server.spec.limits.max_rules_per_tenant:
                verdict = _too_many(verdict, server)
        verdicts[rule.metadata.uid] = verdict
    return verdicts


def _precedence(rule: AccessRule) -> tuple[bool, datetime, str]:
    # By what the operator wrote, so that operator and agents agree.
    return (rule.status.opened_at is None, rule.metadata.creation_timestamp, rule.metadata.uid)


def _too_many(verdict: AccessVerdict, server: PostgresServer) -> AccessVerdict:
    most = server.spec.limits.max_rules_per_tenant
    return AccessVerdict(
        AccessPhase.REJECTED,
        Reason.TOO_MANY_RULES,
        f"the tenant has {counted(most, 'rule')} already, the limit of PostgresServer {server.metadata.name} "
        "(spec.limits.maxRulesPerTenant); revoke one, or wait for one to end",
        verdict.deadline,
    )


def decide(
    rule: AccessRule,
    tenant: Tenant | None,
    server: PostgresServer | None,
    now: datetime,
    *,
    closed: bool = False,
    unguarded: str | None = None,
) -> AccessVerdict:
    """What the rule gives at ``now``.

    ``closed`` says that the caller already ended it: a clock that jumps back, or an edit that moves the
    deadline, never opens it again. ``unguarded`` says why its approval does not count. ``tenant`` and ``server`` are
    None while they do not exist.
    """
    deadline, start = deadline_of(rule), rule.spec.starts_at

    def verdict(phase: AccessPhase, reason: Reason, message: str) -> AccessVerdict:
        return AccessVerdict(phase, reason, message, deadline)

    if rule.spec.revoked or rule.deleting or rule.status.phase is AccessPhase.REVOKED:
        return verdict(AccessPhase.REVOKED, Reason.REVOKED, "the rule was revoked")
    refusal = denied(rule)
    # One that had ended before it was denied ended as it did.
    if refusal is not None and (rule.status.closed_at is None or rule.status.closed_reason == Reason.DENIED):
        text = f"denied by {refusal.by}" + (f": {refusal.message}" if refusal.message else "")
        return verdict(AccessPhase.REJECTED, Reason.DENIED, f"{text}; ask anew with another AccessRule")
    if deadline <= rule.metadata.creation_timestamp:
        return verdict(
            AccessPhase.EXPIRED,
            Reason.DEADLINE_PASSED,
            f"spec.expiresAt {rfc3339(deadline)} had passed when the rule was created; "
            "create another AccessRule with a later one",
        )
    if closed or rule.status.closed_at is not None or now >= deadline:
        return verdict(AccessPhase.EXPIRED, *_expiry(rule, server, deadline, now))
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
    missing_approval = objection(rule, server)
    if missing_approval is not None:
        return verdict(AccessPhase.PENDING, *missing_approval)
    if unguarded is not None and not needs_nobody(rule, server):
        text = unguarded or "its approval counts once the admission policies were looked at"
        return verdict(AccessPhase.PENDING, Reason.DECISION_UNGUARDED, text)
    # One that has opened stays open when the clock is set back, and a creation in the future is a clock's doing too.
    if start is not None and now < start and rule.status.opened_at is None:
        return AccessVerdict(
            AccessPhase.PENDING, Reason.NOT_YET, f"opens at {rfc3339(start)} (spec.startsAt)", deadline, opens_at=start
        )
    given = approval(rule)
    grant = Grant(
        rule=rule.display,
        uid=rule.metadata.uid,
        generation=rule.metadata.generation,
        tenant=tenant.display,
        role=role_of(rule, tenant),
        cidrs=tuple(rule.spec.cidrs),
        deadline=deadline,
        requested_by=rule.spec.requested_by,
        reason=rule.spec.reason,
        approved_by=given.by if given is not None else "",
    )
    reason, by = acceptance(rule, server)
    return AccessVerdict(AccessPhase.OPEN, reason, f"open until {rfc3339(deadline)}{by}", deadline, grant)


def _expiry(rule: AccessRule, server: PostgresServer | None, deadline: datetime, now: datetime) -> tuple[Reason, str]:
    ended = rfc3339(min(deadline, rule.status.closed_at or now))
    undecided = rule.status.closed_reason == Reason.UNDECIDED
    if rule.status.closed_reason is None and server is not None:
        undecided = objection(rule, server) is not None
    if undecided:
        return (
            Reason.UNDECIDED,
            f"the rule ended at {ended}, and nobody had decided on what it was to give; create another AccessRule",
        )
    return Reason.EXPIRED, f"the rule ended at {ended}; create another AccessRule for more time"


def _rejection(rule: AccessRule, server: PostgresServer, deadline: datetime) -> tuple[Reason, str] | None:
    limits = server.spec.limits
    name = server.metadata.name
    if deadline - start_of(rule) > limits.max_ttl:
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
        trusted = overlapping(text, server.trusted_networks)
        if trusted is not None:
            return Reason.TRUSTED_SOURCE, trusted_source(index, text, trusted, name)
    return None


def trusted_source(index: int, cidr: str, trusted: str, server: str) -> str:
    """Why a rule must not name a source that the server trusts, and what to do."""
    return (
        f"spec.cidrs[{index}] {cidr} overlaps {trusted}, which PostgresServer {server} trusts (spec.trusted, "
        "spec.trustedCIDRs): the kernel lets it in for ever, so the rule could not end there; give another address, or "
        "have that one taken out of the PostgresServer"
    )


def role_of(rule: AccessRule, tenant: Tenant) -> str:
    """The login of the rule: its own, or the tenant's."""
    return tenant.role if rule.spec.login is RuleLogin.TENANT else rule_login(tenant.role, rule.metadata.uid)


def rule_login(role: str, uid: str) -> str:
    """Name of the login of a rule with ``login: PerRule``: ``tenant_<slug>_r_<id>``, a long slug cut short."""
    return login_for(role, uid)


@dataclass(frozen=True)
class RuleFacts:
    """What is known of a rule beside its object.

    ``in_cluster`` says that its server has Pods that a NetworkPolicy could select; ``covered`` that the tenant's lets
    all of the rule's addresses in, None while that is not known. ``has_login`` is about a login PerRule, and
    ``login_failure`` is what stood in the way of making or dropping it. ``server`` is the name of the PostgresServer,
    None while there is no Tenant. ``unguarded`` says that a decision on it does not count.
    """

    verdict: AccessVerdict
    in_cluster: bool
    covered: bool | None
    server: str | None = None
    has_login: bool = False
    login_failure: Expected | None = None
    unguarded: bool = False


def rule_status(rule: AccessRule, facts: RuleFacts, now: datetime) -> AccessRuleStatus:
    """The whole status of a rule but its receipt and its trail; what agents report stays as they wrote it."""
    old, verdict = rule.status, facts.verdict
    opened_at = old.opened_at or (now if verdict.phase is AccessPhase.OPEN else None)
    closed_at = old.closed_at or (now if verdict.closed else None)
    login, network_policy = _login(rule, facts), _network_policy(facts)
    # What it was is not known to have changed when something failed.
    kept_secret_name = old.secret_name if facts.login_failure else None
    enforced = find_condition(old.conditions, ConditionType.ENFORCED)
    states = {
        ConditionType.ACCEPTED: State(_accepted(verdict), verdict.reason, verdict.message),
        ConditionType.NETWORK_POLICY_APPLIED: network_policy,
        ConditionType.LOGIN_READY: login,
    }
    generation = rule.metadata.generation
    applied = is_true(
        conditions(states, old.conditions, generation=generation, now=now), ConditionType.NETWORK_POLICY_APPLIED
    )
    states |= _readiness(_ready(rule, verdict, enforced, login, applied=applied), verdict)
    return AccessRuleStatus(
        observed_generation=generation,
        phase=verdict.phase,
        server=facts.server or old.server,
        sha256=terms_sha256(rule),
        decided=rule.status.decided if facts.unguarded else _decided(rule, now),
        expires_at=verdict.deadline,
        opened_at=opened_at.replace(microsecond=0) if opened_at else None,
        closed_at=closed_at.replace(microsecond=0) if closed_at else None,
        closed_reason=old.closed_reason or (str(verdict.reason) if verdict.closed else None),
        sessions=Sessions(
            open=sum(agent.open_sessions for agent in old.agents),
            terminated=sum(agent.terminated_sessions for agent in old.agents),
        ),
        secret_name=rule.secret_name if facts.has_login else kept_secret_name,
        receipt=old.receipt,
        trail=old.trail,
        agents=old.agents,
        conditions=conditions(states, old.conditions, generation=generation, now=now),
    )


def _accepted(verdict: AccessVerdict) -> bool:
    refused = verdict.reason in (Reason.DENIED, Reason.UNDECIDED)
    return verdict.phase is AccessPhase.OPEN or (verdict.closed and not refused)


def _decided(rule: AccessRule, now: datetime) -> DecisionTaken | None:
    """The decision that counts, with the time when it was first seen; else the last one that did."""
    old, decision = rule.status.decided, denied(rule) or approval(rule)
    if decision is None or (old is not None and (old.verdict, old.sha256) == (decision.verdict, decision.sha256)):
        return old
    return DecisionTaken(
        verdict=decision.verdict, by=decision.by, sha256=decision.sha256, at=now.replace(microsecond=0)
    )


def _login(rule: AccessRule, facts: RuleFacts) -> State:
    verdict, failure = facts.verdict, facts.login_failure
    if rule.spec.login is RuleLogin.TENANT:
        return State(True, Reason.LOGIN_NOT_NEEDED, "the tenant's own role logs in")
    if failure is not None:
        return State(False, failure.reason, failure.message)
    if verdict.grant is not None:
        return State(True, Reason.LOGIN_CREATED, f"{verdict.grant.role}; its password is in {rule.secret_name}")
    if verdict.closed:
        return State(False, Reason.LOGIN_DROPPED, "no login of this rule exists any more")
    return State(False, Reason.WAITING, "the login is made when the rule opens")


def _network_policy(facts: RuleFacts) -> State | None:
    if facts.verdict.phase is not AccessPhase.OPEN:
        return State(False, Reason.CLOSED, "the rule opens nothing now")
    if not facts.in_cluster:
        return State(True, Reason.NOT_IN_CLUSTER, "the server has no Pods here that a policy could select")
    if facts.covered is None:
        return None
    if facts.covered:
        return State(True, Reason.APPLIED, "the tenant's NetworkPolicy lets these addresses in")
    return State(False, Reason.WAITING, "the tenant's NetworkPolicy is not applied yet")


def _readiness(ready: State, verdict: AccessVerdict) -> dict[ConditionType, State]:
    """Ready and Stalled. One that has ended as rules do has neither: it is as it should be, and lets nobody in."""
    if verdict.closed and _accepted(verdict):
        return {}
    return failed_states(ready) if verdict.closed or verdict.phase is AccessPhase.REJECTED else ready_states(ready)


def _ready(
    rule: AccessRule, verdict: AccessVerdict, enforced: Condition | None, login: State, *, applied: bool
) -> State:
    if verdict.phase is not AccessPhase.OPEN:
        return State(False, verdict.reason, verdict.message)
    if enforced is None or enforced.observed_generation != rule.metadata.generation:
        return State(False, Reason.AGENT_PENDING, "no agent has reported on this generation yet")
    if enforced.status != "True":
        # An agent may be of another release, or write what it likes.
        reason = next((known for known in Reason if known == enforced.reason), Reason.AGENT_PENDING)
        return State(False, reason, enforced.message)
    if login.status is not True:
        return login
    if not applied:
        return State(False, Reason.WAITING, "the tenant's NetworkPolicy is not applied yet")
    return State(True, Reason.READY, verdict.message)
