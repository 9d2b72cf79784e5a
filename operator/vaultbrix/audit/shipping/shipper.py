"""The loop: read a batch, name the people, seal and store it; after any error, go on from what the store holds."""

import asyncio
import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import psycopg
import structlog

from vaultbrix.audit import rows
from vaultbrix.audit.flow.report import Head, Problem
from vaultbrix.audit.headers import load_header
from vaultbrix.audit.retention.store import policies
from vaultbrix.audit.schema import OtherSchema, check_schema
from vaultbrix.audit.seal import Signer
from vaultbrix.audit.shipping import store
from vaultbrix.audit.shipping.followed import Batch
from vaultbrix.audit.shipping.intake import Intake, anew, not_yet_aside, without
from vaultbrix.audit.shipping.keeping import Keeping
from vaultbrix.audit.shipping.monitor import Monitor
from vaultbrix.audit.shipping.numbers import Hole, Numbers
from vaultbrix.audit.shipping.reader import LogDirectory
from vaultbrix.audit.shipping.room import seconds_kept
from vaultbrix.audit.shipping.sealing import Content, Event, Sealed, seal
from vaultbrix.audit.shipping.store import Fenced, Known
from vaultbrix.audit.shipping.unheard import Unheard
from vaultbrix.audit.shipping.unheard import gap as gap_of
from vaultbrix.grants.file import GrantsReader
from vaultbrix.grants.sessions import SeenSession, read_sessions, sessions_file
from vaultbrix.postgres.connect import Target, classify, open_connection
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

Recalled = TypeVar("Recalled")

# Waiting a little makes few large batches of many small ones: 20 ms cost the database a quarter of its
# transactions, 200 ms less than a tenth.
LINGER_SECONDS = 0.2
LONGEST_PAUSE = 15.0
# How often the store is asked for events to seal, and for what to keep how long.
EVENTS_SECONDS = 1.0
RETENTION_SECONDS = 30.0
# How often stored files are removed, and how many at once: each stays open for a minute.
CARE_SECONDS = 5.0
MOST_REMOVED = 32
# Of malloc.h.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


@dataclass(frozen=True)
class Source:
    """Whose log, where it is, and the agent's ``grants.json``. ``keep``: seconds that stored files stay; None: ever."""

    server: str
    directory: Path
    grants: Path
    keep: float | None = None


