"""AccessRule: decide, make or drop the login that it may have, and say where it stands.

Agents enforce; the tenant's NetworkPolicy follows from the rules.
"""

from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime

from vaultbrix.access.decisions import RuleFacts, rule_status
from vaultbrix.access.guard import ApprovalGuard
from vaultbrix.access.networkpolicy.controller import Policies
from vaultbrix.access.receipts.controller import RuleCounter
from vaultbrix.access.rule_login import RuleLogins
from vaultbrix.access.terms import terms_sha256
from vaultbrix.access.trail import concerned, facts_of
from vaultbrix.access.verdicts import Verdicts
from vaultbrix.admission.policies import Policies as AdmissionPolicies
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import ConditionType, find_condition
from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.audit.receipts.controller import Receipts
from vaultbrix.audit.trail.controller import Trails
from vaultbrix.kube import events
from vaultbrix.kube.cache import Cache, TenantKey
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.resources import resource_type
from vaultbrix.kube.secrets import SecretKey
from vaultbrix.kube.status import write_status
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected
from vaultbrix.tenants.drift.controller import RoleDrift

WORKERS = 8
POLICY_WORKERS = 2

RuleKey = tuple[str, str]


@dataclass(frozen=True)
class Access:
    """What other subjects may use of this one."""

    verdicts: Verdicts
    policies: Policies
    logins: RuleLogins


def register(
    registry: Registry, kube: Kube, cache: Cache, admin: Admin, *, drift: RoleDrift, policies: AdmissionPolicies
) -> Access:
    """Have AccessRules reconciled, and the NetworkPolicies of Tenants kept, whenever either may differ."""
    guard = ApprovalGuard(kube, policies, _taken_over)
    verdicts = Verdicts(cache, guard)
    access = Access(verdicts, Policies(kube, cache, verdicts), RuleLogins(kube, cache, verdicts, admin, drift))
    controller = AccessRuleController(registry, kube, cache, access, guard, admin)
    registry.on_change(AccessRule, controller.rule_changed)
    registry.on_change(Tenant, controller.tenant_changed)
    registry.on_change(PostgresServer, controller.server_changed)
    registry.on_resync(controller.resync)
    policies.on_change(lambda _: controller.look_at_all())
    admin.secrets.on_change(controller.secret_changed)
    drift.on_change(controller.roles_changed)
    return access


