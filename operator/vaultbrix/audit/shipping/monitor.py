"""How the record flows: told in ``flow.json`` every second, in the anchor file every minute, and counted for metrics.

It only listens, and nothing that fails here stops the record.
"""

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from vaultbrix.api.conditions import Reason
from vaultbrix.audit.flow.flow_file import read_flow, write_flow
from vaultbrix.audit.flow.lateness import Lateness
from vaultbrix.audit.flow.report import LONGEST_MESSAGE, MOST_PROBLEMS, Flow, Head, Problem
from vaultbrix.audit.shipping.anchor import AnchorFile
from vaultbrix.audit.shipping.reader import LogDirectory
from vaultbrix.audit.shipping.room import Room
from vaultbrix.audit.shipping.sealing import Sealed
from vaultbrix.audit.shipping.volume import Volume

log = structlog.get_logger(__name__)

FLOW_SECONDS = 1.0
ANCHOR_SECONDS = 60.0

ROLLED_BACK = (
    "the store does not hold batch {batch} as the anchor file has it: it was put back to an earlier state or replaced; "
    "find out who did, and then move the anchor file away"
)


@dataclass
class Counts:
    """Since the shipper started. ``records`` by kind."""

    batches: int = 0
    gaps: int = 0
    quarantined: int = 0
    store_errors: int = 0
    records: Counter[str] = field(default_factory=Counter)


class Monitor:
    """Listens to one shipper. ``flow_file`` and ``anchor_file`` None: not written."""

    def __init__(
        self, server: str, directory: Path, *, flow_file: Path | None = None, anchor_file: Path | None = None
    ) -> None:
        self.counts = Counts()
        self._server = server
        self._path = directory
        self._flow_file = flow_file
        self._anchor = AnchorFile(anchor_file, server) if anchor_file else None
        self._anchored: Head | None = None
        self._anchored_at = -ANCHOR_SECONDS
        self._rolled_back = False
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._directory: LogDirectory | None = None
        self._latest: Head | None = None
        self._stored_at: datetime | None = None
        self.volume = Volume()
        """How much each session writes; counted where lines are read."""
        self._room = Room()
        self._lateness = Lateness(time.monotonic(), _late_before(flow_file, server))
        # With its time by the wall clock, taken once so that it stays the same.
        self._complete = (float("nan"), datetime.now(UTC))

    async def run(self) -> None:
        """Write flow.json and the anchor file, for ever."""
        while True:
            try:
                await asyncio.to_thread(self._write)
            except OSError as error:
                log.warning("flow or anchor file", message=str(error.strerror), path=str(error.filename))
            except Exception:
                log.exception("unexpected error")
            await asyncio.sleep(FLOW_SECONDS)

    def tell(self, source: str, *problems: Problem) -> None:
        """Put these problems in the place of those that the same source told before."""
        self._problems[source] = problems

    def failed(self, message: str) -> None:
        """The store did not take what it was given, or cannot be reached."""
        self.counts.store_errors += 1
        self.tell("store", Problem(Reason.AUDIT_STORE_UNREACHABLE, message))

    def anchor(self) -> Head | None:
        """The batch that the store must hold as the anchor file has it."""
        if self._anchor is None:
            return None
        try:
            return self._anchor.last()
        except OSError as error:
            log.warning("anchor file", message=str(error.strerror), path=str(error.filename))
            return None

    def connected(self, directory: LogDirectory, *, rolled_back: Head | None) -> None:
        """The store answers; ``rolled_back`` is an anchored batch that it does not hold."""
        self._directory = directory
        self._rolled_back = rolled_back is not None
        self.tell("store")
        messages = [] if rolled_back is None else [ROLLED_BACK.format(batch=rolled_back.batch)]
        for message in messages:
            log.error("audit store", message=message)
        self.tell("anchor", *(Problem(Reason.RECORD_ROLLED_BACK, message) for message in messages))

    def stored(self, sealed: Sealed) -> None:
        """Count a batch that is committed to the store."""
        header, counts = sealed.header, self.counts
        counts.batches += 1
        counts.gaps += len(sealed.rows.gaps)
        counts.quarantined += len(sealed.rows.quarantine)
        counts.records.update(sealed.kinds)
        self._latest = Head(batch=header.batch, head=header.head().hex(), sealed_at=header.sealed_at)
        self._stored_at = datetime.now(UTC)

    def look(self, directory: LogDirectory) -> None:
        """See how late the record is; only called when the store has just answered. Raises OSError."""
        now = time.monotonic()
        stored = {name: position.offset for name, position in directory.positions.items()}
        self._lateness.look(now, directory.written(), stored)

    def late_seconds(self) -> float:
        """How late the record is; see Flow.late_seconds."""
        return self._lateness.seconds(time.monotonic())

    def unread_bytes(self) -> int | None:
        """Bytes of the log that are not stored; see Flow.unread_bytes."""
        try:
            return self._directory.unread() if self._directory else None
        except OSError:
            return None

    def disk(self) -> tuple[int, int] | None:
        """Bytes that are free for PostgreSQL's log, and in all; None where the directory cannot be reached."""
        try:
            status = os.statvfs(self._path)
        except OSError:
            return None
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    @property
    def disk_fills(self) -> bool:
        """Whether PostgreSQL's log may have no room soon."""
        return bool(self._problems.get("disk"))

    def flow(self) -> Flow:
        """How the record stands, for flow.json."""
        now, late = datetime.now(UTC), self.late_seconds()
        if self._complete[0] != self._lateness.complete:
            self._complete = (self._lateness.complete, now - timedelta(seconds=late))
        problems = [problem for of_source in list(self._problems.values()) for problem in of_source]
        return Flow(
            server=self._server,
            at=now,
            complete_until=self._complete[1],
            late_seconds=round(late, 3),
            stored_at=self._stored_at,
            unread_bytes=self.unread_bytes(),
            latest=self._latest,
            gaps=self.counts.gaps,
            quarantined=self.counts.quarantined,
            forged=self.counts.records["forged"],
            loud=self.volume.loud(time.monotonic()),
            problems=tuple(Problem(p.reason, p.message[:LONGEST_MESSAGE]) for p in problems[:MOST_PROBLEMS]),
        )

    def _write(self) -> None:
        self._look_at_disk()
        if self._flow_file is not None:
            write_flow(self._flow_file, self.flow())
        self._write_anchor()

    def _look_at_disk(self) -> None:
        # Here and not where batches are stored: a disk fills while the store is away.
        if disk := self.disk():
            problems = self._room.look(time.monotonic(), *disk)
            if bool(problems) != bool(self._problems.get("disk")):
                log.warning("disk of PostgreSQL's log", message=problems[0].message if problems else "has room again")
            self.tell("disk", *problems)

    def _write_anchor(self) -> None:
        latest, now = self._latest, time.monotonic()
        if self._anchor is None or self._rolled_back or latest is None or latest == self._anchored:
            return
        if now - self._anchored_at >= ANCHOR_SECONDS:
            self._anchor.append(latest)
            self._anchored, self._anchored_at = latest, now


def _late_before(flow_file: Path | None, server: str) -> float:
    """Seconds that the record was late by, as the shipper before this one left it."""
    if flow_file is None:
        return 0.0
    try:
        before = read_flow(flow_file)
    except (OSError, ValueError):
        return 0.0
    if before.server != server:
        return 0.0
    return before.late_seconds + max(0.0, (datetime.now(UTC) - before.at).total_seconds())
