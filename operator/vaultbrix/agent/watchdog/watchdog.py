"""The watchdog's loop: look at tenants' sessions, decide which take too much, end them, report why.

Locks are looked at most often, since one statement can take all that PostgreSQL has room for within half a second.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog

from vaultbrix.agent.heartbeat import Heartbeat
from vaultbrix.agent.watchdog.decisions import (
    Ending,
    Identity,
    Locks,
    Owner,
    Sight,
    endings,
    may_be_beyond,
    owner_of,
    tenants_of,
    unkept,
    with_log,
)
from vaultbrix.agent.watchdog.lock_table import SEEN_AGAIN, SHORTEST_PAUSE, most_to_see, pause
from vaultbrix.agent.watchdog.sight import TenantSessions
from vaultbrix.agent.watchdog.tally import RuleEnds, Tally
from vaultbrix.agent.watched import Watched
from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.limits import Limits
from vaultbrix.api.postgresserver import AgentWatchdog
from vaultbrix.audit.flow.report import LoudSession
from vaultbrix.dataapi.serving.decisions import MARK, rest_login
from vaultbrix.grants.state import AgentState
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
# Looking at sessions takes longer the more there are; at most this share of the time is spent on it.
MOST_OF_THE_TIME = 0.1
LONGEST_UNTIL_LOOK = 2.0
# While PostgreSQL does not answer.
TROUBLE_SECONDS = 0.25
# A session that was told to end and is still there after this is told again.
AGAIN_SECONDS = 1.0
# A rule whose sessions end again and again is written no more often than this.
REPORT_SECONDS = 10.0

Terminate = Callable[[Sequence[int]], Awaitable[None]]
Loud = Callable[[], Sequence[LoudSession]]


class Watchdog:
    """Ends tenants' sessions that are beyond the limits of their server.

    ``terminate`` ends backends by process id, by whatever means the agent has, where the polite one did not help; it
    may raise Expected. ``loud`` tells what the shipper says of sessions that write much into PostgreSQL's log.
    """

    def __init__(
        self, sessions: TenantSessions, terminate: Terminate, loud: Loud, heartbeat: Heartbeat, agent: str
    ) -> None:
        self._sessions = sessions
        self._terminate = terminate
        self._loud = loud
        self._heartbeat = heartbeat
        self._tally = Tally(agent)
        self._next_look = 0.0
        # How many locks there were when all of them were last seen.
        self._seen = 0
        # Whose each process was when sessions were last looked at.
        self._known: dict[int, str | None] = {}
        # Sessions that were told to end and are still there: since when (by PostgreSQL's clock), and when (monotonic)
        # they were last told.
        self._told: dict[Identity, datetime] = {}
        self._told_at: dict[Identity, float] = {}
        # Uids of rules under which sessions were ended, and when (monotonic) they were last reported on.
        self._unreported: set[str] = set()
        self._reported_at: dict[str, float] = {}

    def of_rule(self, uid: str) -> RuleEnds:
        """What was ended under a rule, by its uid."""
        return self._tally.of_rule(uid)

    async def run(self, watched: Watched, state: Callable[[], AgentState], report: Callable[[str], None]) -> None:
        """Watch until cancelled. ``report`` is called with the uid of a rule whose sessions were ended."""
        trouble = ""
        while True:
            seconds = TROUBLE_SECONDS
            limits = state().limits
            try:
                if limits is not None:
                    seconds = await self._step(limits, watched, state())
                trouble = ""
            except Expected as error:
                if error.message != trouble:
                    log.warning("watchdog cannot look", message=error.message)
                trouble = error.message
            except Exception:
                log.exception("unexpected error")
            for uid in self._due(time.monotonic()):
                report(uid)
            if limits is not None:
                self._heartbeat.watchdog = self._entry(limits, trouble)
            await asyncio.sleep(seconds)

    async def _step(self, limits: Limits, watched: Watched, state: AgentState) -> float:
        """Look, decide, end, count; returns the seconds until the next step."""
        locks = await self._check_locks(limits, watched, state)
        room = self._room
        begun = time.monotonic()
        if begun >= self._next_look:
            sight = with_log(await self._sessions.look(locks), self._loud())
            await self._end(sight, limits, watched, state)
            await self._insist(time.monotonic())
            if locks.complete and locks.total < room // 4:
                await self._sessions.renew()
            spent = time.monotonic() - begun
            self._next_look = begun + min(LONGEST_UNTIL_LOOK, max(LOOK_SECONDS, spent / MOST_OF_THE_TIME))
        return pause(locks.total, room) if locks.complete else SHORTEST_PAUSE

    @property
    def _room(self) -> int:
        return self._sessions.room.locks if self._sessions.room is not None else 0

    async def _check_locks(self, limits: Limits, watched: Watched, state: AgentState) -> Locks:
        """Look at locks and end the sessions that have too many; looks at more of them only where that finds none."""
        most = most_to_see(self._seen)
        while True:
            locks = await self._sessions.locks(most)
            ended = may_be_beyond(locks, self._known, limits, self._room) and await self._end(
                # Files are looked at later: this has to come soon.
                await self._sessions.look(locks, files=False),
                limits,
                watched,
                state,
            )
            if locks.complete:
                self._seen = locks.total
            if ended or locks.complete:
                return locks
            most *= SEEN_AGAIN

    async def _end(self, sight: Sight, limits: Limits, watched: Watched, state: AgentState) -> bool:
        """End the sessions of this sight that are beyond a limit; returns whether there were any."""
        there = {backend.identity for backend in sight.backends}
        self._told = {identity: at for identity, at in self._told.items() if identity in there}
        owners = _owners(sight, watched, state)
        self._known = tenants_of(sight, owners, self._told)
        ending = endings(sight, owners, limits, self._room, self._told)
        if not ending:
            return False
        await self._sessions.terminate([each.backend.pid for each in ending])
        for each in ending:
            self._told[each.backend.identity] = sight.at
            self._told_at[each.backend.identity] = time.monotonic()
            self._count(each, sight.at, watched, state)
        return True

    async def _insist(self, now: float) -> None:
        """End those that were told to and are still there by whatever means there is."""
        self._told_at = {identity: at for identity, at in self._told_at.items() if identity in self._told}
        stuck = [identity for identity, at in self._told_at.items() if now - at > AGAIN_SECONDS]
        if stuck:
            self._told_at.update(dict.fromkeys(stuck, now))
            await self._terminate([pid for pid, _ in stuck])

    def _count(self, ending: Ending, at: datetime, watched: Watched, state: AgentState) -> None:
        backend = ending.backend
        log.warning(
            "session ended by the watchdog", tenant=ending.owner.tenant, role=backend.login, pid=backend.pid,
            address=str(backend.address), limit=str(ending.limit), message=ending.message,
        )  # fmt: skip
        grants = state.covering(backend.login, backend.address)
        rules = [rule for grant in grants if (rule := watched.rules.by_uid(grant.uid)) is not None]
        self._tally.add(ending, rules, at)
        self._unreported.update(rule.metadata.uid for rule in rules)

    def _due(self, now: float) -> list[str]:
        """The rules to report on: at once, and then no more often than every REPORT_SECONDS."""
        self._reported_at = {uid: at for uid, at in self._reported_at.items() if now - at < REPORT_SECONDS}
        due = sorted(self._unreported - self._reported_at.keys())
        self._unreported.difference_update(due)
        self._reported_at.update(dict.fromkeys(due, now))
        return due

    def _entry(self, limits: Limits, trouble: str) -> AgentWatchdog | None:
        problems = [trouble] if trouble else []
        if self._sessions.room is not None:
            problems += unkept(limits, self._sessions.room)
        entry = AgentWatchdog(message="; ".join(problems)[:512], ended=self._tally.ends)
        return entry if entry != AgentWatchdog() else None


def _owners(sight: Sight, watched: Watched, state: AgentState) -> dict[str, Owner]:
    logins = {backend.login for backend in sight.backends}
    served = {}
    if any(login.startswith(MARK) for login in logins):
        # Two Tenants may ask for one slug, and one of them has it.
        tenants = (
            t for t in watched.tenants.of(state.server) if is_true(t.status.conditions, ConditionType.PROVISIONED)
        )
        served = {rest_login(tenant.role): tenant.display for tenant in tenants}
    owners = ((login, owner_of(login, state, served)) for login in logins)
    return {login: owner for login, owner in owners if owner is not None}
