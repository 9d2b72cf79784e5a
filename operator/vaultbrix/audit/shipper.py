"""The loop: read a batch, name the people, seal and store it; after any error, go on from what the store holds."""

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import structlog

from vaultbrix.adapters.grantsfile import GrantsReader
from vaultbrix.adapters.postgres import Target, classify, open_connection
from vaultbrix.audit import rows, store
from vaultbrix.audit.keeping import Keeping
from vaultbrix.audit.monitor import Monitor
from vaultbrix.audit.reader import Batch, LogDirectory
from vaultbrix.audit.records import MalformedLine, parse
from vaultbrix.audit.schema import version
from vaultbrix.audit.seal import Signer
from vaultbrix.audit.sealing import Content, Event, Quarantined, Sealed, seal
from vaultbrix.audit.store import Fenced, Known, NewerStore
from vaultbrix.domain.flow import Head
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

# Waiting a little makes few large batches of many small ones: 20 ms cost the database a quarter of its
# transactions, 200 ms less than a tenth.
LINGER_SECONDS = 0.2
LONGEST_PAUSE = 15.0
# How often the store is asked for events to seal, and for what to keep how long.
EVENTS_SECONDS = 1.0
RETENTION_SECONDS = 30.0


@dataclass(frozen=True)
class Source:
    """Whose log, where it is, and the agent's ``grants.json``."""

    server: str
    directory: Path
    grants: Path


class Shipper:
    """Ships one server's log to the store."""

    def __init__(self, source: Source, target: Target, signer: Signer, monitor: Monitor) -> None:
        self._source = source
        self._target = replace(target, options=rows.SETTINGS)
        self._signer = signer
        self._monitor = monitor
        self._grants = GrantsReader(source.grants, source.server)
        self._keeping = Keeping({})

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._monitor.run())
            group.create_task(self._go_on())

    async def _go_on(self) -> None:
        failures = 0
        while True:
            try:
                async with await open_connection(self._target) as connection:
                    await self._check_version(connection)
                    failures = 0
                    log.info("connected to the audit store")
                    await self._ship(connection)
            except Fenced:
                log.warning("another shipper stored a batch; going on from what the store holds")
            except NewerStore as error:
                failures += 1
                log.error("audit store", message=str(error))
                self._monitor.failed(str(error))
            except psycopg.Error as error:
                failures += 1
                message = classify(error).message
                log.warning("audit store", message=message)
                self._monitor.failed(message)
            except OSError as error:
                failures += 1
                log.warning("log directory", message=str(error.strerror), path=str(error.filename))
            await asyncio.sleep(min(LONGEST_PAUSE, pause_after(failures, 0.0)) if failures else 0)

    @staticmethod
    async def _check_version(connection: psycopg.AsyncConnection) -> None:
        found, ours = await version(connection)
        if found != ours:
            raise NewerStore(
                f"schema {found} is not this release's {ours}; "
                + ("upgrade the shipper" if found > ours else "the bootstrap Job has yet to upgrade the store")
            )

    async def _ship(self, connection: psycopg.AsyncConnection) -> None:
        known = await store.load(connection, self._source.server)
        directory = LogDirectory(self._source.directory, known.positions, known.adopted)
        self._monitor.connected(directory, rolled_back=await self._rolled_back(connection))
        asked = {"events": 0.0, "retention": 0.0}
        while True:
            if _due(asked, "retention", RETENTION_SECONDS):
                self._keeping = Keeping(await store.retention(connection))
            batch = await asyncio.to_thread(directory.read)
            events = []
            if _due(asked, "events", EVENTS_SECONDS):
                events = await store.unsealed(connection)
                await asyncio.to_thread(self._monitor.look, directory)
            if batch is None and not events:
                await asyncio.sleep(LINGER_SECONDS)
                continue
            sealed = await asyncio.to_thread(self._seal, known, batch, events)
            await store.store(connection, batch, sealed)
            known = Known(sealed.header.batch, sealed.header.head())
            self._monitor.stored(sealed)
            if batch is None:
                continue
            directory.stored(batch)
            for gap in batch.gaps:
                log.error("gap in the record", file=gap.file, position=gap.position, reason=gap.reason)
            if not batch.full:
                await asyncio.sleep(LINGER_SECONDS)

    async def _rolled_back(self, connection: psycopg.AsyncConnection) -> Head | None:
        anchored = self._monitor.anchor()
        if anchored is None:
            return None
        held = await store.header(connection, self._source.server, anchored.batch)
        return None if held is not None and held.head().hex() == anchored.head else anchored

    def _seal(self, known: Known, batch: Batch | None, events: list[Event]) -> Sealed:
        content = self._parse(batch) if batch else Content()
        content.events = events
        now = datetime.now(UTC)
        return seal(self._signer, self._source.server, known.batch + 1, known.head, batch, content, now=now)

    def _parse(self, batch: Batch) -> Content:
        self._refresh_state()
        records = []
        quarantined = [Quarantined(batch.file, position, line, "torn") for position, line in batch.torn]
        for position, line in batch.lines:
            try:
                record = parse(line, server=self._source.server, state=self._grants.state)
                record.file, record.position = batch.file, position
                record.keep = self._keeping.days(record)
                records.append((record, rows.record_line(record)))
            except MalformedLine as error:
                quarantined.append(Quarantined(batch.file, position, line, str(error)))
        return Content(records, batch.gaps, quarantined)

    def _refresh_state(self) -> None:
        # Read after the lines: a grant is in the file before the first line that it explains.
        try:
            self._grants.refresh()
        except OSError as error:
            log.warning("grants.json cannot be read; people are named as last known", error=type(error).__name__)


def _due(asked: dict[str, float], what: str, seconds: float) -> bool:
    now = time.monotonic()
    if asked[what] and now - asked[what] < seconds:
        return False
    asked[what] = now
    return True
