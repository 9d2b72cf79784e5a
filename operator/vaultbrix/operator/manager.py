"""From a change to the keys it concerns, and from a key to the controller that works on it."""

import asyncio
from collections.abc import Hashable, Iterator
from datetime import UTC, datetime, timedelta

import structlog

from vaultbrix.access import controller as accessrule
from vaultbrix.access.controller import Parts
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval
from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.audit.flow.controller import LOOK_EVERY as LOOK_AT_FLOW
from vaultbrix.ddl import controller as ddlapproval
from vaultbrix.ddl.refusals.controller import Refusals
from vaultbrix.ddl.watch import LOOK_EVERY
from vaultbrix.kube.cache import Context, Key
from vaultbrix.kube.informer import Informer
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import WorkQueue, pause_after
from vaultbrix.servers import controller as postgresserver
from vaultbrix.tenants import controller as tenant

log = structlog.get_logger(__name__)

WORKERS = 8
# An audit store that does not answer holds up its own receipts and requests only.
RECEIPT_WORKERS = 2
# A server that does not answer holds up those of two others at most.
RUN_WORKERS = 3
# A partition that is held, or a store that is down, holds up nothing but retention.
RETENTION_WORKERS = 1
# Many Tenants at once are one change of the store's policies.
RETENTION_LINGER = timedelta(seconds=3)