class AccessRuleController:
    """Works on rules, and on the NetworkPolicy of each Tenant."""

    def __init__(
        self, registry: Registry, kube: Kube, cache: Cache, access: Access, guard: ApprovalGuard, admin: Admin
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._guard = guard
        self._verdicts = access.verdicts
        self._policies = access.policies
        self._logins = access.logins
        self._rules = registry.queue("AccessRule", self.reconcile, workers=WORKERS)
        self._policy_queue = registry.queue("NetworkPolicy", self._apply_policy, workers=POLICY_WORKERS)
        counter = RuleCounter(cache, admin)
        self._receipts = Receipts(registry, cache, cache.rules, counter, self._rules.add, name="Receipt")
        self._trails = Trails(registry, kube, cache, admin, cache.rules, self._rules.add, name="RuleTrail")

    def rule_changed(self, change: Change[AccessRule]) -> None:
        """Look at the rule, and at the policy of its Tenant if what it gives may have changed."""
        rule = change.resource
        if not change.own:
            self._rules.add(rule.key)
        if change.decisive:
            self._policy_queue.add(rule.tenant_key)
        if change.gone:
            self._receipts.forget(rule)
            self._guard.forget(rule.metadata.uid)
            self._trails.forget(rule)
            self._look_at_misjudged(rule.tenant_key)

    def tenant_changed(self, change: Change[Tenant]) -> None:
        """Look at all that is decided from the Tenant."""
        if change.decisive:
            self._look_at_all_of(change.resource.key)

    def server_changed(self, change: Change[PostgresServer]) -> None:
        """Look at all that is decided from the server."""
        if change.decisive:
            for tenant in self._cache.tenants_of(change.resource.metadata.name):
                self._look_at_all_of(tenant.key)

    def secret_changed(self, secret: SecretKey) -> None:
        """Look at the rules of servers whose CA may have changed: Secrets of logins hold it."""
        for server in self._cache.servers:
            if server.ca_secret == secret:
                for tenant in self._cache.tenants_of(server.metadata.name):
                    self._look_at_all_of(tenant.key)

    def roles_changed(self, server: PostgresServer, roles: Set[str]) -> None:
        """Look at the rules whose login somebody else changed."""
        for rule in self._logins.made_for(server, roles):
            self._rules.add(rule)

    async def resync(self) -> None:
        """Compare logins and policies with what is there, and look at every rule."""
        try:
            await self._policies.check()
        finally:
            self._logins.forget()
            self.look_at_all()

    def look_at_all(self) -> None:
        """Look at every rule, and at the policy of every Tenant."""
        for tenant in self._cache.tenants:
            self._policy_queue.add(tenant.key)
        for rule in self._cache.rules:
            self._rules.add(rule.key)

    async def reconcile(self, key: RuleKey) -> datetime | None:
        """Write the rule's status; returns when an ended rule is to be deleted.

        Raises Expected after the status says so.
        """
        rule = self._cache.rules.get(*key)
        if rule is None:
            return None
        tenant = self._cache.tenant_of(rule)
        await self._guard.settle(rule, self._cache.server_of(tenant))
        rule = self._cache.rules.get(*key)
        if rule is None:
            return None
        now = datetime.now(UTC)
        verdict = self._verdicts.of(rule, now)
        if not verdict.closed:
            self._rules.add_at(key, verdict.opens_at or verdict.deadline)
        turns = rule.status.phase is not verdict.phase
        if turns:
            # The policy follows from the time too, and an ended rule must leave it.
            self._policy_queue.add(rule.tenant_key)
        try:
            return await self._settle(rule, now)
        finally:
            fresh = self._cache.rules.get(*key)
            if fresh is not None:
                # Only what was written: else rules that cannot be written would call each other for ever.
                if turns and fresh.status.phase is verdict.phase:
                    self._look_at_misjudged(rule.tenant_key)
                self._receipts.schedule(fresh, now)
                self._trails.schedule(fresh)

    async def _settle(self, rule: AccessRule, now: datetime) -> datetime | None:
        recorded = concerned(rule, self._cache.server_of(self._cache.tenant_of(rule)))
        if recorded:
            over = rule.status.closed_at is not None
            held = await self._trails.hold(rule, facts_of(rule, rule.status, now), over=over)
            if held is not rule:
                # Before its hash is shown, on which a decision rests. The change brings it back here.
                self._cache.refresh(held, own=False)
                return None
        verdict = self._verdicts.of(rule, now)
        failure: Expected | None = None
        has_login = False
        try:
            has_login = await self._logins.settle(rule, verdict)
        except Expected as error:
            failure = error
        tenant = self._cache.tenant_of(rule)
        server = self._cache.server_of(tenant)
        facts = RuleFacts(
            verdict,
            in_cluster=server is not None and server.spec.namespace is not None,
            covered=self._policies.covers(tenant.key, tuple(rule.spec.cidrs)) if tenant else False,
            server=tenant.spec.server_ref.name if tenant else None,
            has_login=has_login,
            login_failure=failure,
            unguarded=bool(self._guard.objections([rule], server)),
        )
        status = rule_status(rule, facts, now)
        receipt = self._receipts.of(rule.model_copy(update={"status": status}))
        told = facts_of(rule, status, now) if recorded else []
        trail = self._trails.next(rule, told, now)
        status = status.model_copy(update={"receipt": receipt, "trail": trail})
        written = await write_status(self._kube, self._cache, rule, status)
        if written.status.decided != rule.status.decided:
            await self._tell_decision(written)
        await self._trails.release(written, told, over=written.status.closed_at is not None)
        if failure is not None:
            raise failure
        if rule.spec.ttl_after_closed is None or status.closed_at is None or rule.deleting:
            return None
        delete_at = status.closed_at + rule.spec.ttl_after_closed
        if now < delete_at:
            return delete_at
        await self._kube.delete(resource_type(AccessRule), *rule.key, uid=rule.metadata.uid)
        return None

    async def _tell_decision(self, rule: AccessRule) -> None:
        decided = rule.status.decided
        if decided is not None:
            message = f"{decided.verdict} by {decided.by}, for sha256 {decided.sha256}"
            await events.note(self._kube, rule, str(decided.verdict), message, component="vaultbrix-operator")

    async def _apply_policy(self, tenant: TenantKey) -> None:
        now = datetime.now(UTC)
        if not await self._policies.reconcile(tenant, now):
            return
        verdicts = self._verdicts.of_tenant(tenant, now)
        for rule in self._cache.rules_of(tenant):
            covered = self._policies.covers(tenant, tuple(rule.spec.cidrs)) is True
            if verdicts[rule.metadata.uid].grant is not None and _says_covered(rule) is not covered:
                self._rules.add(rule.key)

    def _look_at_all_of(self, tenant: TenantKey) -> None:
        self._policy_queue.add(tenant)
        for rule in self._cache.rules_of(tenant):
            self._rules.add(rule.key)

    def _look_at_misjudged(self, tenant: TenantKey) -> None:
        """Look at the rules whose status no longer holds, as when one left its slot to another."""
        verdicts = self._verdicts.of_tenant(tenant, datetime.now(UTC))
        for rule in self._cache.rules_of(tenant):
            if rule.status.phase is not verdicts[rule.metadata.uid].phase:
                self._rules.add(rule.key)


def _says_covered(rule: AccessRule) -> bool:
    """Whether the status says of this generation that the tenant's NetworkPolicy lets its addresses in."""
    condition = find_condition(rule.status.conditions, ConditionType.NETWORK_POLICY_APPLIED)
    return (
        condition is not None
        and condition.status == "True"
        and condition.observed_generation == rule.metadata.generation
    )


def _taken_over(rule: AccessRule) -> bool:
    """Whether an operator took over an approval of what the rule gives now. Agents go by what they keep themselves."""
    decided = rule.status.decided
    return decided is not None and decided.verdict is Verdict.APPROVED and decided.sha256 == terms_sha256(rule)
