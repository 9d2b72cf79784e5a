"""The agent's one loop: what changed or fell due → decide → remember → apply → report.

Default closed first: chain, then the state on disk, then the API server, which it needs to open a rule
but never to close one. A change of an object costs what its Tenant's rules cost, however many there are in all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from vaultbrix.agent.audit_guard import AuditGuard
from vaultbrix.agent.decisions import due, of_approval, of_audit, of_gone, of_server, of_tenant, what_it_takes_away
from vaultbrix.agent.heartbeat import Heartbeat
from vaultbrix.agent.layers.sessions import FOLLOW_UPS
from vaultbrix.agent.layers.stack import Layers
from vaultbrix.agent.reports import Facts, Reporter, report
from vaultbrix.agent.watched import Touched, Watched
from vaultbrix.grants.file import GrantsFile, load
from vaultbrix.grants.state import AgentState, AuditSeen, Closed, Ended, GrantRecord, Opened, StateChange
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
# Reading the kernel's whole set takes as long as it is large; at most this share of the time is spent on a check.
MOST_OF_THE_TIME = 0.01
LONGEST_RETRY = 5.0


@dataclass(frozen=True)
class Identity:
    """Which agent this is, for which PostgresServer, and where it keeps its state."""

    agent: str
    server: str
    state_file: Path


@dataclass(frozen=True)
class HeldBack:
    """Why a rule that should open does not."""

    layer: str
    message: str


class Enforcer:
    """Enforces the rules of one PostgresServer here. Sets ``closed`` once the chain stands."""

    def __init__(
        self,
        identity: Identity,
        layers: Layers,
        kube: Kube,
        heartbeat: Heartbeat,
        guard: AuditGuard,
        closed: asyncio.Event,
        clock: Callable[[], datetime],
    ) -> None:
        self._identity = identity
        self._layers = layers
        self._heartbeat = heartbeat
        self._guard = guard
        self._closed = closed
        self._clock = clock
        self._watched = Watched(kube, identity.server, self._wake_up)
        self._reporter = Reporter(kube)
        self._file = GrantsFile(identity.state_file)
        self._state = AgentState(identity.server)
        self._unsaved: list[StateChange] = []
        self._held_back: dict[TenantKey, dict[str, HeldBack]] = {}
        self._deadlines: Deadlines[str] = Deadlines(clock)
        self._openings: Deadlines[TenantKey] = Deadlines(clock)
        self._due: set[str] = set()
        self._tell: set[str] = set()
        self._sessions: dict[str, int] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. On the way out the rules stay in force: the kernel's timeouts end them."""
        await self._check_chain()
        self._state = load(self._identity.state_file, self._identity.server)
        self._layers.load(self._state)
        self._guard.begin(self._state, self._clock())
        await self._check_kernel()
        self._due.update(self._state.grants)
        for uid, grant in self._state.grants.items():
            self._deadlines.set(uid, grant.deadline)
        async with asyncio.TaskGroup() as group:
            for part in (self._watched, self._reporter, self._heartbeat):
                group.create_task(part.run())
            group.create_task(self._deadlines.run(self._fall_due))
            group.create_task(self._openings.run(self._watched.touch))
            group.create_task(_every(CHAIN_SECONDS, self._check_chain))
            group.create_task(_every(CHAIN_SECONDS, self._check_file))
            group.create_task(_every(AUDIT_SECONDS, self._check_audit))
            group.create_task(_every(SESSION_SECONDS, self._check_sessions))
            group.create_task(_every(KERNEL_SECONDS, self._check_kernel))
            group.create_task(self._loop())

    def _wake_up(self) -> None:
        self._wake.set()

    def _fall_due(self, uid: str) -> None:
        self._due.add(uid)
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
                # What was taken from the queues may be lost.
                self._due.update(self._state.grants)
                self._watched.touch_everything()
                failures += 1

    async def _step(self) -> None:
        now = self._clock()
        decided = self._decide(now)
        changes = self._remember(self._hold_back(decided, now), now)
        was_held = self._state.audit.held
        ended = {
            c.uid: self._state.grants[c.uid] for c in changes if isinstance(c, Ended) and c.uid in self._state.grants
        }
        for change in changes:
            self._state.apply(change)
        if self._state.audit.held != was_held:
            # What was closed for it is to say so, and what may open again opens.
            self._watched.touch_everything()
        self._layers.change(changes)
        self._arm(changes)
        await self._layers.apply(self._state, self._wake.is_set)
        self._heartbeat.errors = self._layers.errors
        self._follow_up()
        _log(changes, ended, self._layers.errors)
        self._report(decided)

    def _decide(self, now: datetime) -> list[StateChange]:
        due_now, self._due = self._due, set()
        changes = due(self._state, due_now, now)
        audit = self._guard.change(self._state, now)
        changes += [audit] if audit else []
        if not self._closed.is_set() or not self._watched.synced:
            return changes
        touched = self._watched.take()
        if touched.everything:
            self._touch_all(touched)
        server = self._watched.server
        changes += of_server(self._state, server)
        decided = {change.uid for change in changes if isinstance(change, Ended)}
        for key in sorted(touched.tenants):
            self._held_back.pop(key, None)
            tenant = self._watched.tenants.get(*key)
            found, opens_at = of_tenant(self._state, key, self._watched.rules.of(key), tenant, server, now)
            changes += [c for c in found if not (isinstance(c, Ended) and c.uid in decided)]
            if opens_at is not None:
                self._openings.set(key, opens_at)
        changes += of_gone(self._state, touched.gone)
        for approvals, gone in ((touched.approvals, False), (touched.ended, True)):
            for approval in approvals.values():
                tenant = self._watched.tenants.get(*approval.tenant_key)
                changes += of_approval(self._state, approval, tenant, now, gone=gone)
        return changes

    def _touch_all(self, touched: Touched) -> None:
        """Everything that is there, and everything that the state remembers and that may be gone."""
        rules = list(self._watched.rules)
        touched.tenants |= {rule.tenant_key for rule in rules}
        for grant in self._state.grants.values():
            namespace, _, name = grant.tenant.partition("/")
            touched.tenants.add((namespace, name))
        touched.gone |= self._state.closed - {rule.metadata.uid for rule in rules}
        touched.approvals.update((a.metadata.uid, a) for a in self._watched.approvals)
        self._tell.update(rule.metadata.uid for rule in rules)

    def _hold_back(self, changes: list[StateChange], now: datetime) -> list[StateChange]:
        """Without what must not open while this machine's clock is wrong or the audit record does not flow."""
        skew = self._heartbeat.skew
        if skew:
            message = f"the clock differs by {skew} s from the API server's; nothing opens"
            changes = self._closing_part(changes, "clock", message)
        grace = self._state.audit_grace
        if self._guard.held and grace is not None:
            changes = self._closing_part(changes, "audit", self._guard.why(grace))
            changes += of_audit(self._state, [c.uid for c in changes if isinstance(c, Ended)], now)
        return changes

    def _closing_part(self, changes: Iterable[StateChange], layer: str, message: str) -> list[StateChange]:
        """What of the changes closes something; what opens is held back, and the rule's report says why."""
        kept: list[StateChange] = []
        for change in changes:
            if not isinstance(change, Opened):
                kept.append(change)
                continue
            part = what_it_takes_away(self._state.grants.get(change.grant.uid), change)
            if part is not None:
                kept.append(part)
            if part is not change:
                namespace, _, name = change.grant.tenant.partition("/")
                self._held_back.setdefault((namespace, name), {})[change.grant.uid] = HeldBack(layer, message)
        return kept

    def _remember(self, changes: list[StateChange], now: datetime) -> list[StateChange]:
        """Write the changes before they are applied. What cannot be remembered is not opened, but closed it is."""
        pending = [*self._unsaved, *changes]
        if not pending:
            return changes
        try:
            self._file.append(self._state, pending, now)
        except OSError as error:
            log.error("state file", message=str(error.strerror))
            kept = self._closing_part(changes, "state", f"the state file cannot be written: {error.strerror}")
            self._unsaved += kept
            return kept
        self._unsaved = []
        return changes

    def _arm(self, changes: Iterable[StateChange]) -> None:
        for change in changes:
            match change:
                case Opened(grant=grant):
                    self._deadlines.set(grant.uid, grant.deadline)
                case Ended(uid=uid):
                    self._deadlines.discard(uid)

    def _follow_up(self) -> None:
        """Look again for sessions of what was closed: some were just logging in, some do not end when told to."""
        roles = self._layers.take_closed_roles()
        for seconds in FOLLOW_UPS if roles else ():
            asyncio.get_running_loop().call_later(seconds, self._recheck, roles)

    def _recheck(self, roles: set[str]) -> None:
        self._layers.recheck(roles)
        self._wake.set()

    async def _check_chain(self) -> None:
        """Chain and file as they should be. Until the chain stood once, nothing opens; what is due is closed anyway."""
        try:
            changed = await self._layers.kernel.ensure()
        except Expected as error:
            log.error("cannot close by default", message=error.message)
            return
        if not self._closed.is_set():
            self._closed.set()
            log.info("closed by default")
            self._wake.set()
        elif changed:
            message = "the kernel's chain was changed by somebody else and is restored"
            await self._check_kernel()
            await self._heartbeat.warn(self._watched.server, "ChainRestored", message)

    async def _check_audit(self) -> None:
        await self._guard.check(self._state.audit_grace)
        self._heartbeat.audit = self._guard.told
        if self._guard.change(self._state, self._clock()) is not None:
            self._wake.set()

    async def _check_file(self) -> None:
        if self._layers.hba.changed():
            self._wake.set()

    async def _check_sessions(self) -> None:
        self._layers.recheck()
        for tenant in self._held_back:
            self._watched.touch(tenant)
        counts = self._layers.desired.count(self._layers.sessions.seen)
        self._tell |= {
            uid for uid in counts.keys() | self._sessions.keys() if counts.get(uid) != self._sessions.get(uid)
        }
        self._sessions = counts
        self._heartbeat.saw(str(s.address) for s in self._layers.sessions.seen if s.address is not None)
        # Trusted sources are refused for the moment until they are known to be, and say nothing about tenants.
        refused = await self._layers.kernel.refused()
        self._heartbeat.saw(a for a in refused if not within(parse_address(a), self._state.trusted))
        self._wake.set()

    async def _check_kernel(self) -> None:
        await self._layers.kernel.verify()
        self._wake.set()

    def _report(self, decided: Iterable[StateChange]) -> None:
        now = self._clock()
        uids = {uid for change in decided if (uid := _uid(change))} | self._tell | set(self._layers.closing())
        self._tell = set()
        for uid in uids:
            rule = self._watched.rules.by_uid(uid)
            if rule is None:
                continue
            if self._layers.unsettled(uid):
                self._tell.add(uid)
                continue
            held = self._held_back.get(rule.tenant_key, {}).get(uid)
            errors = {held.layer: held.message} if held else self._layers.errors_of(uid)
            if errors:
                # Until it is well.
                self._tell.add(uid)
            facts = Facts(
                self._layers.desired.get(uid), errors, self._sessions.get(uid, 0), self._layers.terminated(uid)
            )
            told = report(rule, facts, agent=self._identity.agent, now=now)
            if told is not None:
                self._reporter.put(rule, told)


async def _every(seconds: float, check: Callable[[], Awaitable[None]]) -> None:
    pause = seconds
    while True:
        await asyncio.sleep(pause)
        begun = time.monotonic()
        try:
            await check()
        except Exception:
            log.exception("unexpected error")
        pause = max(seconds, (time.monotonic() - begun) / MOST_OF_THE_TIME)


def _uid(change: StateChange) -> str:
    """The rule that a change is about, empty where it is about none."""
    match change:
        case Opened(grant=grant):
            return grant.uid
        case Ended(uid=uid) | Closed(uid=uid):
            return uid
    return ""


def _log(changes: Iterable[StateChange], ended: dict[str, GrantRecord], errors: dict[str, str]) -> None:
    for change in changes:
        match change:
            case Opened(grant=grant):
                until = grant.deadline.isoformat()
                log.info("open", rule=grant.rule, role=grant.role, cidrs=grant.cidrs, until=until)
            case Ended(uid=uid) if uid in ended:
                log.info("closed", rule=ended[uid].rule, role=ended[uid].role)
            case AuditSeen(held=held, complete_until=complete):
                log.warning("audit record", flows=complete is None, closed=held, complete_until=complete)
    for layer, error in errors.items():
        log.warning("layer failed", layer=layer, message=error)