class Manager:
    """The operator without its edges: give ``informers`` events and ``run`` it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._parts = Parts()
        self._ddl = ddlapproval.Parts()
        self._refusals = Refusals()
        self._queue: WorkQueue[Key] = WorkQueue(self._process, workers=WORKERS)
        self._receipts: WorkQueue[Key] = WorkQueue(self._receipt, workers=RECEIPT_WORKERS)
        self._rehearsals: WorkQueue[Key] = WorkQueue(self._rehearse, workers=RUN_WORKERS)
        self._runs: WorkQueue[Key] = WorkQueue(self._look_at_runs, workers=RUN_WORKERS)
        self._retention: WorkQueue[Key] = WorkQueue(self._retain, workers=RETENTION_WORKERS)
        self._bases: dict[Key, Hashable] = {}
        self.informers: dict[type[Resource], Informer[Resource]] = {
            store.model: Informer(context.kube, store, self._changed)  # type: ignore[arg-type]  # a Store is read through its own type
            for store in (context.servers, context.tenants, context.rules, context.approvals)
        }

    async def start(self) -> None:
        """Know every object before the first decision: a server not seen yet must not look deleted."""
        failures = 0
        while True:
            try:
                await self._relist()
            except Expected as error:
                failures += 1
                log.warning("cannot list", message=error.message)
                await asyncio.sleep(pause_after(failures, 0.0))
            else:
                break
        await self._check_policies()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for queue in (self._queue, self._receipts, self._rehearsals, self._runs, self._retention):
                group.create_task(queue.run())

    async def resync(self) -> None:
        """Compare everything again: objects that vanished unseen, and drift outside of Kubernetes."""
        try:
            await self._relist()
        except Expected as error:
            log.warning("resync", message=error.message)
        await self._check_policies()
        self._parts.logins.forget()
        for informer in self.informers.values():
            for resource in informer.store:
                self._changed(resource)

        for server in self._context.servers:
            self._retention.add(key_of(server))

    async def expire(self) -> None:
        """Drop the audit records whose days have passed; once a day will do."""
        for server in self._context.servers:
            self._parts.retention.ask(server)
            self._retention.add(key_of(server))

    async def _check_policies(self) -> None:
        try:
            await self._parts.policies.check(self._context)
        except Expected as error:
            log.warning("cannot check NetworkPolicies", message=error.message)

    async def _relist(self) -> None:
        for informer in self.informers.values():
            await informer.relist()

    def _changed(self, resource: Resource) -> None:
        self._queue.add(key_of(resource))
        match resource:
            case PostgresServer() | Tenant():
                self._follow(resource)
            case AccessRule():
                self._queue.add(Key("NetworkPolicy", *self._tenant_key(resource)))
                if self._context.rules.get(*resource.key) is None:
                    self._parts.receipts.forget(resource)
                    self._recount(self._tenant_key(resource))
            case DDLApproval():
                if self._context.approvals.get(*resource.key) is None:
                    self._ddl.forget(resource)

    def _follow(self, resource: PostgresServer | Tenant) -> None:
        """Look at what is decided from the object, if the part of it changed that is decided from."""
        key, basis = key_of(resource), basis_of(self._context, resource)
        if self._bases.get(key) == basis:
            return
        if basis is None:
            del self._bases[key]
        else:
            self._bases[key] = basis
        for follower in followers(self._context, resource):
            self._queue.add(follower)
        server = resource.metadata.name if isinstance(resource, PostgresServer) else resource.spec.server_ref.name
        self._receipts.add(Key("Refusals", "", server))
        self._receipts.add(Key("AuditFlow", "", server))
        self._rehearsals.add(Key("PostgresServer", "", server))
        self._retention.add_at(Key("PostgresServer", "", server), datetime.now(UTC) + RETENTION_LINGER)

    def _recount(self, where: tuple[str, str]) -> None:
        """Look at the rules of a tenant whose status no longer holds, as when one left its slot to another."""
        verdicts = self._context.verdicts(where, datetime.now(UTC))
        for rule in self._context.rules_of(where):
            if rule.status.phase is not verdicts[rule.metadata.uid].phase:
                self._queue.add(key_of(rule))

    async def _process(self, key: Key) -> datetime | None:
        now = datetime.now(UTC)
        context, where = self._context, (key.namespace, key.name)
        match key.kind:
            case "PostgresServer":
                server = context.servers.get(*where)
                if server is None:
                    self._parts.flows.forget(key.name)
                    await self._parts.policies.remove_base(context, key.name)
                    return None
                again = await postgresserver.reconcile(context, self._parts, self._ddl.rehearsals.logins, server, now)
                self._follow(context.servers.get(*where) or server)
                return again
            case "Tenant":
                found = context.tenants.get(*where)
                if found is None:
                    return None
                again = await tenant.reconcile(context, found, now)
                self._follow(context.tenants.get(*where) or found)
                return again
            case "AccessRule":
                rule = context.rules.get(*where)
                return await self._rule(key, rule, now) if rule else None
            case "DDLApproval":
                approval = context.approvals.get(*where)
                return await self._approval(approval, now) if approval else None
            case "NetworkPolicy":
                if await self._parts.policies.reconcile(context, where, now):
                    self._tell_covered(where)
        return None

    async def _rule(self, key: Key, rule: AccessRule, now: datetime) -> datetime | None:
        where = self._tenant_key(rule)
        # The policy first: it follows from the time too, and an ended rule must leave it.
        self._queue.add(Key("NetworkPolicy", *where))
        verdict = self._context.verdict(rule, now)
        if not verdict.closed:
            self._queue.add_at(key, verdict.opens_at or verdict.deadline)
        try:
            return await accessrule.reconcile(self._context, self._parts, rule, now)
        finally:
            fresh = self._context.rules.get(*rule.key)
            # Only what was written: else rules that cannot be written would call each other for ever.
            if fresh is not None and fresh.status.phase is verdict.phase is not rule.status.phase:
                self._recount(where)
            due = self._parts.receipts.due(self._context, fresh, now) if fresh else None
            if due is not None:
                self._receipts.add_at(key, due)

    async def _approval(self, approval: DDLApproval, now: datetime) -> datetime | None:
        try:
            return await ddlapproval.reconcile(self._context, self._ddl, approval, now)
        finally:
            fresh = self._context.approvals.get(*approval.key)
            tenant = self._context.tenants.get(*self._tenant_key(approval))
            if fresh is not None and tenant is not None:
                key = Key("PostgresServer", "", tenant.spec.server_ref.name)
                if fresh.status.phase in (ApprovalPhase.APPROVED, ApprovalPhase.RUNNING):
                    self._runs.add_at(key, now + LOOK_EVERY)
                due = self._ddl.rehearsals.due(fresh, now)
                if due is not None:
                    self._rehearsals.add_at(key, due)

    async def _rehearse(self, key: Key) -> datetime | None:
        server = self._context.servers.get(key.namespace, key.name)
        if server is None:
            return None
        told, again = await self._ddl.rehearsals.next(self._context, server, datetime.now(UTC))
        for approval in told:
            self._queue.add(approval)
        return again

    async def _look_at_runs(self, key: Key) -> datetime | None:
        server = self._context.servers.get(key.namespace, key.name)
        if server is None:
            return None
        changed, again = await self._ddl.watcher.look(self._context, server, datetime.now(UTC))
        for approval in changed:
            self._queue.add(approval)
        return again

    async def _receipt(self, key: Key) -> datetime | None:
        if key.kind == "AuditFlow":
            return await self._look_at_flow(key)
        if key.kind == "Refusals":
            server = self._context.servers.get(key.namespace, key.name)
            return await self._refusals.look(self._context, server, datetime.now(UTC)) if server else None
        rule = self._context.rules.get(key.namespace, key.name)
        if rule is None or self._parts.receipts.due(self._context, rule, datetime.now(UTC)) is None:
            return None
        if await self._parts.receipts.count(self._context, rule):
            self._queue.add(key)
        return self._parts.receipts.due(self._context, rule, datetime.now(UTC))

    async def _retain(self, key: Key) -> None:
        server = self._context.servers.get(key.namespace, key.name)
        if server is None:
            self._parts.retention.forget(key.name)
            return
        retention = self._parts.retention
        before = retention.told(key.name)
        try:
            await retention.reconcile(self._context, server, datetime.now(UTC))
        finally:
            if retention.told(key.name) != before:
                self._queue.add(key)

    async def _look_at_flow(self, key: Key) -> datetime | None:
        server = self._context.servers.get(key.namespace, key.name)
        if server is None:
            return None
        now = datetime.now(UTC)
        if await self._parts.flows.look(self._context, server, now):
            self._queue.add(key_of(server))
        return now + LOOK_AT_FLOW if server.spec.audit_secret_ref is not None else None

    def _tell_covered(self, where: tuple[str, str]) -> None:
        """Look at the open rules whose status does not say of the tenant's NetworkPolicy what holds now."""
        verdicts = self._context.verdicts(where, datetime.now(UTC))
        for rule in self._context.rules_of(where):
            told = any(
                c.type == ConditionType.NETWORK_POLICY_APPLIED
                and c.status == "True"
                and c.observed_generation == rule.metadata.generation
                for c in rule.status.conditions
            )
            covered = self._parts.policies.covers(where, tuple(rule.spec.cidrs)) is True
            if verdicts[rule.metadata.uid].grant is not None and told is not covered:
                self._queue.add(key_of(rule))

    @staticmethod
    def _tenant_key(resource: AccessRule | DDLApproval) -> tuple[str, str]:
        return (resource.metadata.namespace, resource.spec.tenant_ref.name)


def key_of(resource: Resource) -> Key:
    """The key of an object itself."""
    return Key(type(resource).__name__, *resource.key)


def basis_of(context: Context, resource: PostgresServer | Tenant) -> Hashable:
    """What others are decided from: all of its spec, and whether it is ready for them. None for one that is gone."""
    match resource:
        case PostgresServer():
            found: PostgresServer | Tenant | None = context.servers.get(*resource.key)
            ready = ConditionType.GATE_INSTALLED
        case Tenant():
            found = context.tenants.get(*resource.key)
            ready = ConditionType.PROVISIONED
    if found is None:
        return None
    meta = found.metadata
    return (meta.uid, meta.generation, found.deleting, is_true(found.status.conditions, ready))


def followers(context: Context, resource: PostgresServer | Tenant) -> Iterator[Key]:
    """The keys of what is decided from the object."""
    match resource:
        case PostgresServer():
            for found in context.tenants_of(resource.metadata.name):
                yield key_of(found)
                yield from followers(context, found)
        case Tenant():
            yield Key("NetworkPolicy", *resource.key)
            for rule in context.rules_of(resource.key):
                yield key_of(rule)
            for approval in context.approvals.of(resource.key):
                yield key_of(approval)
