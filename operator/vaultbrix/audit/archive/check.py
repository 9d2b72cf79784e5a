"""Check a set of files by its manifest alone: no store, no trust in where the files are kept."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vaultbrix.audit import seal
from vaultbrix.audit.archive.columns import BATCH, PART, TABLES, Table
from vaultbrix.audit.archive.leaves import Finding, Key, Leaves
from vaultbrix.audit.archive.manifest import NAME, BadManifest, File, Manifest, Span, verified
from vaultbrix.audit.seal import record_part
from vaultbrix.runtime.counted import counted

# Opens one of the set's files by name. Raises FileNotFoundError.
Opener = Callable[[str], BinaryIO]
Keys = Mapping[bytes, Ed25519PublicKey]
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Link:
    """One end of a server's chain in a set: batch, hash of the header before it or of its own."""

    batch: int
    hash: bytes


@dataclass
class Report:
    """What the check of one set of files found. Without findings, every row of the set is as it was sealed.

    ``redacted``: rows (server, batch, part, leaf_index) whose content is erased; each needs a sealed event of kind
    'redacted' that covers it. ``absent``: parts of the day that retention had dropped before the
    export; each needs a sealed event of kind 'expired'. ``unsealed``: rows from
    before records were sealed, about which nothing can be said. ``begins`` and ``ends``: each server's chain.
    """

    manifest: Manifest | None
    findings: list[Finding] = field(default_factory=list)
    redacted: set[tuple[str, int, str, int]] = field(default_factory=set)
    absent: set[Key] = field(default_factory=set)
    unsealed: int = 0
    rows: int = 0
    batches: int = 0
    begins: dict[str, Link] = field(default_factory=dict)
    ends: dict[str, Link] = field(default_factory=dict)


def check_archive(content: bytes, signature: bytes, files: Opener, *, exporters: Keys, shippers: Keys) -> Report:
    """Check manifest, files, signatures, chains and every row's leaf; the first finding is the first that is bad."""
    try:
        manifest = verified(content, signature, exporters)
    except BadManifest as error:
        return Report(None, [Finding(NAME, str(error))])
    report = Report(manifest)
    damaged = {file.name for file in manifest.files if _whole(file, files, report)}
    batches, parts = _Batches(), dict[Key, seal.Part]()
    for file in manifest.files:
        if file.table == BATCH.name:
            _read(file, files, report, damaged, batches.take)
        elif file.table == PART.name:
            _read(file, files, report, damaged, lambda block: parts.update(_parts_of(block)))
    report.batches = len(batches.headers)
    _check_headers(batches, parts, shippers, report)
    for server, span in sorted(manifest.servers.items()):
        _check_chain(server, span, batches, report)
    _check_rows(manifest, files, parts, damaged, report)
    return report


def check_days(reports: Sequence[Report]) -> list[Finding]:
    """Whether the chains of sets that follow each other are one: a set between them cannot be missing unseen."""
    findings = []
    ends: dict[str, tuple[str, Link]] = {}
    for report in sorted((r for r in reports if r.manifest), key=lambda r: (r.manifest.day, r.manifest.number)):  # type: ignore[union-attr]
        assert report.manifest is not None
        place = f"{report.manifest.folder}/{NAME}"
        for server, begin in sorted(report.begins.items()):
            before, end = ends.get(server, ("", None))
            if end is not None and begin.batch == end.batch + 1 and begin.hash != end.hash:
                findings.append(Finding(place, f"does not follow {before}", server, begin.batch, "chain"))
            elif end is not None and begin.batch > end.batch + 1:
                what = f"batches {end.batch + 1} to {begin.batch - 1} are in no set given"
                findings.append(Finding(place, what, server, begin.batch, "chain"))
        ends.update({server: (place, end) for server, end in report.ends.items()})
    return findings


def _whole(file: File, files: Opener, report: Report) -> bool:
    """Whether a file is not the one of the manifest; reported."""
    try:
        with files(file.name) as opened:
            size, hashed = hash_of(opened)
    except FileNotFoundError:
        report.findings.append(Finding(file.name, "the file is missing"))
        return True
    if (size, hashed) != (file.bytes, file.sha256):
        report.findings.append(Finding(file.name, f"its content is not that of the manifest ({counted(size, 'byte')})"))
        return True
    return False


def hash_of(file: BinaryIO) -> tuple[int, str]:
    """Bytes and sha256 (hex) of a file from where it stands."""
    size, hashed = 0, hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        size += len(chunk)
        hashed.update(chunk)
    return size, hashed.hexdigest()


