"""Tamper evidence: salted leaves, a Merkle tree per batch (RFC 6962 2.1), headers chained and signed (RFC 8032). Pure.

A *leaf* is ``sha256(00 ‖ salt ‖ line)`` with the row's COPY text line (PostgreSQL, COPY, "Text Format"), without its
line end. The leaves of a *part* (one partition, or ``gap``, ``quarantine``, ``event``) form a tree; the parts of a
batch, sorted by name, form another, whose root stands in the batch's header. The header is text, so that it can be
checked with standard tools: see docs/audit.md.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from vaultbrix.audit.header import Header as Header  # noqa: PLC0414 - part of what this module offers

SALT_BYTES = 16
NO_PREVIOUS = bytes(32)
_sha256 = hashlib.sha256


# Longer rows are not copied to be hashed.
_LONG_BYTES = 256 * 1024


def leaf(salt: bytes, line: bytes) -> bytes:
    """Hash of one row; 32 bytes."""
    if len(line) < _LONG_BYTES:
        return _sha256(b"\x00" + salt + line).digest()
    hashed = _sha256(b"\x00" + salt)
    hashed.update(line)
    return hashed.digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Root of a Merkle tree over leaf hashes, in their order; of none, the hash of nothing."""
    if not leaves:
        return _sha256(b"").digest()
    # Pairing neighbours level by level and carrying an odd last one up gives the same tree as RFC 6962's recursion.
    level = list(leaves)
    while len(level) > 1:
        odd = [level[-1]] if len(level) % 2 else []
        pairs = iter(level)
        level = [_sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)] + odd
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Siblings from a leaf up to the root (RFC 6962 2.1.1)."""
    level, siblings = list(leaves), []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            siblings.append(level[sibling])
        odd = [level[-1]] if len(level) % 2 else []
        pairs = iter(level)
        level = [_sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)] + odd
        index //= 2
    return siblings


def root_of_path(start: bytes, index: int, size: int, siblings: Sequence[bytes]) -> bytes | None:
    """The root that a leaf and its path lead to, None for a path that is not one of such a tree."""
    rest = list(siblings)
    node, last = start, size - 1
    if not 0 <= index <= last:
        return None
    while last > 0:
        if index ^ 1 <= last:
            if not rest:
                return None
            other = rest.pop(0)
            node = _sha256(b"\x01" + (other + node if index % 2 else node + other)).digest()
        index, last = index // 2, last // 2
    return None if rest else node


# Lines above a key in a file of them.
_SERVERS = re.compile(rb"^server: *([a-z0-9][-a-z0-9.]*)\r?$", re.MULTILINE).findall


@dataclass(frozen=True)
class Part:
    """One subtree of a batch: how many leaves it has, and its root hash."""

    leaves: int
    root: bytes


def part_leaf(name: str, part: Part) -> bytes:
    """The leaf that stands for a part in its batch's tree."""
    return _sha256(b"\x00" + f"{name}\t{part.leaves}\t{part.root.hex()}".encode()).digest()


def record_part(day: date, keep: int) -> str:
    """Name of the part of a day's records that are kept so many days."""
    return f"record {day.isoformat()} {keep}"


def batch_root(parts: Mapping[str, Part]) -> bytes:
    """Root over a batch's parts, by name."""
    return root([part_leaf(name, parts[name]) for name in sorted(parts)])


class Signer:
    """A private key: a shipper's, or that of an export."""

    def __init__(self, pem: bytes) -> None:
        """Take a PEM of PKCS #8 without password. Raises ValueError for anything but an Ed25519 key."""
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the signing key must be an Ed25519 key in PEM")  # noqa: TRY004 - content, not type
        self._key = key
        self.public = key.public_key()
        self.identity = identity(self.public)

    def sign(self, header: Header) -> bytes:
        """Signature of a header; 64 bytes."""
        return self.sign_content(header.text())

    def sign_content(self, content: bytes) -> bytes:
        """Signature of other content, whose beginning tells that it is no header; 64 bytes."""
        return self._key.sign(content)


def identity(key: Ed25519PublicKey) -> bytes:
    """sha256 of the raw public key."""
    return _sha256(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)).digest()


class PublicKeys(dict[bytes, Ed25519PublicKey]):
    """Keys by identity. ``servers``: of keys that are good for some servers only, their names."""

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[bytes, set[str]] = {}


def public_keys(pem: bytes) -> PublicKeys:
    """The keys of a PEM file; it keeps old ones beside the new. Raises ValueError.

    Lines ``server: NAME`` right above a key say which servers it is good for; a key without one is good for all.
    """
    mark = b"-----BEGIN PUBLIC KEY-----"
    keys = PublicKeys()
    above, *blocks = pem.split(mark)
    for block in blocks:
        key = serialization.load_pem_public_key(mark + block)
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("public keys must be Ed25519 keys in PEM")  # noqa: TRY004 - content, not type
        signer = identity(key)
        if servers := _SERVERS(above):
            if signer not in keys or signer in keys.servers:
                keys.servers.setdefault(signer, set()).update(name.decode() for name in servers)
        else:
            keys.servers.pop(signer, None)
        keys[signer] = key
        above = block
    if not keys:
        raise ValueError("no public key in PEM found")
    return keys


def server_key(server: str, public: str) -> str:
    """A public key for a PEM file, good for one server."""
    return f"server: {server}\n{public}"


def key_of(server: str, signer: bytes, keys: Mapping[bytes, Ed25519PublicKey]) -> Ed25519PublicKey | None:
    """The key of that identity, if it is among those that are good for the server."""
    if isinstance(keys, PublicKeys) and server not in keys.servers.get(signer, {server}):
        return None
    return keys.get(signer)


def signed(header: Header, signature: bytes, signer: bytes, keys: Mapping[bytes, Ed25519PublicKey]) -> bool:
    """Whether one of the keys that are good for the header's server signed it."""
    key = key_of(header.server, signer, keys)
    if key is None:
        return False
    try:
        key.verify(signature, header.text())
    except InvalidSignature:
        return False
    return True


def new_key() -> tuple[str, str]:
    """A private key and its public key, both PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
