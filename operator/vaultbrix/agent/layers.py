"""Apply a state to the layers, in the order that never leaves an ended rule open.

To open: kernel set → pg_hba.conf → reload. To close: pg_hba.conf → reload → kernel set → sessions.
Each layer is tried even if the one before failed, so that one broken layer never keeps a rule open.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from vaultbrix.adapters.firewall import Firewall, timeout_for
from vaultbrix.adapters.hba import HbaFile
from vaultbrix.adapters.sessions import SessionControl
from vaultbrix.domain.access import Grant, hba_pairs, kernel_deadlines, sessions_to_end
from vaultbrix.domain.grants import AgentState
from vaultbrix.domain.render import hba_block
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

# Of an entry that somebody else made or changed: no grant has this deadline, so it is replaced or removed.
NEVER = datetime.min.replace(tzinfo=UTC)


def _lasts_until(seconds: int, deadline: datetime, now: datetime) -> bool:
    # 2 s is rounding.
    return abs(seconds - timeout_for(deadline, now)) <= 2


@dataclass
class Outcome:
    """What the last application did: error text per layer, empty where it went well."""

    errors: dict[str, str] = field(default_factory=dict)
    ended: int = 0

    @property
    def ok(self) -> bool:
        """Whether every layer holds what it should."""
        return not self.errors


class Layers:
    """pg_hba.conf, kernel and sessions of one PostgreSQL."""

    def __init__(self, firewall: Firewall, hba: HbaFile, sessions: SessionControl) -> None:
        self._firewall = firewall
        self._hba = hba
        self._sessions = sessions
        self._kernel: dict[str, datetime] = {}
        self._trusted: tuple[str, ...] | None = None
        self._reload_due = True

    async def close_by_default(self) -> bool:
        """Chain and sets in place; returns whether something was missing. Raises Transient."""
        return await asyncio.to_thread(self._firewall.ensure)

    async def apply(self, state: AgentState) -> Outcome:
        """Make all layers hold exactly the grants of the state."""
        outcome = Outcome()
        grants = [record.grant() for record in state.grants]
        wanted = kernel_deadlines(grants)
        await self._try(outcome, "kernel", lambda: self._kernel_add(state.trusted, wanted))
        await self._try_hba(outcome, state, grants)
        await self._try(outcome, "kernel", lambda: self._kernel_remove(wanted))
        try:
            outcome.ended = await self._end_sessions(grants)
        except Expected as error:
            outcome.errors["sessions"] = error.message
        return outcome

    async def forget(self) -> None:
        """Take nothing for granted next time: what the kernel holds now is read, and what differs is put right."""
        now = datetime.now(UTC)
        try:
            present = await asyncio.to_thread(self._firewall.allowed)
        except Expected:
            # Unknown: all that may be there is added, or taken out, again.
            present = dict.fromkeys(self._kernel, 0)
        self._kernel = {
            cidr: deadline if _lasts_until(seconds, deadline, now) else NEVER
            for cidr, seconds in present.items()
            for deadline in [self._kernel.get(cidr, NEVER)]
        }
        self._trusted = None

    async def _try(self, outcome: Outcome, layer: str, action: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(action)
        except Expected as error:
            outcome.errors[layer] = error.message

    def _kernel_add(self, trusted: tuple[str, ...], wanted: dict[str, datetime]) -> None:
        if trusted != self._trusted:
            self._firewall.trust(trusted)
            self._trusted = trusted
        now = datetime.now(UTC)
        changed = {cidr: deadline for cidr, deadline in wanted.items() if self._kernel.get(cidr) != deadline}
        if changed:
            self._firewall.allow({cidr: timeout_for(deadline, now) for cidr, deadline in changed.items()})
            self._kernel.update(changed)

    def _kernel_remove(self, wanted: dict[str, datetime]) -> None:
        gone = self._kernel.keys() - wanted.keys()
        if gone:
            self._firewall.deny(gone)
            for cidr in gone:
                del self._kernel[cidr]

    async def _try_hba(self, outcome: Outcome, state: AgentState, grants: list[Grant]) -> None:
        block = hba_block(database=state.database, pairs=hba_pairs(grants), trusted=state.trusted)
        try:
            if await asyncio.to_thread(self._hba.write, block):
                self._reload_due = True
            if self._reload_due:
                broken = await self._sessions.hba_errors()
                await self._sessions.reload()
                self._reload_due = bool(broken)
                if broken:
                    line, error = broken[0]
                    outcome.errors["hba"] = f"pg_hba.conf line {line}: {error}; PostgreSQL loads no file with an error"
        except Expected as error:
            outcome.errors["hba"] = error.message

    async def _end_sessions(self, grants: list[Grant]) -> int:
        by_role: dict[str, list[Grant]] = {}
        for grant in grants:
            by_role.setdefault(grant.role, []).append(grant)
        ending = sessions_to_end(await self._sessions.tenant_sessions(), by_role)
        if ending:
            await self._sessions.terminate([s.pid for s in ending])
            for session in ending:
                log.info("session ended", role=session.role, address=str(session.address), pid=session.pid)
        return len(ending)
