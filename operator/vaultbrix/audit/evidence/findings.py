"""What speaks against a record: headers that do not chain, leaves that do not lead to their root. Pure.

Rows come in any order. A part is checked as soon as all of its leaves were seen, so that what is held in memory is what
is incomplete.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vaultbrix.audit.seal import NO_PREVIOUS, Header, Part, batch_root, key_of, leaf, root, signed
from vaultbrix.runtime.counted import counted, verb


class Fault(StrEnum):
    """Kinds of findings."""

    BATCH_MISSING = "BatchMissing"
    CHAIN_BROKEN = "ChainBroken"
    SIGNATURE_INVALID = "SignatureInvalid"
    UNKNOWN_KEY = "UnknownKey"
    PARTS_CHANGED = "PartsChanged"
    ROW_CHANGED = "RowChanged"
    ROW_MISSING = "RowMissing"
    ROW_ADDED = "RowAdded"
    ERASED_WITHOUT_EVENT = "ErasedWithoutEvent"
    EXPIRED_EARLY = "ExpiredEarly"
    EVENT_MALFORMED = "EventMalformed"
    TRUNCATED = "Truncated"
    ANCHOR_DIFFERS = "AnchorDiffers"


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong, and the batch where it shows."""

    server: str
    batch: int
    fault: Fault
    message: str = field(compare=False)


@dataclass(frozen=True)
class Anchor:
    """A batch's header hash that was kept outside the store."""

    server: str
    batch: int
    head: bytes


@dataclass(frozen=True)
class Signed:
    """A row of audit.batch with its parts."""

    header: Header
    signer: bytes
    signature: bytes
    parts: Mapping[str, Part]


def of_batch(batch: Signed, keys: Mapping[bytes, Ed25519PublicKey]) -> list[Finding]:
    """What is wrong with a batch's header by itself: its key, its signature, its parts."""
    header = batch.header
    findings = []

    def tell(fault: Fault, message: str) -> None:
        findings.append(Finding(header.server, header.batch, fault, message))

    if key_of(header.server, batch.signer, keys) is None:
        message = f"signed with key {batch.signer.hex()[:16]}, which is none of those given for server {header.server}"
        tell(Fault.UNKNOWN_KEY, message)
    elif not signed(header, batch.signature, batch.signer, keys):
        tell(Fault.SIGNATURE_INVALID, "the signature is not that of this header")
    if len(batch.parts) != header.parts or batch_root(batch.parts) != header.root:
        tell(Fault.PARTS_CHANGED, "its parts do not lead to its root")
    return findings


class Chain:
    """Headers of one server in the order of their numbers."""

    def __init__(self, *, whole: bool) -> None:
        """``whole``: the first is to be the server's very first."""
        self.last: Header | None = None
        self.first_sealed: datetime | None = None
        self.heads: dict[int, bytes] = {}
        self._whole = whole

    def follow(self, header: Header, *, keep: bool = False) -> list[Finding]:
        """Take the next header. ``keep``: its hash will be asked for."""
        before, self.last = self.last, header
        if self.first_sealed is None:
            self.first_sealed = header.sealed_at
        if keep:
            self.heads[header.batch] = header.head()
        if before is None:
            if self._whole and header.previous != NO_PREVIOUS:
                message = f"batches before {header.batch} are missing: the first one here names a previous one"
                return [Finding(header.server, header.batch - 1, Fault.BATCH_MISSING, message)]
            return []
        if header.batch != before.batch + 1:
            missing = f"{before.batch + 1}" + (f" to {header.batch - 1}" if header.batch > before.batch + 2 else "")
            message = f"batch {missing} is missing"
            return [Finding(header.server, before.batch + 1, Fault.BATCH_MISSING, message)]
        if header.previous != before.head():
            message = f"it does not follow batch {before.batch}: one of the two was changed, moved or put in"
            return [Finding(header.server, header.batch, Fault.CHAIN_BROKEN, message)]
        return []


