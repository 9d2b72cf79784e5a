"""Applies all layers, in the order that never leaves an ended rule open.

Two chains that do not wait for each other. To close: kernel set → sessions. To open: pg_hba.conf → reload → kernel set.
The first needs no answer of PostgreSQL. In the second the kernel comes last: until PostgreSQL has reloaded, an address
gets a reset and tries again at once, rather than a handshake that ends in a refusal; and an address that the kernel
lets through has had its deadline there since its first packet. Then the probe: has PostgreSQL loaded pg_hba.conf? Who
logged in by the old one until then is looked for once more.
Each layer is tried even if the one before failed, so that one broken layer never keeps a rule open.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

from vaultbrix.agent.desired import Desired
from vaultbrix.agent.host.firewall import Firewall
from vaultbrix.agent.host.hba import HbaFile
from vaultbrix.agent.host.hba_text import Admin
from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.agent.layers.hba import HbaLayer
from vaultbrix.agent.layers.kernel import KernelLayer
from vaultbrix.agent.layers.sessions import FOLLOW_UPS, SessionLayer
from vaultbrix.grants.grant import Grant
from vaultbrix.grants.state import AgentState, Ended, Opened, StateChange
from vaultbrix.runtime.errors import Expected

# Of grants that ended so shortly before the agent died, connections may still be there.
UNFINISHED = timedelta(minutes=10)


class Layers:
    """The layers beside one PostgreSQL. Give them changes, then ``apply``; that also tries again what failed before."""

    def __init__(
        self,
        firewall: Firewall,
        file: HbaFile,
        control: SessionControl,
        port: int,
        clock: Callable[[], datetime],
        admin: Admin | None = None,
    ) -> None:
        self.desired = Desired()
        self.kernel = KernelLayer(firewall, self.desired, clock)
        self.hba = HbaLayer(file, control, self.desired, admin)
        self.sessions = SessionLayer(control, self.desired, port)
        self._control = control
        self._clock = clock
        self.errors: dict[str, str] = {}
        """Error by layer, of the last ``apply``; empty where all went well."""
        self._closing: dict[str, tuple[float, Grant]] = {}
        self._terminated: dict[str, int] = {}
        self._unloaded: set[str] = set()
        self._roles: set[str] = set()
        self._closed_roles: set[str] = set()
        self._all_sessions = True

    def load(self, state: AgentState) -> None:
        """Take over the open grants of a state at the start, when it is not known what the layers let in."""
        for record in state.grants.values():
            self._open(record)
        since = self._clock() - UNFINISHED
        self.sessions.resume(grant for grant in state.ended if grant.ended_at is not None and grant.ended_at > since)

    async def keep_connected(self, opened: Callable[[], None]) -> None:
        """Keep a connection to PostgreSQL until cancelled; ``opened`` is called each time it was opened."""
        await self._control.keep(opened)

    def change(self, changes: Iterable[StateChange]) -> None:
        """Open and close grants as these changes of the state say, with the next ``apply``."""
        for change in changes:
            match change:
                case Opened(grant=record):
                    self._open(record)
                case Ended(uid=uid):
                    self._close(uid)

    def recheck(self, roles: Iterable[str] | None = None) -> None:
        """Have the sessions of these login roles, or of all, looked at by the next ``apply``."""
        if roles is None:
            self._all_sessions = True
        else:
            self._roles.update(roles)

    async def apply(self, state: AgentState, hurry: asyncio.Event) -> None:
        """Make all layers let in exactly what the state's grants say; errors end in ``errors``.

        ``hurry`` is set when there is more to do already; then nothing is waited for.
        """
        self.errors = {}
        await self._try("kernel", lambda: self.kernel.trust(state.trusted))
        await asyncio.gather(self._shut(state, hurry), self._let_in(state))
        if "hba" not in self.errors:
            was_loaded = self.hba.loaded
            await self._try("hba", lambda: self._confirm(hurry))
            if self._closed_roles and self.hba.loaded and not was_loaded:
                await self._try("sessions", lambda: self._end_sessions(state.trusted, hurry))
        self._settle()

    def errors_of(self, uid: str) -> dict[str, str]:
        """Return the errors, by layer, that keep a rule from being open, or closed, as it should be."""
        closing = self._closing.get(uid)
        grant = self.desired.get(uid) or (closing[1] if closing else None)
        if grant is None or not self.errors:
            return {}
        errors = {}
        if "kernel" in self.errors and self.kernel.dirty.intersection(grant.cidrs):
            errors["kernel"] = self.errors["kernel"]
        if "hba" in self.errors and uid in self._unloaded:
            errors["hba"] = self.errors["hba"]
        if "sessions" in self.errors and grant.role in self._roles:
            errors["sessions"] = self.errors["sessions"]
        return errors

    def unsettled(self, uid: str) -> bool:
        """Whether it is not known yet if PostgreSQL has loaded a rule, because ``apply`` was hurried."""
        return uid in self._unloaded and "hba" not in self.errors

    def terminated(self, uid: str) -> int:
        """Return how many sessions were ended with a rule."""
        return self._terminated.get(uid, 0)

    def closing(self) -> list[str]:
        """Return the uids of rules that were closed a moment ago."""
        return list(self._closing)

    def take_closed_roles(self) -> set[str]:
        """Return the login roles of grants that were closed or changed since the last call."""
        roles, self._closed_roles = self._closed_roles, set()
        return roles

    def _open(self, grant: Grant) -> None:
        earlier = self.desired.open(grant)
        self.kernel.touch(grant.cidrs)
        if earlier is not None and (earlier.role, earlier.cidrs) == (grant.role, grant.cidrs):
            return
        self._load_again(grant.uid)
        if earlier is not None:
            # Sessions that the earlier terms covered may be covered no more.
            self.kernel.touch(earlier.cidrs)
            self.sessions.watch(earlier)
            self._check_role(earlier.role)

    def _close(self, uid: str) -> None:
        grant = self.desired.close(uid)
        if grant is not None:
            self._closing[uid] = (time.monotonic(), grant)
            self.sessions.watch(grant)
            self._check_role(grant.role)
            self.kernel.touch(grant.cidrs)
            self._load_again(uid)

    def _check_role(self, role: str) -> None:
        self._roles.add(role)
        self._closed_roles.add(role)

    def _load_again(self, uid: str) -> None:
        self._unloaded.add(uid)
        self.hba.touch()

    async def _shut(self, state: AgentState, hurry: asyncio.Event) -> None:
        await self._try("kernel", self.kernel.close)
        if self._all_sessions or self._roles:
            await self._try("sessions", lambda: self._end_sessions(state.trusted, hurry))

    async def _let_in(self, state: AgentState) -> None:
        await self._try("hba", lambda: self.hba.write(state.database, state.trusted))
        await self._try("kernel", self.kernel.open)

    async def _end_sessions(self, trusted: tuple[str, ...], hurry: asyncio.Event) -> None:
        refresh, roles = self._all_sessions, set(self._roles)
        ended = await self.sessions.end(trusted, hurry, loaded=self.hba.loaded)
        if self.sessions.answered:
            self._all_sessions = False
            self._roles -= roles
        for session in ended:
            for uid, (_, grant) in self._closing.items():
                if (
                    session.role in ("", *grant.logins)
                    and session.address is not None
                    and grant.covers(session.address)
                ):
                    self._terminated[uid] = self._terminated.get(uid, 0) + 1
        if self.sessions.failure:
            raise self.sessions.failure
        if refresh and self.sessions.answered:
            await self.sessions.refresh_roles()

    async def _confirm(self, hurry: asyncio.Event) -> None:
        await self.hba.confirm(hurry)
        if self.hba.loaded:
            self._unloaded.clear()

    def _settle(self) -> None:
        """Forget what has been closed for long enough that no session of it can turn up."""
        before = time.monotonic() - 2 * FOLLOW_UPS[-1]
        for uid, (since, _) in list(self._closing.items()):
            if since < before and not self.errors_of(uid):
                del self._closing[uid]
                self._terminated.pop(uid, None)

    async def _try(self, layer: str, action: Callable[[], Awaitable[None]]) -> None:
        try:
            await action()
        except Expected as error:
            self.errors.setdefault(layer, error.message)
