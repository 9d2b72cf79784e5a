"""A batch of parsed rows → what is stored: lines with their seals, parts, a signed header. Pure but for salts."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from vaultbrix.audit import rows
from vaultbrix.audit.header import Header
from vaultbrix.audit.records import Record
from vaultbrix.audit.seal import SALT_BYTES, Part, Signer, batch_root, leaf, record_part, root
from vaultbrix.audit.shipping.followed import Batch, Gap


@dataclass(frozen=True)
class Quarantined:
    """A line that could not be read, with its place and why."""

    file: str
    position: int
    line: bytes
    reason: str


@dataclass(frozen=True)
class Event:
    """A row of audit.event that waits for a seal; ``line`` is PostgreSQL's COPY text of it."""

    id: int
    line: bytes


@dataclass(frozen=True)
class SealedEvent:
    """An event's place among the leaves of its batch, with salt and leaf."""

    id: int
    index: int
    salt: bytes
    leaf: bytes


@dataclass
class Content:
    """What a batch consists of. ``records`` come with their lines (vaultbrix.audit.rows).

    ``unheard``: sessions without any line, for which there is one of the gaps.
    """

    records: Sequence[tuple[Record, bytes]] = ()
    gaps: Sequence[Gap] = ()
    quarantined: Sequence[Quarantined] = ()
    events: Sequence[Event] = ()
    unheard: Sequence[str] = ()


@dataclass
class Rows:
    """The rows of a batch as lines to COPY, by table."""

    records: list[bytes] = field(default_factory=list)
    gaps: list[bytes] = field(default_factory=list)
    quarantine: list[bytes] = field(default_factory=list)
    events: list[SealedEvent] = field(default_factory=list)


@dataclass(frozen=True)
class Sealed:
    """All of a batch. ``partitions``: (day, days to keep) of its records; ``kinds``: their number by kind."""

    header: Header
    signer: bytes
    signature: bytes
    parts: dict[str, Part]
    partitions: frozenset[tuple[date, int]]
    rows: Rows
    kinds: Counter[str]


def seal(
    signer: Signer, server: str, number: int, previous: bytes, batch: Batch | None, content: Content, *, now: datetime
) -> Sealed:
    """Seal batch ``number`` of a server, after the one whose header's hash is ``previous``."""
    leaves: dict[str, list[bytes]] = {}
    sealed_rows = Rows()
    count = len(content.records) + len(content.gaps) + len(content.quarantined) + len(content.events)
    salts = os.urandom(SALT_BYTES * count)
    taken = 0

    def add(part: str, line: bytes) -> tuple[int, bytes, bytes]:
        nonlocal taken
        salt = salts[taken : taken + SALT_BYTES]
        taken += SALT_BYTES
        hashes = leaves.setdefault(part, [])
        hashed = leaf(salt, line)
        hashes.append(hashed)
        return len(hashes) - 1, salt, hashed

    # By day's number and days to keep.
    partitions: dict[tuple[int, int], str] = {}
    kinds = Counter(record.kind for record, _ in content.records)
    for record, line in content.records:
        at = record.at
        day = (at if at.tzinfo is UTC else at.astimezone(UTC)).toordinal()
        part = partitions.get((day, record.keep))
        if part is None:
            part = partitions[day, record.keep] = record_part(date.fromordinal(day), record.keep)
        sealed_rows.records.append(rows.sealed_record(line, number, *add(part, line), approved=bool(record.approver)))
    for gap in content.gaps:
        line = rows.gap_line(server, gap.file, gap.position, gap.reason, now)
        sealed_rows.gaps.append(rows.sealed(line, number, *add("gap", line)))
    for bad in content.quarantined:
        line = rows.quarantine_line(server, bad.file, bad.position, bad.line, bad.reason, now)
        sealed_rows.quarantine.append(rows.sealed(line, number, *add("quarantine", line)))
    for event in content.events:
        sealed_rows.events.append(SealedEvent(event.id, *add("event", event.line)))
    parts = {name: Part(len(hashes), root(hashes)) for name, hashes in leaves.items()}
    header = Header(
        server=server,
        batch=number,
        sealed_at=now,
        file=batch.file if batch else "",
        start=batch.start if batch else 0,
        stop=batch.stop if batch else 0,
        parts=len(parts),
        previous=previous,
        root=batch_root(parts),
    )
    places = frozenset((date.fromordinal(day), keep) for day, keep in partitions)
    return Sealed(header, signer.identity, signer.sign(header), parts, places, sealed_rows, kinds)