class Shipper:
    """Ships one server's log to the store."""

    def __init__(self, source: Source, target: Target, signer: Signer, monitor: Monitor) -> None:
        self._source = source
        self._target = replace(target, options=rows.SETTINGS)
        self._signer = signer
        self._monitor = monitor
        self._grants = GrantsReader(source.grants, source.server)
        self._directory = LogDirectory(source.directory)
        self._intake = Intake(source.server, monitor.volume)
        self._numbers = Numbers(datetime.now(UTC), since=datetime.now(UTC))
        self._unheard = Unheard()
        self._last_problems: tuple[Problem, ...] = ()
        self._cared = 0.0

    async def run(self) -> None:
        """Ship the log, for ever."""
        _bound_memory()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._monitor.run())
            group.create_task(self._go_on())

    async def _go_on(self) -> None:
        failures = 0
        while True:
            try:
                async with await open_connection(self._target) as connection:
                    await check_schema(connection)
                    failures = 0
                    log.info("connected to the audit store")
                    await self._ship(connection)
            except Fenced:
                log.warning("another shipper stored a batch; going on from what the store holds")
            except OtherSchema as error:
                failures += 1
                remedy = "upgrade the shipper" if error.newer else "the bootstrap Job has yet to upgrade the store"
                log.error("audit store", message=f"{error}; {remedy}")
                self._monitor.failed(f"{error}; {remedy}")
            except psycopg.Error as error:
                failures += 1
                message = classify(error).message
                log.warning("audit store", message=message)
                self._monitor.failed(message)
            except OSError as error:
                failures += 1
                log.warning("log directory", message=str(error.strerror), path=str(error.filename))
            except Exception as error:
                failures += 1
                log.exception("unexpected error")
                self._monitor.failed(f"unexpected error: {type(error).__name__}")
            # What is there now may be gone, and forgotten by the agent, when the store is back.
            await asyncio.to_thread(self._note_sessions)
            await asyncio.sleep(min(LONGEST_PAUSE, pause_after(failures, 0.0)) if failures else 0)

    async def _ship(self, connection: psycopg.AsyncConnection) -> None:
        directory = self._directory
        known = await store.load(connection, self._source.server)
        directory.resume(known.positions, known.adopted)
        self._intake.resume()
        now = datetime.now(UTC)
        self._numbers = Numbers(known.began or now, known.missing, since=now)
        self._unheard.resume(known.began or now)
        self._monitor.connected(directory, rolled_back=await self._rolled_back(connection))
        asked_at = {"events": 0.0, "retention": 0.0}
        begun = directory.looks
        while True:
            if _due(asked_at, "retention", RETENTION_SECONDS):
                self._intake.keeping = Keeping(
                    {scope: policy.days for scope, policy in (await policies(connection)).items()}
                )
            events: list[Event] = []
            unheard: list[SeenSession] = []
            if _due(asked_at, "events", EVENTS_SECONDS):
                events = await store.unsealed(connection)
                await asyncio.to_thread(self._look)
                # Before the next batch is read: all that was read so far is stored by now.
                if directory.looks > begun:
                    unheard = await self._find_unheard(connection)
            batch = await asyncio.to_thread(directory.read)
            await self._mark(connection)
            if batch is None and not events and not unheard and not self._due_holes():
                await asyncio.sleep(LINGER_SECONDS)
                continue
            known = await self._pass_on(connection, known, batch, events, unheard)
            self._unheard.settle(unheard, {session.id for session in unheard}, time.monotonic())
            if batch is None or not batch.full:
                await asyncio.sleep(LINGER_SECONDS)

    async def _rolled_back(self, connection: psycopg.AsyncConnection) -> Head | None:
        anchored = self._monitor.anchor()
        if anchored is None:
            return None
        held = await load_header(connection, self._source.server, anchored.batch)
        return None if held is not None and held.head().hex() == anchored.head else anchored

    async def _pass_on(
        self,
        connection: psycopg.AsyncConnection,
        known: Known,
        batch: Batch | None,
        events: Sequence[Event],
        unheard: Sequence[SeenSession],
    ) -> Known:
        # Nothing of a batch is held while the next one is read: both may be large.
        content = await self._take(connection, batch) if batch else Content()
        # Only now: the batch may have what was missing.
        holes = self._due_holes()
        self._numbers.told(holes)
        content.gaps = [*content.gaps, *(hole.gap() for hole in holes), *map(gap_of, unheard)]
        content.unheard = [session.id for session in unheard]
        content.events = events
        known = await self._store(connection, known, batch, content)
        for gap in content.gaps:
            log.error("gap in the record", file=gap.file, position=gap.position, reason=gap.reason)
        return known

    async def _find_unheard(self, connection: psycopg.AsyncConnection) -> list[SeenSession]:
        """Sessions that the agent saw a while ago and of which there is no line, though the log is read to its end."""
        now = time.monotonic()
        due = self._unheard.due(now) if self._directory.drained else []
        if not due:
            return []
        asked = [session.id for session in due if not self._numbers.knows(session.id)]
        silent = await store.without_lines(connection, self._source.server, asked)
        self._unheard.settle([session for session in due if session.id not in silent], (), now)
        return [session for session in due if session.id in silent]

    def _due_holes(self) -> list[Hole]:
        return self._numbers.due(self._directory.looks) if self._directory.drained else []

    async def _take(self, connection: psycopg.AsyncConnection, batch: Batch) -> Content:
        await asyncio.to_thread(self._refresh_state)
        look = self._directory.looks
        recall = self._recall(connection, store.last_request)
        approval = self._recall(connection, store.last_approval)
        content, seen = await asyncio.to_thread(self._intake.take, batch, self._grants.state, recall, approval)
        unknown = self._numbers.take(batch.file, seen, look)
        before = {session: number for session, number, _ in unknown.values()}
        stored = await store.last_lines(connection, self._source.server, before)
        self._numbers.settle(batch.file, unknown, stored, look, datetime.now(UTC))
        if suspects := self._numbers.suspects:
            lines = [(session, number) for session, number, _ in seen if session in suspects]
            if again := await store.stored_lines(connection, self._source.server, lines):
                log.warning("lines came again", file=batch.file, lines=len(again))
                ends = dict.fromkeys({session for session, _ in again}, store.LAST_LINE)
                self._numbers.reached(await store.last_lines(connection, self._source.server, ends), look)
            content = anew(content, batch, again, suspects)
        return content

    def _recall(
        self,
        connection: psycopg.AsyncConnection,
        ask: Callable[[psycopg.AsyncConnection, str, str, int], Coroutine[None, None, Recalled]],
    ) -> Callable[[str, int], Recalled]:
        """Lets the thread that takes in a batch ask the store, which nobody else does meanwhile."""
        loop, server = asyncio.get_running_loop(), self._source.server

        def recall(session: str, line: int) -> Recalled:
            return asyncio.run_coroutine_threadsafe(ask(connection, server, session, line), loop).result()

        return recall

    async def _store(
        self, connection: psycopg.AsyncConnection, known: Known, batch: Batch | None, content: Content
    ) -> Known:
        content = await self._not_yet_aside(connection, content)
        sealed = await asyncio.to_thread(self._seal, known, batch, content)
        try:
            await store.store(connection, batch, sealed, self._numbers.changes(), content.unheard)
        except store.REFUSALS as error:
            refused = await store.refused(connection, sealed)
            if batch is None or not refused:
                raise
            log.error("the audit store refuses lines", lines=len(refused), message=classify(error).message)
            content = await self._not_yet_aside(connection, without(content, batch, refused))
            sealed = await asyncio.to_thread(self._seal, known, batch, content)
            await store.store(connection, batch, sealed, self._numbers.changes(), content.unheard)
        self._monitor.stored(sealed)
        self._numbers.stored()
        if batch is not None:
            self._directory.stored(batch)
        return Known(sealed.header.batch, sealed.header.head())

    async def _not_yet_aside(self, connection: psycopg.AsyncConnection, content: Content) -> Content:
        if not content.quarantined:
            return content
        # They are of one batch, which is of one file.
        file, places = content.quarantined[0].file, [bad.position for bad in content.quarantined]
        known = await store.quarantined_lines(connection, self._source.server, file, places)
        return not_yet_aside(content, known) if known else content

    def _seal(self, known: Known, batch: Batch | None, content: Content) -> Sealed:
        now = datetime.now(UTC)
        return seal(self._signer, self._source.server, known.batch + 1, known.head, batch, content, now=now)

    async def _mark(self, connection: psycopg.AsyncConnection) -> None:
        completed, forgotten = self._directory.marks()
        if completed or forgotten:
            await store.mark(connection, self._source.server, completed, forgotten)
            self._directory.marked()

    def _look(self) -> None:
        """Every second: how late the record is. Now and then: which files can go, and what is wrong."""
        # Where the directory cannot be read, it says so itself.
        with contextlib.suppress(OSError):
            self._monitor.look(self._directory)
        now = time.monotonic()
        if now - self._cared >= CARE_SECONDS:
            self._cared = now
            self._remove()
            self._note_sessions()
        problems = (*self._directory.problems, *self._intake.symptoms.problems(), *self._unheard.problems(now))
        for problem in problems:
            if problem not in self._last_problems:
                log.warning("log of PostgreSQL", reason=problem.reason, message=problem.message)
        self._monitor.tell("log", *problems)
        self._last_problems = problems

    def _note_sessions(self) -> None:
        try:
            sessions = read_sessions(sessions_file(self._source.grants), self._source.server)
        except OSError as error:
            log.warning("sessions.json", message=str(error.strerror))
            return
        self._unheard.note(sessions, datetime.now(UTC), time.monotonic())

    def _remove(self) -> None:
        keep = seconds_kept(self._source.keep, disk_fills=self._monitor.disk_fills)
        if keep is None:
            return
        for name in self._directory.removable(keep, time.time())[:MOST_REMOVED]:
            if self._directory.remove(name):
                log.info("removed a log file that is stored", file=name)

    def _refresh_state(self) -> None:
        # Read after the lines: a grant is in the file before the first line that it explains.
        try:
            self._grants.refresh()
        except OSError as error:
            log.warning("grants.json cannot be read; people are named as last known", error=type(error).__name__)


def _due(asked_at: dict[str, float], what: str, seconds: float) -> bool:
    now = time.monotonic()
    if asked_at[what] and now - asked_at[what] < seconds:
        return False
    asked_at[what] = now
    return True


def _bound_memory() -> None:
    """Large blocks go back to the system once they are free, and few threads hold memory of their own (glibc)."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=2))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
        mallopt(_M_ARENA_MAX, 1)
    # Rows are many and hold no cycles: the collector need not look for them so often.
    gc.set_threshold(50_000, 20, 20)
