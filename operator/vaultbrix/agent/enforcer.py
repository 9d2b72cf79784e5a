"""The agent's one loop: what changed or fell due → decide → write to disk → apply to the layers → report.

It begins closed by default: first the firewall's chain, then the state on disk, then the API server, which it needs to
open a rule but never to close one. A change of an object costs what its Tenant's rules cost, however many there are.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path

import structlog

from vaultbrix.access.guard import ApprovalGuard
from vaultbrix.admission.policies import Policies
from vaultbrix.agent.audit_guard import AuditGuard
from vaultbrix.agent.decisions import (
    HeldBack,
    Permitted,
    attribute_logins,
    decide_tenant,
    end_due,
    follow_server,
    forget_gone,
    permit,
    rule_uid,
    without_openings,
)
from vaultbrix.agent.heartbeat import AgentIdentity, Heartbeat
from vaultbrix.agent.layers.sessions import FOLLOW_UPS
from vaultbrix.agent.layers.stack import Layers
from vaultbrix.agent.periodic import every
from vaultbrix.agent.policy_watch import PolicyWatch
from vaultbrix.agent.reporter import Reporter
from vaultbrix.agent.reports import RuleFacts, report
from vaultbrix.agent.session_list import SessionList
from vaultbrix.agent.watchdog.watchdog import Watchdog
from vaultbrix.agent.watched import Touched, Watched
from vaultbrix.api.conditions import Reason
from vaultbrix.grants.file import GrantsFile, load
from vaultbrix.grants.state import AgentState, AuditSeen, Ended, GrantRecord, Opened, StateChange
from vaultbrix.kube.cache import TenantKey
from vaultbrix.kube.client import Kube
from vaultbrix.runtime.addresses import parse_address, within
from vaultbrix.runtime.deadlines import Deadlines
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

# How often each is compared with what should hold, from the cheapest to the dearest.
CHAIN_SECONDS = 0.7
AUDIT_SECONDS = 1.0
SESSION_SECONDS = 5.0
KERNEL_SECONDS = 5.0
# Addresses in one message.
_SHOWN = 5
LONGEST_RETRY = 5.0


class Enforcer:
    """Enforces the rules of one PostgresServer here.

    ``closed_by_default`` is set once the firewall keeps out everybody whom no rule lets in.
    """

    def __init__(
        self,
        identity: AgentIdentity,
        state_file: Path,
        layers: Layers,
        kube: Kube,
        heartbeat: Heartbeat,
        guard: AuditGuard,
        watchdog: Watchdog,
        session_list: SessionList,
        policies: Policies,
        closed_by_default: asyncio.Event,
        clock: Callable[[], datetime],
    ) -> None:
        self._identity = identity
        self._state_file = state_file
        self._layers = layers
        self._heartbeat = heartbeat
        self._guard = guard
        self._watchdog = watchdog
        self._session_list = session_list
        self._closed_by_default = closed_by_default
        self._clock = clock
        self._watched = Watched(kube, identity.server, self._wake_up)
        self._policy_watch = PolicyWatch(policies, self._watched)
        self._approvals = ApprovalGuard(kube, policies)
        policies.on_change(lambda _: self._watched.touch_everything())
        self._reporter = Reporter(kube)
        self._file = GrantsFile(state_file)
        self._state = AgentState(identity.server)
        self._unsaved: list[StateChange] = []
        self._held_back: dict[TenantKey, dict[str, HeldBack]] = {}
        self._deadlines: Deadlines[str] = Deadlines(clock)
        self._openings: Deadlines[TenantKey] = Deadlines(clock)
        # Uids of rules whose deadline has come, and of those on which something new may have to be reported.
        self._due: set[str] = set()
        self._to_report: set[str] = set()
        # CIDRs that the kernel let in and no grant accounts for, until an event says so.
        self._orphans: set[str] = set()
        self._sessions: dict[str, int] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Enforce until cancelled. After that the rules stay in force, and the kernel's timeouts end them."""
        await self._check_chain()
        self._state = load(self._state_file, self._identity.server)
        self._layers.load(self._state)
        self._guard.resume(self._state, self._clock())
        await self._check_kernel()
        self._due.update(self._state.grants)
        for uid, grant in self._state.grants.items():
            self._deadlines.set(uid, grant.deadline)
        async with asyncio.TaskGroup() as group:
            for part in (self._watched, self._reporter, self._heartbeat):
                group.create_task(part.run())
            group.create_task(self._deadlines.run(self._fall_due))
            group.create_task(self._layers.keep_connected(self._look_again))
            group.create_task(self._openings.run(self._watched.touch))
            group.create_task(self._watchdog.run(self._watched, lambda: self._state, self._report_again))
            group.create_task(self._approvals.run(self._watched.touch))
            group.create_task(every(CHAIN_SECONDS, self._check_chain))
            group.create_task(every(CHAIN_SECONDS, self._check_file))
            group.create_task(every(AUDIT_SECONDS, self._check_audit))
            group.create_task(every(AUDIT_SECONDS, self._warn_of_audit))
            group.create_task(every(SESSION_SECONDS, self._check_sessions))
            group.create_task(every(SESSION_SECONDS, self._session_list.look))
            group.create_task(every(KERNEL_SECONDS, self._check_kernel))
            group.create_task(every(KERNEL_SECONDS, self._warn_of_orphans))
            group.create_task(self._policy_watch.run())
            group.create_task(self._loop())

    def _wake_up(self) -> None:
        self._wake.set()

    def _report_again(self, uid: str) -> None:
        self._to_report.add(uid)
        self._wake.set()

    def _fall_due(self, uid: str) -> None:
        self._due.add(uid)
        self._wake.set()

    def _look_again(self) -> None:
        """Look at all sessions, now that PostgreSQL can be asked."""
        self._layers.recheck()
        self._wake.set()

    async def _loop(self) -> None:
        failures = 0
        self._wake.set()
        while True:
            pause = min(LONGEST_RETRY, pause_after(failures, 0.0)) if failures else None
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._step()
                failures = failures + 1 if self._layers.errors or self._unsaved else 0
            except Exception:
                log.exception("unexpected error")
                # Changes that were taken from the queues may be lost, so everything is decided again.
                self._due.update(self._state.grants)
                self._watched.touch_everything()
                failures += 1

    async def _step(self) -> None:
        now = self._clock()
        decided = self._decide(now)
        changes = self._remember(self._permit(decided, now), now)
        was_closed_for_audit = self._state.audit.held
        ended = {
            c.uid: self._state.grants[c.uid] for c in changes if isinstance(c, Ended) and c.uid in self._state.grants
        }
        for change in changes:
            self._state.apply(change)
        if self._state.audit.held != was_closed_for_audit:
            # A rule that was closed for the audit record has to say so, and may open again once the record flows.
            self._watched.touch_everything()
        self._layers.change(changes)
        self._set_deadlines(changes)
        await self._layers.apply(self._state, self._wake)
        self._heartbeat.errors = self._layers.errors
        self._follow_up()
        _log(changes, ended, self._layers.errors)
        self._report(decided)

    def _decide(self, now: datetime) -> list[StateChange]:
        due_now, self._due = self._due, set()
        changes = end_due(self._state, due_now, now)
        audit = self._guard.change(self._state, now)
        changes += [audit] if audit else []
        if not self._closed_by_default.is_set() or not self._watched.synced:
            return changes
        touched = self._watched.take()
        if touched.everything:
            self._touch_all(touched)
        server = self._watched.server
        changes += follow_server(self._state, server, self._watched.trusted_pods)
        ended = {change.uid for change in changes if isinstance(change, Ended)}
        for key in sorted(touched.tenants):
            self._held_back.pop(key, None)
            tenant = self._watched.tenants.get(*key)
            rules = self._watched.rules.of(key)
            unguarded = self._approvals.objections(rules, server)
            of_tenant, opens_at = decide_tenant(self._state, key, rules, tenant, server, now, unguarded)
            self._report_unguarded(key, unguarded)
            changes += [c for c in of_tenant if not (isinstance(c, Ended) and c.uid in ended)]
            if opens_at is not None:
                self._openings.set(key, opens_at)
        changes += forget_gone(self._state, touched.gone)
        for uid in touched.gone:
            self._approvals.forget(uid)
        for approvals, gone in ((touched.approvals, False), (touched.ended, True)):
            for approval in approvals.values():
                tenant = self._watched.tenants.get(*approval.tenant_key)
                changes += attribute_logins(self._state, approval, tenant, now, gone=gone)
        return changes

    def _report_unguarded(self, tenant: TenantKey, unguarded: Mapping[str, str]) -> None:
        for uid, message in unguarded.items():
            if message and uid not in self._state.grants:
                self._held_back.setdefault(tenant, {})[uid] = HeldBack("approval", message)
                self._to_report.add(uid)

    def _touch_all(self, touched: Touched) -> None:
        """Mark every object that exists, and every one that the state remembers and that may be gone."""
        rules = list(self._watched.rules)
        touched.tenants |= {rule.tenant_key for rule in rules}
        touched.tenants |= {grant.tenant_key for grant in self._state.grants.values()}
        touched.gone |= self._state.closed - {rule.metadata.uid for rule in rules}
        touched.approvals.update((a.metadata.uid, a) for a in self._watched.approvals)
        self._to_report.update(rule.metadata.uid for rule in rules)

    def _permit(self, changes: list[StateChange], now: datetime) -> list[StateChange]:
        """Leave out what must not open while this machine's clock is wrong or the audit record does not flow."""
        grace = self._state.audit_grace
        message = self._guard.message(grace) if self._guard.closes_access and grace is not None else ""
        permitted = permit(self._state, changes, now, clock_skew=self._heartbeat.skew, audit_message=message)
        self._hold_back(permitted)
        return permitted.changes

    def _hold_back(self, permitted: Permitted) -> None:
        for grant, cause in permitted.held_back:
            self._held_back.setdefault(grant.tenant_key, {})[grant.uid] = cause

    def _remember(self, changes: list[StateChange], now: datetime) -> list[StateChange]:
        """Write changes to disk before they are applied. What cannot be written may close a rule, but opens none."""
        pending = [*self._unsaved, *changes]
        if not pending:
            return changes
        try:
            self._file.append(self._state, pending, now)
        except OSError as error:
            log.error("state file", message=str(error.strerror))
            cause = HeldBack("state", f"the state file cannot be written: {error.strerror}")
            permitted = without_openings(self._state.grants, changes, cause)
            self._hold_back(permitted)
            self._unsaved += permitted.changes
            return permitted.changes
        self._unsaved = []
        return changes

    def _set_deadlines(self, changes: Iterable[StateChange]) -> None:
        for change in changes:
            match change:
                case Opened(grant=grant):
                    self._deadlines.set(grant.uid, grant.deadline)
                case Ended(uid=uid):
                    self._deadlines.discard(uid)

    def _follow_up(self) -> None:
        """Look for sessions of closed rules again soon after: some were just logging in, some do not end at once."""
        roles = self._layers.take_closed_roles()
        for seconds in FOLLOW_UPS if roles else ():
            asyncio.get_running_loop().call_later(seconds, self._recheck, roles)

    def _recheck(self, roles: set[str]) -> None:
        self._layers.recheck(roles)
        self._wake.set()

    async def _check_chain(self) -> None:
        """Restore the firewall's chain. Until it was right once, nothing opens; what is due is closed anyway."""
        try:
            changed = await self._layers.kernel.ensure()
        except Expected as error:
            log.error("cannot close by default", message=error.message)
            return
        if not self._closed_by_default.is_set():
            self._closed_by_default.set()
            log.info("closed by default")
            self._wake.set()
        elif changed:
            message = "the kernel's chain was changed by somebody else and is restored"
            await self._check_kernel()
            await self._heartbeat.warn(self._watched.server, "ChainRestored", message)

    async def _check_audit(self) -> None:
        await self._guard.check(self._state.audit_grace)
        self._heartbeat.audit = self._guard.status_entry
        if self._guard.change(self._state, self._clock()) is not None:
            self._wake.set()

    async def _warn_of_audit(self) -> None:
        # Apart from the check, which an API server that does not answer must not hold up.
        if warning := self._guard.take_warning():
            await self._heartbeat.warn(self._watched.server, Reason.LOG_DISK_FULL, warning)

    async def _check_file(self) -> None:
        if self._layers.hba.changed():
            self._wake.set()

    async def _check_sessions(self) -> None:
        self._layers.recheck()
        for tenant in self._held_back:
            self._watched.touch(tenant)
        counts = self._layers.desired.count(self._layers.sessions.seen)
        self._to_report |= {
            uid for uid in counts.keys() | self._sessions.keys() if counts.get(uid) != self._sessions.get(uid)
        }
        self._sessions = counts
        self._heartbeat.note_sources(str(s.address) for s in self._layers.sessions.seen if s.address is not None)
        # Trusted sources are refused until the server's object is known, and say nothing about tenants.
        refused = await self._layers.kernel.refused()
        self._heartbeat.note_sources(a for a in refused if not within(parse_address(a), self._state.trusted))
        self._wake.set()

    async def _check_kernel(self) -> None:
        orphans = await self._layers.kernel.verify()
        self._orphans |= orphans
        self._wake.set()

    async def _warn_of_orphans(self) -> None:
        # Apart from the check, which an API server that does not answer must not hold up.
        if self._orphans and self._watched.server is not None:
            cidrs, self._orphans = sorted(self._orphans), set()
            more = f" and {len(cidrs) - _SHOWN} more" if len(cidrs) > _SHOWN else ""
            message = f"the kernel let in {', '.join(cidrs[:_SHOWN])}{more}, which no rule explains; closed again"
            await self._heartbeat.warn(self._watched.server, "OrphansEnded", message)

    def _report(self, decided: Iterable[StateChange]) -> None:
        now = self._clock()
        uids = {uid for change in decided if (uid := rule_uid(change))} | self._to_report | set(self._layers.closing())
        self._to_report = set()
        for uid in uids:
            rule = self._watched.rules.by_uid(uid)
            if rule is None:
                continue
            if self._layers.unsettled(uid):
                self._to_report.add(uid)
                continue
            cause = self._held_back.get(rule.tenant_key, {}).get(uid)
            errors = {cause.layer: cause.message} if cause else self._layers.errors_of(uid)
            if errors:
                # Report again until there is no error.
                self._to_report.add(uid)
            facts = RuleFacts(
                self._layers.desired.get(uid),
                errors,
                self._sessions.get(uid, 0),
                self._layers.terminated(uid),
                self._watchdog.of_rule(uid),
            )
            status = report(rule, facts, agent=self._identity.agent, now=now)
            if status is not None:
                self._reporter.put(rule, status)


def _log(changes: Iterable[StateChange], ended: dict[str, GrantRecord], errors: dict[str, str]) -> None:
    for change in changes:
        match change:
            case Opened(grant=grant):
                until = grant.deadline.isoformat()
                log.info("open", rule=grant.rule, role=grant.role, cidrs=grant.cidrs, until=until)
            case Ended(uid=uid) if uid in ended:
                log.info("closed", rule=ended[uid].rule, role=ended[uid].role)
            case AuditSeen(held=closed, complete_until=complete):
                log.warning("audit record", flows=complete is None, closed=closed, complete_until=complete)
    for layer, error in errors.items():
        log.warning("layer failed", layer=layer, message=error)
