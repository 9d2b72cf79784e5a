"""The agent's one loop: what changed or fell due → decide → apply → remember → report.

Default closed first: chain, then the state on disk, then the API server, which it needs to open a rule
but never to close one.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from vaultbrix.adapters.informer import Informer
from vaultbrix.adapters.kube import Kube
from vaultbrix.agent import state as disk
from vaultbrix.agent.layers import Layers, Outcome
from vaultbrix.agent.reports import Reporter, report
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.domain.grants import AgentState, advance, expire
from vaultbrix.runtime.deadlines import Deadlines
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import pause_after
from vaultbrix.runtime.store import Store

log = structlog.get_logger(__name__)

# How often everything is compared with what should hold: somebody else's edits, a flushed chain, a late session.
CHECK_SECONDS = 5.0
LONGEST_RETRY = 5.0


@dataclass(frozen=True)
class Identity:
    """Which agent this is, for which PostgresServer, and where it keeps its state."""

    agent: str
    server: str
    state_file: Path


class Enforcer:
    """Enforces the rules of one PostgresServer here. Sets ``closed`` once the chain stands."""

    def __init__(self, identity: Identity, layers: Layers, kube: Kube, closed: asyncio.Event) -> None:
        self._identity = identity
        self._layers = layers
        self._rules = Store(AccessRule)
        self._tenants = Store(Tenant)
        self._servers = Store(PostgresServer)
        self._approvals = Store(DDLApproval)
        self._informers: tuple[Informer[Any], ...] = (
            Informer(kube, self._servers, self._changed),
            Informer(kube, self._tenants, self._changed),
            Informer(kube, self._approvals, self._changed),
            Informer(kube, self._rules, self._changed),
        )
        self._reporter = Reporter(kube)
        self._state = AgentState(server=identity.server)
        self._deadlines: Deadlines[str] = Deadlines()
        self._wake = asyncio.Event()
        self._check_due = False
        self._closed = closed

    async def run(self) -> None:
        """Until cancelled. On the way out the rules stay in force: the kernel's timeouts end them."""
        await self._start()
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.run())
            group.create_task(self._reporter.run())
            group.create_task(self._deadlines.run(self._due))
            group.create_task(self._check())
            group.create_task(self._loop())

    async def _start(self) -> None:
        await self._restore()
        self._state = expire(disk.load(self._identity.state_file, self._identity.server), datetime.now(UTC))
        self._arm()

    def _changed(self, resource: Resource) -> None:
        del resource
        self._wake.set()

    def _due(self, uid: str) -> None:
        del uid
        self._wake.set()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._check_due = True
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
                outcome = await self._step()
                failures = 0 if outcome.ok else failures + 1
            except Exception:
                log.exception("unexpected error")
                failures += 1

    async def _step(self) -> Outcome:
        if self._check_due:
            self._check_due = False
            await self._restore()
        before = self._state
        self._state = self._remember(self._decide(datetime.now(UTC)))
        outcome = await self._layers.apply(self._state)
        self._arm()
        self._log_changes(before, self._state, outcome)
        self._report(outcome)
        return outcome

    async def _restore(self) -> None:
        """The chain as it should be. Until it stood once, nothing opens and what is due is closed all the same."""
        try:
            changed = await self._layers.close_by_default()
        except Expected as error:
            log.error("cannot close by default", message=error.message)
        else:
            if not self._closed.is_set():
                self._closed.set()
                log.info("closed by default")
            elif changed:
                log.warning("chain VAULTBRIX was changed by somebody else and is restored")
        await self._layers.forget()

    def _decide(self, now: datetime) -> AgentState:
        if not self._closed.is_set() or not all(informer.synced.is_set() for informer in self._informers):
            return expire(self._state, now)
        return advance(
            self._state,
            rules=self._rules,
            tenants={tenant.key: tenant for tenant in self._tenants},
            server=self._servers.get("", self._identity.server),
            approvals=self._approvals,
            now=now,
        )

    def _remember(self, wanted: AgentState) -> AgentState:
        """Write the state before it is applied. What cannot be remembered is not opened."""
        if wanted == self._state and self._identity.state_file.exists():
            return wanted
        try:
            disk.save(self._identity.state_file, wanted)
        except OSError as error:
            log.error("state file", message=str(error.strerror))
            kept = {g.uid for g in self._state.grants}
            return wanted.model_copy(update={"grants": tuple(g for g in wanted.grants if g.uid in kept)})
        return wanted

    def _arm(self) -> None:
        for grant in self._state.grants:
            self._deadlines.set(grant.uid, grant.deadline)

    def _log_changes(self, before: AgentState, after: AgentState, outcome: Outcome) -> None:
        old, new = {g.uid: g for g in before.grants}, {g.uid: g for g in after.grants}
        for uid in new.keys() - old.keys():
            grant = new[uid]
            log.info(
                "opened",
                rule=grant.rule,
                role=grant.role,
                cidrs=grant.cidrs,
                until=grant.deadline.isoformat(),
            )
        for uid in old.keys() - new.keys():
            self._deadlines.discard(uid)
            log.info("closed", rule=old[uid].rule, role=old[uid].role, sessions_ended=outcome.ended)
        for layer, error in outcome.errors.items():
            log.warning("layer failed", layer=layer, message=error)

    def _report(self, outcome: Outcome) -> None:
        now = datetime.now(UTC)
        enforced = {g.uid: g.grant() for g in self._state.grants}
        for rule in self._rules:
            told = report(rule, enforced.get(rule.metadata.uid), outcome.errors, agent=self._identity.agent, now=now)
            if told is not None:
                self._reporter.put(rule, told)
