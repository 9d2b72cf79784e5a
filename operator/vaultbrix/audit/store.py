"""The audit store: one transaction per batch that holds rows, seal and positions alike."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from vaultbrix.audit import rows
from vaultbrix.audit.reader import Batch, Position
from vaultbrix.audit.seal import NO_PREVIOUS
from vaultbrix.audit.sealing import Event, Sealed
from vaultbrix.domain.header import Header

# More wait for the next batch, so that a batch stays small.
_MOST_EVENTS = 1000


class Fenced(Exception):
    """Another shipper stored a batch meanwhile; read the state again."""


class NewerStore(Exception):
    """The store's schema is newer than this release; it is left alone."""


@dataclass(frozen=True)
class Known:
    """What the store holds of a server: the last batch, the hash of its header, and how far each file is stored."""

    batch: int = 0
    head: bytes = NO_PREVIOUS
    positions: dict[str, Position] = field(default_factory=dict)
    adopted: str = ""


async def load(connection: psycopg.AsyncConnection, server: str) -> Known:
    """The state to go on from; the beginning for a server not seen before."""
    cursor = await connection.execute("SELECT batch, adopted FROM audit.checkpoint WHERE server = %s", [server])
    row = await cursor.fetchone()
    batch, adopted = row or (0, "")
    sealed = await header(connection, server, batch)
    cursor = await connection.execute(
        "SELECT file, inode, position, fingerprint, complete FROM audit.logfile WHERE server = %s", [server]
    )
    positions = {file: Position(*rest) for file, *rest in await cursor.fetchall()}
    return Known(batch, sealed.head() if sealed else NO_PREVIOUS, positions, adopted)


async def header(connection: psycopg.AsyncConnection, server: str, batch: int) -> Header | None:
    """What was signed of a batch; None where the store has no such batch."""
    cursor = await connection.execute(
        "SELECT server, batch, sealed_at, file, start, stop, parts, previous, root FROM audit.batch"
        " WHERE server = %s AND batch = %s",
        [server, batch],
    )
    row = await cursor.fetchone()
    return Header(*row) if row else None


async def unsealed(connection: psycopg.AsyncConnection) -> list[Event]:
    """Events that wait for a seal, oldest first."""
    waiting = f"SELECT {rows.EVENT} FROM audit.event WHERE batch IS NULL ORDER BY id LIMIT {_MOST_EVENTS}"  # noqa: S608
    found = b""
    async with connection.cursor() as cursor, cursor.copy(f"COPY ({waiting}) TO STDOUT".encode()) as copy:
        async for block in copy:
            found += bytes(block)
    return [Event(int(line.split(b"\t", 1)[0]), line) for line in found.split(b"\n")[:-1]]


async def retention(connection: psycopg.AsyncConnection) -> dict[tuple[str, str], int]:
    """Days to keep by tenant and class."""
    cursor = await connection.execute("SELECT tenant, class, days FROM audit.retention")
    return {(tenant, class_): days for tenant, class_, days in await cursor.fetchall()}


async def store(connection: psycopg.AsyncConnection, batch: Batch | None, sealed: Sealed) -> None:
    """Store a sealed batch, all or nothing. Raises Fenced when another came first. ``batch`` None: events only."""
    header = sealed.header
    async with connection.transaction():
        await _move_checkpoint(connection, header.server, header.batch)
        if batch is not None:
            await _move_position(connection, header.server, batch.file, batch.position)
        for day, keep in sorted(sealed.partitions):
            await connection.execute("SELECT audit.ensure_partition(%s, %s)", [day, keep])
        await _copy(connection, "record", rows.RECORD, sealed.rows.records)
        await _copy(connection, "gap", rows.GAP, sealed.rows.gaps)
        await _copy(connection, "quarantine", rows.QUARANTINE, sealed.rows.quarantine)
        for event in sealed.rows.events:
            try:
                await connection.execute(
                    "SELECT audit.seal_event(%s, %s, %s, %s, %s, %s)",
                    [event.id, header.server, header.batch, event.index, event.salt, event.leaf],
                )
            except psycopg.errors.RaiseException:
                raise Fenced from None
        await connection.execute(
            "INSERT INTO audit.batch VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                header.server,
                header.batch,
                header.sealed_at,
                header.file,
                header.start,
                header.stop,
                header.parts,
                header.previous,
                header.root,
                sealed.signer,
                sealed.signature,
            ],
        )
        for name, part in sealed.parts.items():
            await connection.execute(
                "INSERT INTO audit.part VALUES (%s, %s, %s, %s, %s)",
                [header.server, header.batch, name, part.leaves, part.root],
            )


async def _copy(connection: psycopg.AsyncConnection, table: str, columns: str, lines: Iterable[bytes]) -> None:
    content = b"".join(lines)
    if not content:
        return
    copying = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier("audit", table),
        sql.SQL(", ").join(sql.Identifier(name.strip()) for name in f"{columns}, {rows.SEAL}".split(",")),
    )
    async with connection.cursor() as cursor, cursor.copy(copying) as copy:
        await copy.write(content)


async def _move_checkpoint(connection: psycopg.AsyncConnection, server: str, to: int) -> None:
    # The first statement of the transaction: its row lock makes a second shipper wait, and then find itself fenced.
    cursor = await connection.execute(
        "INSERT INTO audit.checkpoint AS c (server, batch) VALUES (%s, %s) ON CONFLICT (server) DO UPDATE"
        " SET batch = excluded.batch, stored_at = clock_timestamp() WHERE c.batch = excluded.batch - 1",
        [server, to],
    )
    if cursor.rowcount != 1:
        raise Fenced


async def _move_position(connection: psycopg.AsyncConnection, server: str, file: str, to: Position | None) -> None:
    if to is None:
        await connection.execute("DELETE FROM audit.logfile WHERE server = %s AND file = %s", [server, file])
        return
    await connection.execute(
        "INSERT INTO audit.logfile VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (server, file) DO UPDATE"
        " SET inode = excluded.inode, position = excluded.position, fingerprint = excluded.fingerprint,"
        " complete = excluded.complete",
        [server, file, to.inode, to.offset, to.fingerprint, to.complete],
    )
