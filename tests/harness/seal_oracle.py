"""Seals of the audit store, recomputed from the words in docs/audit-figures.md with hashlib and cryptography alone."""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC

import psycopg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key


def tree(leaves: Sequence[bytes]) -> bytes:
    """Root of RFC 6962 2.1 over leaf hashes, by its own recursion."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


def check(
    connection: psycopg.Connection, server: str, leaves: dict[tuple[int, str], dict[int, bytes]], keys: str
) -> tuple[int, dict[int, str]]:
    """Number of batches, and those that do not verify with why; a missing one shows at the one after it.

    ``leaves``: by batch and part, then by place, as computed from the rows; they are taken.
    """
    public = _public_keys(keys)
    parts: dict[int, dict[str, tuple[int, bytes]]] = {}
    for batch, part, count, root in connection.execute(_PARTS, [server]):
        parts.setdefault(batch, {})[part] = (count, bytes(root))
    bad: dict[int, str] = {}
    previous, last, number = bytes(32), 0, 0
    for batch, *rest in connection.execute(_BATCHES, [server]).fetchall():
        number += 1
        at, file, start, stop, count, before, root, signer, signature = rest
        mine = parts.get(batch, {})
        header = (
            f"vaultbrix audit batch 1\nserver {server}\nbatch {batch}\n"
            f"sealed {at.astimezone(UTC).isoformat(timespec='microseconds')}\nbytes {start} {stop} {file}\n"
            f"parts {count}\nprevious {bytes(before).hex()}\nroot {bytes(root).hex()}\n"
        ).encode()
        names = [
            hashlib.sha256(b"\0" + f"{n}\t{mine[n][0]}\t{mine[n][1].hex()}".encode()).digest() for n in sorted(mine)
        ]
        if batch != last + 1 or bytes(before) != previous:
            bad[batch] = "the chain is broken"
        elif len(mine) != count or tree(names) != bytes(root):
            bad[batch] = "its parts are others"
        elif not _signed(public.get(bytes(signer)), bytes(signature), header):
            bad[batch] = "its signature is not of a known key"
        for name, (size, part_root) in mine.items():
            there = leaves.pop((batch, name), {})
            hashes = [there.get(index, b"missing") for index in range(size)]
            if len(there) != size or tree(hashes) != part_root:
                bad[batch] = f"the rows of part {name!r} are others"
        previous, last = hashlib.sha256(header).digest(), batch
    for batch, name in leaves:
        bad[batch] = f"rows of part {name!r} that no batch has"
    return number, bad


_PARTS = "SELECT batch, part, leaves, root FROM audit.part WHERE server = %s"
_BATCHES = (
    "SELECT batch, sealed_at, file, start, stop, parts, previous, root, signer, signature FROM audit.batch"
    " WHERE server = %s ORDER BY batch"
)


def _part_leaf(name: str, leaves: int, root: bytes) -> bytes:
    return hashlib.sha256(b"\0" + f"{name}\t{leaves}\t{root.hex()}".encode()).digest()


def _public_keys(keys: str) -> dict[bytes, Ed25519PublicKey]:
    found = {}
    for block in re.findall(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", keys, re.DOTALL):
        key = load_pem_public_key(block.encode())
        assert isinstance(key, Ed25519PublicKey)
        found[hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).digest()] = key
    return found


def _signed(key: Ed25519PublicKey | None, signature: bytes, text: bytes) -> bool:
    if key is None:
        return False
    try:
        key.verify(signature, text)
    except InvalidSignature:
        return False
    return True
