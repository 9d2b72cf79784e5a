"""All layers in the order that never leaves an ended rule open.

pg_hba.conf → reload → kernel set → sessions → probe. The kernel comes after pg_hba.conf to open as well as to close:
until PostgreSQL was told, an address gets a reset and tries again at once, rather than a handshake that ends in a
refusal; and an address that the kernel lets through has had its deadline there since its first packet.
Each layer is tried even if the one before failed, so that one broken layer never keeps a rule open.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

from vaultbrix.agent.desired import Desired
from vaultbrix.agent.host.firewall import Firewall
from vaultbrix.agent.host.hba import HbaFile
from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.agent.layers.hba import HbaLayer
from vaultbrix.agent.layers.kernel import KernelLayer
from vaultbrix.agent.layers.sessions import FOLLOW_UPS, SessionLayer
from vaultbrix.grants.grant import Grant
from vaultbrix.grants.state import AgentState, Change, Ended, Opened
from vaultbrix.runtime.errors import Expected


class Layers:
    """What is enforced beside one PostgreSQL. Give it changes, then ``apply``; what failed is tried again with that."""

    def __init__(
        self, firewall: Firewall, file: HbaFile, control: SessionControl, port: int, clock: Callable[[], datetime]
    ) -> None:
        self.desired = Desired()
        self.kernel = KernelLayer(firewall, self.desired, clock)
        self.hba = HbaLayer(file, control, self.desired)
        self.sessions = SessionLayer(control, self.desired, port)
        self.errors: dict[str, str] = {}
        """Error by layer, of the last application; empty where all went well."""
        self._closing: dict[str, tuple[float, Grant]] = {}
        self._terminated: dict[str, int] = {}
        self._unloaded: set[str] = set()
        self._roles: set[str] = set()
        self._closed_roles: set[str] = set()
        self._all_sessions = True

    def load(self, state: AgentState) -> None:
        """Begin with a state: nothing is known of what the layers hold."""
        for record in state.grants.values():
            self._open(record)

    def change(self, changes: Iterable[Change]) -> None:
        """Take over changes of the state."""
        for change in changes:
            match change:
                case Opened(grant=record):
                    self._open(record)
                case Ended(uid=uid):
                    self._close(uid)

    def recheck(self, roles: Iterable[str] | None = None) -> None:
        """Have sessions looked at again, of these roles or all, with the next application."""
        if roles is None:
            self._all_sessions = True
        else:
            self._roles.update(roles)

    async def apply(self, state: AgentState, hurried: Callable[[], bool]) -> None:
        """Make all layers hold exactly the grants of the state. ``hurried`` says that there is more to do already."""
        self.errors = {}
        await self._try("kernel", lambda: self.kernel.trust(state.trusted))
        await self._try("hba", lambda: self.hba.write(state.database, state.trusted))
        await self._try("kernel", self.kernel.open)
        await self._try("kernel", self.kernel.close)
        await self._try("sessions", self._end_sessions)
        if "hba" not in self.errors:
            await self._try("hba", lambda: self._confirm(hurried))
        self._settle()

    def trouble(self, uid: str) -> dict[str, str]:
        """Error by layer that keeps a rule from being open, or closed, as it should be."""
        closing = self._closing.get(uid)
        grant = self.desired.get(uid) or (closing[1] if closing else None)
        if grant is None or not self.errors:
            return {}
        found = {}
        if "kernel" in self.errors and self.kernel.dirty.intersection(grant.cidrs):
            found["kernel"] = self.errors["kernel"]
        if "hba" in self.errors and uid in self._unloaded:
            found["hba"] = self.errors["hba"]
        if "sessions" in self.errors and grant.role in self._roles:
            found["sessions"] = self.errors["sessions"]
        return found

    def unsettled(self, uid: str) -> bool:
        """Whether it is not known yet how a rule stands, because there was more to do than to wait for an answer."""
        return uid in self._unloaded and "hba" not in self.errors

    def terminated(self, uid: str) -> int:
        """Sessions that were ended with a rule."""
        return self._terminated.get(uid, 0)

    def closing(self) -> list[str]:
        """uids of rules that were closed a moment ago."""
        return list(self._closing)

    def take_closed_roles(self) -> set[str]:
        """Roles that had something closed since the last time."""
        roles, self._closed_roles = self._closed_roles, set()
        return roles

    def _open(self, grant: Grant) -> None:
        earlier = self.desired.open(grant)
        self.kernel.touch(grant.cidrs)
        if earlier is not None and (earlier.role, earlier.cidrs) == (grant.role, grant.cidrs):
            return
        self._load_again(grant.uid)
        if earlier is not None:
            # What its earlier terms covered may be covered no more.
            self.kernel.touch(earlier.cidrs)
            self._check_role(earlier.role)

    def _close(self, uid: str) -> None:
        grant = self.desired.close(uid)
        if grant is not None:
            self._closing[uid] = (time.monotonic(), grant)
            self._check_role(grant.role)
            self.kernel.touch(grant.cidrs)
            self._load_again(uid)

    def _check_role(self, role: str) -> None:
        self._roles.add(role)
        self._closed_roles.add(role)

    def _load_again(self, uid: str) -> None:
        self._unloaded.add(uid)
        self.hba.touch()

    async def _end_sessions(self) -> None:
        everything, roles = self._all_sessions, set(self._roles)
        ended = await self.sessions.end(None if everything else roles)
        self._all_sessions = False
        self._roles -= roles
        for session in ended:
            for uid, (_, grant) in self._closing.items():
                if session.role == grant.role and session.address is not None and grant.covers(session.address):
                    self._terminated[uid] = self._terminated.get(uid, 0) + 1

    async def _confirm(self, hurried: Callable[[], bool]) -> None:
        await self.hba.confirm(hurried)
        if self.hba.loaded:
            self._unloaded.clear()

    def _settle(self) -> None:
        """Forget what has been closed for long enough that no session of it can turn up."""
        before = time.monotonic() - 2 * FOLLOW_UPS[-1]
        for uid, (since, _) in list(self._closing.items()):
            if since < before and not self.trouble(uid):
                del self._closing[uid]
                self._terminated.pop(uid, None)

    async def _try(self, layer: str, action: Callable[[], Awaitable[None]]) -> None:
        try:
            await action()
        except Expected as error:
            self.errors.setdefault(layer, error.message)