def _read(
    file: File, files: Opener, report: Report, damaged: set[str], take: Callable[[pa.RecordBatch], object]
) -> None:
    try:
        with files(file.name) as opened, pq.ParquetFile(opened) as parquet:
            if not TABLES[file.table].reads(parquet.schema_arrow):
                raise ValueError(f"columns are not those of {file.table}")
            for group in range(parquet.num_row_groups):
                for block in parquet.read_row_group(group, use_threads=False).to_batches():
                    take(block)
    except (OSError, ValueError, pa.ArrowException) as error:
        if file.name not in damaged:
            report.findings.append(Finding(file.name, f"cannot be read: {error}"))


class _Batches:
    """Headers with their signatures, by server and batch."""

    def __init__(self) -> None:
        self.headers: dict[tuple[str, int], tuple[seal.Header, bytes, bytes]] = {}

    def take(self, block: pa.RecordBatch) -> None:
        for row in block.to_pylist():
            signer, signature = row.pop("signer"), row.pop("signature")
            self.headers[row["server"], row["batch"]] = (seal.Header(**row), signer, signature)


def _parts_of(block: pa.RecordBatch) -> dict[Key, seal.Part]:
    return {
        (row["server"], row["batch"], row["part"]): seal.Part(row["leaves"], row["root"]) for row in block.to_pylist()
    }


def _check_headers(batches: _Batches, parts: Mapping[Key, seal.Part], shippers: Keys, report: Report) -> None:
    by_batch: dict[tuple[str, int], dict[str, seal.Part]] = {}
    for (server, batch, name), part in parts.items():
        by_batch.setdefault((server, batch), {})[name] = part
    for key in sorted(by_batch.keys() - batches.headers.keys()):
        report.findings.append(Finding("batch", "its header is missing", *key, part="header"))
    for key, (header, signer, signature) in sorted(batches.headers.items()):
        batch_parts = by_batch.get(key, {})
        if not seal.signed(header, signature, signer, shippers):
            what = (
                "is not signed by a known shipper's key" if signer not in shippers else "the signature is not its own"
            )
            report.findings.append(Finding("batch", what, *key, part="header"))
        elif len(batch_parts) != header.parts or seal.batch_root(batch_parts) != header.root:
            report.findings.append(Finding("part", "its parts are not those that were signed", *key, part="header"))


def _check_chain(server: str, span: Span, batches: _Batches, report: Report) -> None:
    if not span.last:
        return
    before: seal.Header | None = None
    for batch in range(span.first, span.last + 1):
        known = batches.headers.get((server, batch))
        if known is None:
            report.findings.append(Finding("batch", "the batch is missing", server, batch, "chain"))
            before = None
            continue
        header = known[0]
        if before is not None and header.previous != before.head():
            report.findings.append(Finding("batch", "does not follow the batch before it", server, batch, "chain"))
        if batch == span.first:
            report.begins[server] = Link(batch, header.previous)
        before = header
    if before is not None:
        report.ends[server] = Link(span.last, before.head())
        if before.head().hex() != span.head:
            report.findings.append(Finding("batch", "is not the last one that was signed", server, span.last, "chain"))


def _check_rows(
    manifest: Manifest, files: Opener, parts: Mapping[Key, seal.Part], damaged: set[str], report: Report
) -> None:
    there = {record_part(manifest.day, keep) for keep in manifest.keeps}
    day = record_part(manifest.day, 0).removesuffix("0")
    expected = {}
    for key, part in parts.items():
        server, batch, name = key
        span = manifest.servers.get(server)
        if span is None:
            continue
        if not name.startswith("record "):
            held = span.first <= batch <= span.last
        elif name.startswith(day) and (name not in there or batch <= manifest.dropped.get(name, {}).get(server, 0)):
            report.absent.add(key)
            held = False
        else:
            held = name in there and span.after < batch <= span.upto
        if held:
            expected[key] = part
    leaves, miscounted = Leaves(expected), []
    for file in manifest.files:
        table: Table = TABLES[file.table]
        if not table.sealed:
            continue
        before = leaves.rows
        try:
            with files(file.name) as opened:
                leaves.take(file.name, table, opened)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, pa.ArrowException) as error:
            if file.name not in damaged:
                leaves.findings.append(Finding(file.name, f"cannot be read: {error}"))
            continue
        if leaves.rows - before != file.rows and file.name not in damaged:
            miscounted.append(
                Finding(file.name, f"{counted(leaves.rows - before, 'row')}, {file.rows} in the manifest")
            )
    leaves.finish()
    report.findings += leaves.findings + miscounted
    report.redacted, report.unsealed, report.rows = leaves.redacted, leaves.unsealed, leaves.rows
