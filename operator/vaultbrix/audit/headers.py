"""Headers of sealed batches as the store holds them, in ``audit.batch``. Functions that ask it raise psycopg.Error."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import psycopg
from psycopg import sql

from vaultbrix.audit.header import Header

_NAMES = [field.name for field in fields(Header)]


def header_columns(table: str = "batch") -> sql.Composed:
    """The columns of a Header, in the order of its fields; ``table`` is what a query calls ``audit.batch``."""
    return sql.SQL(", ").join(sql.Identifier(table, name) for name in _NAMES)


_SELECT = sql.SQL("SELECT {} FROM audit.batch").format(header_columns())
_NUMBERED = _SELECT + sql.SQL(" WHERE server = %s AND batch = %s")
_LATEST = _SELECT + sql.SQL(" WHERE server = %s ORDER BY batch DESC LIMIT 1")
_LATEST_OF_EACH = sql.SQL("SELECT DISTINCT ON (server) {} FROM audit.batch ORDER BY server, batch DESC").format(
    header_columns()
)
_SIGNED = sql.SQL("SELECT {}, signer, signature FROM audit.batch WHERE server = %s AND batch = %s").format(
    header_columns()
)


@dataclass(frozen=True)
class SignedHeader:
    """A header, the identity of the key that it was signed with, and the signature (64 bytes)."""

    header: Header
    signer: bytes
    signature: bytes

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> "SignedHeader":
        """From the values of header_columns, ``signer`` and ``signature``."""
        *header, signer, signature = row
        return cls(Header(*header), signer, signature)


async def load_header(connection: psycopg.AsyncConnection, server: str, batch: int) -> Header | None:
    """Header of a server's batch; None where the store has no such batch."""
    return _header(await (await connection.execute(_NUMBERED, [server, batch])).fetchone())


async def load_latest_header(connection: psycopg.AsyncConnection, server: str) -> Header | None:
    """Header of a server's last batch; None where the store has nothing of the server."""
    return _header(await (await connection.execute(_LATEST, [server])).fetchone())


def read_signed_header(connection: psycopg.Connection, server: str, batch: int) -> SignedHeader | None:
    """Header of a server's batch with its signature; None where the store has no such batch."""
    row = connection.execute(_SIGNED, [server, batch]).fetchone()
    return SignedHeader.of_row(row) if row else None


def read_latest_headers(connection: psycopg.Connection) -> list[Header]:
    """Header of the last batch of each server."""
    return [Header(*row) for row in connection.execute(_LATEST_OF_EACH)]


def _header(row: tuple[Any, ...] | None) -> Header | None:
    return Header(*row) if row else None
