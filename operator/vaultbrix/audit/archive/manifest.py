"""The manifest of a set of files: what it holds, signed. Pure.

It is JSON with sorted keys and no white space, so that equal content is equal bytes. Its signature (Ed25519, RFC 8032)
stands in a file of its own beside it, over the manifest's bytes, so that standard tools can check it.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "vaultbrix audit archive 1"
NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
TableName = Literal["record", "gap", "quarantine", "event", "batch", "part"]


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a set holds of one server: records of batches ``after`` < n ≤ ``upto``.

    ``first`` to ``last`` are the batches that were sealed on the day, without a hole; 0: none. ``head`` is the hash
    (hex) of the last one's header. ``complete`` is False where the export did not wait for the server.
    """

    after: int
    upto: int
    first: int
    last: int
    head: str
    complete: bool = True


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Parquet file beside the manifest. ``server``, ``keep``, batches ``first`` to ``last``: of a file of records."""

    name: str
    table: TableName
    rows: int
    bytes: int
    sha256: str
    server: str = ""
    keep: int = 0
    first: int = 0
    last: int = 0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A day's set of files. ``number`` counts the day's sets from 1; those from 2 on hold what came late.

    ``keeps``: days to keep of the partitions that are in it. ``dropped``: by part and server, the batch up to which
    retention had dropped its rows. ``replaces``: hashes (hex) of manifests that are void.
    """

    format: str
    day: date
    number: int
    made_at: datetime
    signer: str
    keeps: tuple[int, ...]
    servers: dict[str, Span]
    files: tuple[File, ...]
    dropped: dict[str, dict[str, int]] = {}
    replaces: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The manifest as JSON: the bytes that are signed and stored."""
        return msgspec.json.encode(self, order="sorted")

    @property
    def folder(self) -> str:
        """Where it is, below the archive's URL."""
        return set_folder(self.day, self.number)


class BadManifest(ValueError):
    """The manifest is none of this release's, or its signature is not that of a known key."""


def set_folder(day: date, number: int) -> str:
    """Path of a set below the archive's URL."""
    return f"day={day.isoformat()}/set={number}"


def digest(content: bytes) -> str:
    """sha256, hex: by this a manifest is named."""
    return hashlib.sha256(content).hexdigest()


def decode(content: bytes) -> Manifest:
    """Read a manifest, unchecked. Raises BadManifest."""
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise BadManifest(f"not a manifest: {error}") from None
    if manifest.format != FORMAT:
        raise BadManifest(f"format is {manifest.format!r}, this release reads {FORMAT!r}")
    return manifest


def verified(content: bytes, signature: bytes, keys: Mapping[bytes, Ed25519PublicKey]) -> Manifest:
    """Read a manifest that one of the keys signed. Raises BadManifest."""
    manifest = decode(content)
    try:
        key = keys.get(bytes.fromhex(manifest.signer))
    except ValueError:
        key = None
    if key is None:
        raise BadManifest("signed with a key that is not among the public keys given")
    try:
        key.verify(signature, content)
    except InvalidSignature:
        raise BadManifest("the signature is not that of its content") from None
    return manifest


def current(manifests: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """The manifests, by hash, that no other one replaces."""
    gone = {name for manifest in manifests.values() for name in manifest.replaces}
    return {name: manifest for name, manifest in manifests.items() if name not in gone}


def now_utc(at: datetime) -> datetime:
    """To the second, as a manifest tells times."""
    return at.astimezone(UTC).replace(microsecond=0)
