"""AccessRule: decide, make or drop the login that it may have, and say where it stands.

Agents enforce; the tenant's NetworkPolicy follows from the rules.
"""

from dataclasses import dataclass, field
from datetime import datetime

from vaultbrix.access.decisions import AccessVerdict
from vaultbrix.access.networkpolicy.controller import Policies
from vaultbrix.access.receipts.controller import Receipts
from vaultbrix.access.rule_login import RuleLogins
from vaultbrix.api.accessrule import AccessPhase, AccessRule, AccessRuleStatus, RuleLogin, Sessions
from vaultbrix.api.conditions import Condition, ConditionType, Reason
from vaultbrix.audit.flow.controller import AuditFlows
from vaultbrix.audit.retention.controller import Retention
from vaultbrix.kube.cache import Context
from vaultbrix.kube.client import resource_type
from vaultbrix.kube.status import Conditions, write_status
from vaultbrix.runtime.errors import Expected


@dataclass(frozen=True)
class Parts:
    """What is done for rules and their servers, each part with its own memory."""

    policies: Policies = field(default_factory=Policies)
    logins: RuleLogins = field(default_factory=RuleLogins)
    receipts: Receipts = field(default_factory=Receipts)
    retention: Retention = field(default_factory=Retention)
    flows: AuditFlows = field(default_factory=AuditFlows)


async def reconcile(context: Context, parts: Parts, rule: AccessRule, now: datetime) -> datetime | None:
    """Write the rule's status; returns when an ended rule is to be deleted. Raises Expected after the status says so.

    The rule must be looked at again when its verdict turns (``opens_at``, ``deadline``), whatever comes of this.
    """
    verdict = context.verdict(rule, now)
    failure: Expected | None = None
    has_login = False
    try:
        has_login = await parts.logins.settle(context, rule, verdict)
    except Expected as error:
        failure = error
    tenant = context.tenant_of(rule)
    server = context.server_of(tenant) if tenant else None
    conditions = Conditions(rule, rule.status.conditions, now)
    _accepted(conditions, verdict)
    _network_policy(
        conditions,
        verdict,
        in_cluster=server is not None and server.spec.namespace is not None,
        applied=parts.policies.covers(tenant.key, tuple(rule.spec.cidrs)) if tenant else False,
    )
    _login(conditions, rule, verdict, failure)
    enforced = next((c for c in rule.status.conditions if c.type == ConditionType.ENFORCED), None)
    _ready(conditions, verdict, enforced, rule.metadata.generation)
    # What it was is not known to have changed when something failed.
    secret_name = rule.secret_name if has_login else rule.status.secret_name if failure else None
    status = _status(rule, verdict, conditions, now, secret_name=secret_name)
    wanted = rule.model_copy(update={"status": status})
    status = status.model_copy(update={"receipt": parts.receipts.of(context, wanted)})
    await write_status(context.kube, context.rules, rule, status)
    if failure is not None:
        raise failure
    if rule.spec.ttl_after_closed is None or status.closed_at is None or rule.deleting:
        return None
    delete_at = status.closed_at + rule.spec.ttl_after_closed
    if now < delete_at:
        return delete_at
    await context.kube.delete(resource_type(AccessRule), *rule.key, uid=rule.metadata.uid)
    return None


def _status(
    rule: AccessRule, verdict: AccessVerdict, conditions: Conditions, now: datetime, *, secret_name: str | None
) -> AccessRuleStatus:
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
        sessions=Sessions(
            open=sum(agent.open_sessions for agent in old.agents),
            terminated=sum(agent.terminated_sessions for agent in old.agents),
        ),
        secret_name=secret_name,
        receipt=old.receipt,
        agents=old.agents,
        conditions=conditions.all(),
    )


def _login(conditions: Conditions, rule: AccessRule, verdict: AccessVerdict, failure: Expected | None) -> None:
    type_ = ConditionType.LOGIN_READY
    if rule.spec.login is RuleLogin.TENANT:
        conditions.set(type_, True, Reason.LOGIN_NOT_NEEDED, "the tenant's own role logs in")
    elif failure is not None:
        conditions.set(type_, False, failure.reason, failure.message)
    elif verdict.grant is not None:
        conditions.set(
            type_, True, Reason.LOGIN_CREATED, f"{verdict.grant.role}; its password is in {rule.secret_name}"
        )
    elif verdict.closed:
        conditions.set(type_, False, Reason.LOGIN_DROPPED, "no login of this rule exists any more")
    else:
        conditions.set(type_, False, Reason.WAITING, "the login is made when the rule opens")


def _accepted(conditions: Conditions, verdict: AccessVerdict) -> None:
    conditions.set(
        ConditionType.ACCEPTED, verdict.phase is AccessPhase.OPEN or verdict.closed, verdict.reason, verdict.message
    )


def _network_policy(conditions: Conditions, verdict: AccessVerdict, *, in_cluster: bool, applied: bool | None) -> None:
    type_ = ConditionType.NETWORK_POLICY_APPLIED
    if verdict.phase is not AccessPhase.OPEN:
        conditions.set(type_, False, Reason.CLOSED, "the rule opens nothing now")
    elif not in_cluster:
        conditions.set(type_, True, Reason.NOT_IN_CLUSTER, "the server has no Pods here that a policy could select")
    elif applied is None:
        conditions.keep(type_)
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
    elif (login := conditions.failed(ConditionType.LOGIN_READY)) is not None:
        conditions.set(type_, False, Reason(login.reason), login.message)
    elif not conditions.is_true(ConditionType.NETWORK_POLICY_APPLIED):
        conditions.set(type_, False, Reason.WAITING, "the tenant's NetworkPolicy is not applied yet")
    else:
        conditions.set(type_, True, Reason.READY, verdict.message)