def of_anchor(anchor: Anchor, chain: Chain | None) -> list[Finding]:
    """What an anchor says about the store. The chain must have kept the anchor's batch."""
    last = chain.last.batch if chain and chain.last else 0
    if last < anchor.batch:
        message = f"the store ends with batch {last}, but batch {anchor.batch} is anchored: the end was cut off"
        return [Finding(anchor.server, last + 1, Fault.TRUNCATED, message)]
    if chain and (head := chain.heads.get(anchor.batch)) is not None and head != anchor.head:
        message = f"its header's hash is {head.hex()}, anchored is {anchor.head.hex()}: the record was made anew"
        return [Finding(anchor.server, anchor.batch, Fault.ANCHOR_DIFFERS, message)]
    return []


@dataclass(slots=True)
class Row:
    """A sealed row as it is stored. ``salt`` is None for one that was redacted."""

    server: str
    batch: int
    part: str
    index: int
    salt: bytes | None
    leaf: bytes
    line: bytes


def erased_without_event(row: Row) -> Finding:
    """The finding for a row without salt whose erasure no sealed event names."""
    message = f"row {row.index} of {row.part} was erased, and no sealed event tells by whom"
    return Finding(row.server, row.batch, Fault.ERASED_WITHOUT_EVENT, message)


class Parts:
    """Rows against the parts that they belong to.

    ``redacted`` says whether a row's erasure is on record, ``expired`` whether a part's is.
    """

    def __init__(
        self,
        parts: Mapping[tuple[str, int, str], Part],
        *,
        redacted: Callable[[Row], bool],
        expired: Callable[[str, int, str], bool],
    ) -> None:
        self._parts = parts
        self._redacted, self._expired = redacted, expired
        self._leaves: dict[tuple[str, int, str], dict[int, bytes]] = {}
        self._done: set[tuple[str, int, str]] = set()

    def take(self, row: Row) -> list[Finding]:
        """Check one row; returns what is wrong with it, and with its part if it was the last one missing there."""
        key = (row.server, row.batch, row.part)
        part = self._parts.get(key)
        if part is None or not 0 <= row.index < part.leaves:
            return [
                Finding(row.server, row.batch, Fault.ROW_ADDED, f"a row that its batch has no place for ({row.part})")
            ]
        leaves = self._leaves.setdefault(key, {}) if key not in self._done else None
        if leaves is None or row.index in leaves:
            return [Finding(row.server, row.batch, Fault.ROW_ADDED, f"row {row.index} of {row.part} is there twice")]
        leaves[row.index] = row.leaf
        findings = []
        if row.salt is None:
            if not self._redacted(row):
                findings.append(erased_without_event(row))
        elif leaf(row.salt, row.line) != row.leaf:
            message = f"row {row.index} of {row.part} is not what was sealed"
            findings.append(Finding(row.server, row.batch, Fault.ROW_CHANGED, message))
        if len(leaves) == part.leaves:
            self._done.add(key)
            if root([leaves[index] for index in range(part.leaves)]) != part.root:
                message = f"the rows of {row.part} do not lead to its root: they were changed, moved or put in"
                findings.append(Finding(row.server, row.batch, Fault.ROW_CHANGED, message))
            del self._leaves[key]
        return findings

    def finish(self) -> list[Finding]:
        """Findings for parts of which rows are missing, once all rows were taken."""
        findings = []
        for key, part in self._parts.items():
            if key in self._done or part.leaves == 0:
                continue
            server, batch, name = key
            held = self._leaves.get(key, {})
            if not held and self._expired(*key):
                continue
            missing = next(index for index in range(part.leaves) if index not in held)
            lost = part.leaves - len(held)
            message = (
                f"{lost} of {counted(part.leaves, 'row')} of {name} {verb(lost, 'is', 'are')} missing, "
                f"the first is {missing}"
            )
            findings.append(Finding(server, batch, Fault.ROW_MISSING, message))
        return findings
