"""The loop: read a batch, name the people, store it with its checkpoint; after any error, start from the checkpoint."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import psycopg
import structlog

from vaultbrix.adapters.grantsfile import GrantsReader
from vaultbrix.adapters.postgres import Target, classify, open_connection
from vaultbrix.audit import reader, store
from vaultbrix.audit.reader import Batch
from vaultbrix.audit.records import MalformedLine, Record, parse
from vaultbrix.audit.store import Fenced, Quarantined
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

# Waiting a little makes few large batches of many small ones: 20 ms cost the database a quarter of its
# transactions, 200 ms less than a tenth.
LINGER_SECONDS = 0.2
LONGEST_PAUSE = 15.0


@dataclass(frozen=True)
class Source:
    """Whose log, where it is, and the agent's ``grants.json``."""

    server: str
    directory: Path
    grants: Path


class Shipper:
    """Ships one server's log to the store."""

    def __init__(self, source: Source, target: Target) -> None:
        self._source = source
        self._target = target
        self._grants = GrantsReader(source.grants, source.server)

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                async with await open_connection(self._target) as connection:
                    failures = 0
                    log.info("connected to the audit store")
                    await self._ship(connection)
            except Fenced:
                log.warning("another shipper stored a batch; starting from its checkpoint")
            except psycopg.Error as error:
                failures += 1
                log.warning("audit store", message=classify(error).message)
            except OSError as error:
                failures += 1
                log.warning("log directory", message=str(error.strerror), path=str(error.filename))
            await asyncio.sleep(min(LONGEST_PAUSE, pause_after(failures, 0.0)) if failures else 0)

    async def _ship(self, connection: psycopg.AsyncConnection) -> None:
        known = await store.load_checkpoint(connection, self._source.server)
        while True:
            batch = await asyncio.to_thread(reader.read, self._source.directory, known)
            if batch is None:
                await asyncio.sleep(LINGER_SECONDS)
                continue
            records, quarantined = await asyncio.to_thread(self._parse, batch)
            await store.store(connection, self._source.server, batch, records, quarantined)
            known = batch.checkpoint
            for file, position, reason in batch.gaps:
                log.error("gap in the record", file=file, position=position, reason=reason)
            if not batch.full:
                await asyncio.sleep(LINGER_SECONDS)

    def _parse(self, batch: Batch) -> tuple[list[Record], list[Quarantined]]:
        self._refresh_state()
        records = []
        quarantined = [Quarantined(file, position, line, "torn") for file, position, line in batch.torn]
        for position, line in batch.lines:
            try:
                record = parse(line, server=self._source.server, state=self._grants.state)
            except MalformedLine as error:
                quarantined.append(Quarantined(batch.file, position, line, str(error)))
                continue
            record.file, record.position = batch.file, position
            records.append(record)
        return records, quarantined

    def _refresh_state(self) -> None:
        # Read after the lines: a grant is in the file before the first line that it explains.
        try:
            self._grants.refresh()
        except OSError as error:
            log.warning("grants.json cannot be read; people are named as last known", error=type(error).__name__)
