"""The proof of one record: what somebody without the store needs to see that a signed batch holds it."""

from collections.abc import Mapping

import msgspec
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vaultbrix.audit import rows
from vaultbrix.audit.headers import read_signed_header
from vaultbrix.audit.seal import Header, Part, batch_root, key_of, leaf, path, root_of_path, signed


class PartRoot(msgspec.Struct):
    """A part of the batch; ``root`` in hex."""

    part: str
    leaves: int
    root: str


class Proof(msgspec.Struct):
    """The record's line and the way from it to the signature; bytes in hex, the header as the text that was signed.

    ``salt`` is None for a redacted record.
    """

    format: str
    line: str
    salt: str | None
    leaf: str
    index: int
    part: str
    path: list[str]
    parts: list[PartRoot]
    header: str
    signer: str
    signature: str


FORMAT = "vaultbrix audit proof 1"


class Untrue(ValueError):
    """The proof does not hold; the message says where."""


def make(connection: psycopg.Connection, server: str, session_id: str, line_num: int) -> Proof:
    """The proof of a session's line. The connection must be opened with ``rows.SETTINGS``.

    Raises LookupError for a record that is not there or not sealed, psycopg.Error.
    """
    cursor = connection.execute(
        "SELECT at, batch, leaf_index, salt, leaf, 'record ' || (at AT TIME ZONE 'UTC')::date || ' ' || keep"
        " FROM audit.record WHERE server = %s AND session_id = %s AND line_num = %s",
        [server, session_id, line_num],
    )
    record_row = cursor.fetchone()
    if record_row is None:
        raise LookupError(f"server {server} has no record of session {session_id}, line {line_num}")
    at, batch, index, salt, hashed, part = record_row
    if batch is None:
        raise LookupError("the record was stored before records were sealed")
    line = _line(connection, server, session_id, line_num)
    cursor = connection.execute(
        "SELECT leaf FROM audit.record WHERE server = %s AND batch = %s AND at >= date_trunc('day', %s, 'UTC')"
        " AND at < date_trunc('day', %s, 'UTC') + interval '24 hours' AND keep = %s ORDER BY leaf_index",
        [server, batch, at, at, int(part.rsplit(" ", 1)[1])],
    )
    leaves = [bytes(row[0]) for row in cursor]
    cursor = connection.execute(
        'SELECT part, leaves, root FROM audit.part WHERE server = %s AND batch = %s ORDER BY part COLLATE "C"',
        [server, batch],
    )
    parts = [PartRoot(name, count, bytes(root).hex()) for name, count, root in cursor]
    signed_header = read_signed_header(connection, server, batch)
    if signed_header is None:
        raise LookupError(f"batch {batch} of server {server} is not there")
    return Proof(
        format=FORMAT,
        line=line.hex(),
        salt=None if salt is None else bytes(salt).hex(),
        leaf=bytes(hashed).hex(),
        index=index,
        part=part,
        path=[sibling.hex() for sibling in path(leaves, index)],
        parts=parts,
        header=signed_header.header.text().decode(),
        signer=signed_header.signer.hex(),
        signature=signed_header.signature.hex(),
    )


def _line(connection: psycopg.Connection, server: str, session_id: str, line_num: int) -> bytes:
    query = psycopg.sql.SQL(
        "COPY (SELECT {} FROM audit.record WHERE server = {} AND session_id = {} AND line_num = {}) TO STDOUT"
    ).format(psycopg.sql.SQL(rows.STORED), server, session_id, line_num)
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        return rows.without_approver(b"".join(bytes(block) for block in copy).removesuffix(b"\n"))


def dump(proof: Proof) -> bytes:
    """The proof as JSON, for a file."""
    return msgspec.json.format(msgspec.json.encode(proof), indent=1)


def load(text: bytes) -> Proof:
    """A proof from its JSON. Raises Untrue for what is no proof."""
    try:
        return msgspec.json.decode(text, type=Proof)
    except (msgspec.DecodeError, ValueError) as error:
        raise Untrue(f"not a proof: {error}") from None


def check(proof: Proof, keys: Mapping[bytes, Ed25519PublicKey]) -> Header:
    """The signed header of the batch that holds the record. Raises Untrue where the proof does not hold."""
    if proof.format != FORMAT:
        raise Untrue(f"format: {proof.format!r} is not known")
    try:
        line, leaf_hash = bytes.fromhex(proof.line), bytes.fromhex(proof.leaf)
        salt = None if proof.salt is None else bytes.fromhex(proof.salt)
        siblings = [bytes.fromhex(sibling) for sibling in proof.path]
        parts = {part.part: Part(part.leaves, bytes.fromhex(part.root)) for part in proof.parts}
        header = Header.read(proof.header.encode())
        signer, signature = bytes.fromhex(proof.signer), bytes.fromhex(proof.signature)
    except ValueError as error:
        raise Untrue(f"not a proof: {error}") from None
    if salt is not None and leaf(salt, line) != leaf_hash:
        raise Untrue("line: it is not what was sealed")
    own = parts.get(proof.part)
    if own is None or root_of_path(leaf_hash, proof.index, own.leaves, siblings) != own.root:
        raise Untrue(f"path: it does not lead to the root of {proof.part}")
    if len(parts) != header.parts or batch_root(parts) != header.root:
        raise Untrue("parts: they do not lead to the batch's root")
    if key_of(header.server, signer, keys) is None:
        raise Untrue(f"signer: key {proof.signer[:16]} is none of those given for server {header.server}")
    if not signed(header, signature, signer, keys):
        raise Untrue("signature: it is not that of this header")
    return header
