"""The layer of open sessions: ends those that no grant covers, by PostgreSQL and by the kernel at the same time.

PostgreSQL tells its backends to end, which also lets go of their locks and gives their clients a message. The kernel
cuts what is left of their connections a moment later, or at once where PostgreSQL does not answer.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from vaultbrix.agent.connections import Connection, Sight, connections_to_cut, is_doubtful, is_suspect, owners
from vaultbrix.agent.desired import Desired, Session
from vaultbrix.agent.host import backends, sockets
from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.api.conditions import Reason
from vaultbrix.grants.grant import Grant
from vaultbrix.runtime.errors import Expected, Transient

log = structlog.get_logger(__name__)

# How long PostgreSQL may take to answer before the kernel goes on without it.
ANSWER_SECONDS = 0.05
# How long a backend that was told to end may take to give its client PostgreSQL's message.
GOODBYE_SECONDS = 0.03
# A login that was being checked when pg_hba.conf was loaded shows up a moment later.
FOLLOW_UPS = (0.2, 1.0, 2.0)
# While PostgreSQL is silent for less than this, nobody is cut for it but when a grant ends.
SILENCE_SECONDS = 3.0


class SessionLayer:
    """Ends sessions that no open grant covers."""

    def __init__(self, control: SessionControl, desired: Desired, port: int) -> None:
        self._control = control
        self._desired = desired
        self._port = port
        # Grants that have ended since PostgreSQL last said which sessions there are, and how many of them are new.
        self._ended: list[Grant] = []
        self._newly = 0
        # Connections that were logging in, from the address of a grant that had just ended.
        self._suspects: set[Connection] = set()
        # Since when (monotonic) PostgreSQL does not answer.
        self._silent_since: float | None = None
        # Whose each connection was when PostgreSQL last said so.
        self._owners: dict[Connection, Session] = {}
        # What PostgreSQL is asked, and the connections that there were just before.
        self._asking: tuple[list[Connection], asyncio.Task[list[Session]]] | None = None
        # What is on its way out already, by _key.
        self._ending: set[object] = set()
        self.seen: list[Session] = []
        """Sessions that a grant covered when they were last looked at."""
        self.failure: Expected | None = None
        """Why it is not known whether all have ended that ``end`` was to end."""

    def resume(self, ended: Iterable[Grant]) -> None:
        """Go on from grants that had ended before the agent started."""
        self._ended += ended

    def watch(self, ended: Grant) -> None:
        """Take the grant for ended: unless PostgreSQL says better, a connection from its addresses is cut."""
        self._ended.append(ended)
        self._newly += 1

    @property
    def answered(self) -> bool:
        """Whether PostgreSQL said which sessions there are when it was last asked."""
        return self._silent_since is None

    async def end(self, trusted: Sequence[str], hurry: asyncio.Event, *, loaded: bool) -> list[Session]:
        """End all sessions that no open grant covers; returns those that were not ended before.

        ``trusted`` are CIDRs that need no grant. ``loaded``: nobody begins to log in any more by an ended grant. A slow
        PostgreSQL is waited for only while no grant has ended and ``hurry`` is not set. Of a connection that PostgreSQL
        has not said whose it is, the session has process id 0 and no role.
        """
        newly, self._newly = self._newly, 0
        connections = await self._connections()
        answer = await self._ask(connections, None if newly else hurry)
        sessions = None if isinstance(answer, Expected) else answer
        sight = Sight(self._owners, sessions is not None, self._ended, trusted, self._suspects)
        is_patient = not newly and self._silence() < SILENCE_SECONDS
        judged_by = replace(sight, ended=(), suspects=frozenset()) if is_patient else sight
        doomed = connections_to_cut(connections, self._desired, judged_by)
        ending = {s.pid: s for s in (self._owners[c] for c in doomed if c in self._owners)}
        ending |= {s.pid: s for s in self._desired.uncovered(sessions or ())}
        untold = answer if isinstance(answer, Expected) else await self._tell(list(ending))
        self._warn_of_doubt(doomed, sight)
        failure = await self._cut(doomed, 0.0 if untold else GOODBYE_SECONDS) or untold
        if untold and doomed:
            # Takes as long as there are processes, and nothing rests on it.
            asyncio.get_running_loop().run_in_executor(None, self._signal, doomed)
        gone = [*ending.values(), *(_unknown(c) for c in doomed if c.inode and c not in self._owners)]
        ended = self._newly_ended(gone)
        if sessions is not None:
            self.seen = [s for s in sessions if s.of_tenant and s.role and s.pid not in ending]
            self._ending = set()
            logging_in = [c for c in connections if c not in self._owners and c not in doomed]
            self._suspects = {c for c in logging_in if is_suspect(c, sight)}
            if loaded and not self._newly:
                self._ended = []
        self._ending |= {_key(session) for session in gone}
        self.failure = failure if doomed or not is_patient or sessions is not None else None
        return ended

    def _silence(self) -> float:
        """Return for how many seconds PostgreSQL has not answered."""
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    async def _connections(self) -> list[Connection]:
        """Return what the kernel has at the port; nothing where it cannot be asked, so that PostgreSQL is."""
        try:
            return await asyncio.to_thread(sockets.connections, self._port)
        except Expected as error:
            log.warning("cannot list connections", message=error.message)
            return []

    async def refresh_roles(self) -> None:
        """Look up again what is remembered of login roles. Raises Transient or Blocked."""
        await self._control.refresh_roles()

    async def _ask(self, connections: list[Connection], hurry: asyncio.Event | None) -> list[Session] | Expected:
        """Ask PostgreSQL which sessions there are; returns why it does not say, where it does not in time.

        ``hurry`` is None where a grant has just ended: then PostgreSQL has little time, and what it was asked before
        says nothing about what came in since.
        """
        until = time.monotonic() + (SILENCE_SECONDS if hurry else ANSWER_SECONDS)
        if self._asking is not None and hurry is None:
            _, earlier = self._asking
            await _wait(earlier, until, None)
            if not earlier.done():
                return self._no_answer()
            earlier.exception()
            self._asking = None
        if self._asking is None:
            self._asking = (connections, asyncio.create_task(self._control.sessions()))
        there, asking = self._asking
        await _wait(asking, until, hurry)
        if not asking.done():
            return self._no_answer()
        self._asking = None
        try:
            sessions = asking.result()
        except Expected as error:
            self._no_answer()
            return error
        self._owners, self._silent_since = owners(there, sessions), None
        return sessions

    def _no_answer(self) -> Transient:
        if self._silent_since is None:
            self._silent_since = time.monotonic()
        return _no_answer()

    async def _tell(self, pids: Sequence[int]) -> Expected | None:
        """Have PostgreSQL tell these backends to end; returns why they were not told."""
        if not pids:
            return None
        telling = asyncio.create_task(self._control.terminate(pids))
        await asyncio.wait({telling}, timeout=ANSWER_SECONDS)
        if not telling.done():
            telling.cancel()
            return _no_answer()
        error = telling.exception()
        if error is not None and not isinstance(error, Expected):
            raise error
        return error

    async def _cut(self, doomed: Collection[Connection], patience: float) -> Expected | None:
        """Destroy these connections, those that are still there after ``patience`` seconds; returns why that failed.

        A process that is stopped says no goodbye, and gets no time for it.
        """
        until = time.monotonic() + patience
        stopped = [c for c in doomed if patience and (owner := self._owners.get(c)) and backends.is_stopped(owner.pid)]
        failure = await self._destroy(stopped)
        left = [connection for connection in doomed if connection not in stopped]
        while left and time.monotonic() < until:
            await asyncio.sleep(GOODBYE_SECONDS / 8)
            present = set(await self._connections())
            left = [connection for connection in left if connection in present]
        return await self._destroy(left) or failure

    async def _destroy(self, connections: list[Connection]) -> Expected | None:
        if not connections:
            return None
        try:
            count = await asyncio.to_thread(sockets.destroy, connections)
        except Expected as error:
            return error
        if count:
            pids = [self._owners[connection].pid for connection in connections if connection in self._owners]
            log.warning("connections are cut by the kernel", count=count, pids=pids)
        return None

    def _signal(self, doomed: Iterable[Connection]) -> None:
        """End the backends of these connections by hand, where the agent may."""
        try:
            pids = backends.end_owners([connection.inode for connection in doomed], sockets.listening(self._port))
        except Expected as error:
            log.warning("cannot end backends", message=error.message)
        else:
            log.warning("PostgreSQL could not tell backends to end", signalled=pids)

    def _newly_ended(self, gone: Iterable[Session]) -> list[Session]:
        ended = [session for session in gone if _key(session) not in self._ending]
        for session in ended:
            log.info("session ended", role=session.role, address=str(session.address), pid=session.pid)
        return ended

    def _warn_of_doubt(self, doomed: Iterable[Connection], sight: Sight) -> None:
        for connection in doomed:
            if is_doubtful(connection, sight) and self._desired.lets_in(connection.address):
                log.warning(
                    "cut for the end of a rule, though another rule lets its address in: PostgreSQL does not say whose "
                    "connection it is",
                    address=str(connection.address),
                    port=connection.port,
                )


def _unknown(connection: Connection) -> Session:
    """A session of which only the connection is known."""
    return Session(0, "", connection.address, connection.port)


def _key(session: Session) -> object:
    """What tells a session from others, whether or not PostgreSQL has named it."""
    return session.pid if session.port is None else (session.address, session.port)


async def _wait(task: asyncio.Task[Any], until: float, hurry: asyncio.Event | None) -> None:
    """Wait for a task until a time (monotonic), or until ``hurry`` is set."""
    if hurry is None:
        await asyncio.wait({task}, timeout=max(0.0, until - time.monotonic()))
        return
    hurried = asyncio.create_task(hurry.wait())
    try:
        await asyncio.wait({task, hurried}, timeout=until - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        hurried.cancel()


def _no_answer() -> Transient:
    return Transient(Reason.UNREACHABLE, "PostgreSQL does not answer; connections are ended by the kernel alone")
