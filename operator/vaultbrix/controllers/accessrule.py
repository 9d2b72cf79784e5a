"""AccessRule: decide, and say where it stands. Agents enforce; the tenant's NetworkPolicy follows from the rules."""

from datetime import datetime

from vaultbrix.api.accessrule import AccessPhase, AccessRule, AccessRuleStatus
from vaultbrix.api.conditions import Condition, ConditionType, Reason
from vaultbrix.controllers.context import Context
from vaultbrix.controllers.networkpolicy import Policies
from vaultbrix.controllers.status import Conditions, write_status
from vaultbrix.domain.access import AccessVerdict, decide


async def reconcile(context: Context, policies: Policies, rule: AccessRule, now: datetime) -> datetime | None:
    """Write the rule's status; returns its deadline while it may still open or close."""
    tenant = context.tenants.get(rule.metadata.namespace, rule.spec.tenant_ref.name)
    server = context.server_of(tenant) if tenant else None
    verdict = decide(rule, tenant, server, now)
    conditions = Conditions(rule, rule.status.conditions, now)
    _accepted(conditions, verdict)
    _network_policy(
        conditions,
        verdict,
        in_cluster=server is not None and server.spec.namespace is not None,
        applied=tenant is not None and policies.covers(tenant.key, tuple(rule.spec.cidrs)),
    )
    enforced = next((c for c in rule.status.conditions if c.type == ConditionType.ENFORCED), None)
    _ready(conditions, verdict, enforced, rule.metadata.generation)
    await write_status(context.kube, context.rules, rule, _status(rule, verdict, conditions, now))
    return None if verdict.closed else verdict.deadline


def _status(rule: AccessRule, verdict: AccessVerdict, conditions: Conditions, now: datetime) -> AccessRuleStatus:
    old = rule.status
    opened = old.opened_at or (now if verdict.phase is AccessPhase.OPEN else None)
    closed = old.closed_at or (now if verdict.closed else None)
    return AccessRuleStatus(
        observed_generation=rule.metadata.generation,
        phase=verdict.phase,
        expires_at=verdict.deadline,
        opened_at=opened.replace(microsecond=0) if opened else None,
        closed_at=closed.replace(microsecond=0) if closed else None,
        closed_reason=old.closed_reason or (str(verdict.reason) if verdict.closed else None),
        agents=old.agents,
        conditions=conditions.all(),
    )


def _accepted(conditions: Conditions, verdict: AccessVerdict) -> None:
    conditions.set(
        ConditionType.ACCEPTED, verdict.phase is AccessPhase.OPEN or verdict.closed, verdict.reason, verdict.message
    )


def _network_policy(conditions: Conditions, verdict: AccessVerdict, *, in_cluster: bool, applied: bool) -> None:
    type_ = ConditionType.NETWORK_POLICY_APPLIED
    if verdict.phase is not AccessPhase.OPEN:
        conditions.set(type_, False, Reason.CLOSED, "the rule opens nothing now")
    elif not in_cluster:
        conditions.set(type_, True, Reason.NOT_IN_CLUSTER, "the server has no Pods here that a policy could select")
    elif applied:
        conditions.set(type_, True, Reason.APPLIED, "the tenant's NetworkPolicy lets these addresses in")
    else:
        conditions.set(type_, False, Reason.WAITING, "the tenant's NetworkPolicy is not applied yet")


def _ready(conditions: Conditions, verdict: AccessVerdict, enforced: Condition | None, generation: int) -> None:
    type_ = ConditionType.READY
    if verdict.phase is not AccessPhase.OPEN:
        conditions.set(type_, False, verdict.reason, verdict.message)
    elif enforced is None or enforced.observed_generation != generation:
        conditions.set(type_, False, Reason.AGENT_PENDING, "no agent has reported on this generation yet")
    elif enforced.status != "True":
        conditions.set(type_, False, Reason(enforced.reason), enforced.message)
    elif not conditions.is_true(ConditionType.NETWORK_POLICY_APPLIED):
        conditions.set(type_, False, Reason.WAITING, "the tenant's NetworkPolicy is not applied yet")
    else:
        conditions.set(type_, True, Reason.READY, verdict.message)
