"""The audit store: one transaction per batch that holds rows, seal and positions alike."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
from psycopg import sql

from vaultbrix.audit import rows
from vaultbrix.audit.headers import load_header
from vaultbrix.audit.seal import NO_PREVIOUS
from vaultbrix.audit.shipping.followed import Batch, Position
from vaultbrix.audit.shipping.numbers import Hole
from vaultbrix.audit.shipping.requests import Caller, Session
from vaultbrix.audit.shipping.sealing import Event, Sealed

# More wait for the next batch, so that a batch stays small.
_MOST_EVENTS = 1000
# Beyond any line of a session.
LAST_LINE = 2**63 - 1
# Sent to PostgreSQL at once.
_COPIED_BYTES = 256 * 1024
# A row that the store will never take, whatever is done about the store.
REFUSALS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)


class Fenced(Exception):
    """Another shipper stored a batch meanwhile; read the state again."""


@dataclass(frozen=True)
class Known:
    """What the store holds of a server: the last batch, the hash of its header, and how far each file is stored.

    ``began``: when its first batch was stored; ``missing``: line numbers that are not told as gaps yet.
    """

    batch: int = 0
    head: bytes = NO_PREVIOUS
    positions: dict[str, Position] = field(default_factory=dict)
    adopted: str = ""
    began: datetime | None = None
    missing: tuple[Hole, ...] = ()


async def load(connection: psycopg.AsyncConnection, server: str) -> Known:
    """The state to go on from; the beginning for a server not seen before."""
    cursor = await connection.execute("SELECT batch, adopted FROM audit.checkpoint WHERE server = %s", [server])
    row = await cursor.fetchone()
    batch, adopted = row or (0, "")
    header = await load_header(connection, server, batch)
    cursor = await connection.execute(
        "SELECT file, inode, position, fingerprint, complete FROM audit.logfile WHERE server = %s", [server]
    )
    positions = {file: Position(*rest) for file, *rest in await cursor.fetchall()}
    first = await connection.execute(
        "SELECT sealed_at FROM audit.batch WHERE server = %s ORDER BY batch LIMIT 1", [server]
    )
    began = await first.fetchone()
    cursor = await connection.execute(
        "SELECT session_id, first_line, last_line, file, position FROM audit.missing WHERE server = %s", [server]
    )
    missing = tuple(Hole(*values) for values in await cursor.fetchall())
    head = header.head() if header else NO_PREVIOUS
    return Known(batch, head, positions, adopted, began[0] if began else None, missing)


async def unsealed(connection: psycopg.AsyncConnection) -> list[Event]:
    """Events that wait for a seal, oldest first."""
    waiting = f"SELECT {rows.EVENT} FROM audit.event WHERE batch IS NULL ORDER BY id LIMIT {_MOST_EVENTS}"  # noqa: S608
    content = b""
    async with connection.cursor() as cursor, cursor.copy(f"COPY ({waiting}) TO STDOUT".encode()) as copy:
        async for block in copy:
            content += bytes(block)
    return [Event(int(line.split(b"\t", 1)[0]), line) for line in content.split(b"\n")[:-1]]


async def last_lines(connection: psycopg.AsyncConnection, server: str, before: Mapping[str, int]) -> dict[str, int]:
    """Number of the last stored line before a given one, by session (0: none). ``before``: the given numbers."""
    if not before:
        return {}
    cursor = await connection.execute(
        "SELECT session_id, line_num FROM audit.last_lines(%s, %s, %s)",
        [server, list(before), list(before.values())],
    )
    return dict(await cursor.fetchall())


async def without_lines(connection: psycopg.AsyncConnection, server: str, sessions: Sequence[str]) -> set[str]:
    """Those of these sessions of which no line is stored, and that are not told as gaps."""
    stored = await last_lines(connection, server, dict.fromkeys(sessions, LAST_LINE))
    cursor = await connection.execute(
        "SELECT session_id FROM audit.unheard WHERE server = %s AND session_id = ANY(%s)", [server, list(sessions)]
    )
    told = {session for (session,) in await cursor.fetchall()}
    return {session for session, line in stored.items() if not line} - told


async def last_request(connection: psycopg.AsyncConnection, server: str, session: str, before: int) -> Session | None:
    """What one of PostgREST's sessions was at before one of its lines; None where nothing of it is stored."""
    cursor = await connection.execute(
        "SELECT line_num, vxid, whole, of_request, role, tenant, person, ground, address"
        " FROM audit.last_request(%s, %s, %s)",
        [server, session, before],
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    line, vxid, whole, of_request, *caller = row
    return Session(line, vxid, Caller(*caller) if of_request else None, whole)


async def last_approval(connection: psycopg.AsyncConnection, server: str, session: str, before: int) -> str | None:
    """The gate's word on the text that a session was sending before one of its lines; None where there is none."""
    cursor = await connection.execute("SELECT audit.last_approval(%s, %s, %s)", [server, session, before])
    row = await cursor.fetchone()
    return row[0] if row else None


async def stored_lines(
    connection: psycopg.AsyncConnection, server: str, lines: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], bytes | None]:
    """Which of these lines (session, number) are stored, with the hash of each one's content; None: it was erased."""
    cursor = await connection.execute(
        "SELECT session_id, line_num, content FROM audit.stored_lines(%s, %s, %s)",
        [server, [session for session, _ in lines], [number for _, number in lines]],
    )
    return {(session, number): content for session, number, content in await cursor.fetchall()}


async def quarantined_lines(
    connection: psycopg.AsyncConnection, server: str, file: str, positions: Sequence[int]
) -> list[tuple[int, bytes | None]]:
    """Which of these places in a file have a line in quarantine, with the hash of that line; None: it was erased."""
    cursor = await connection.execute(
        "SELECT position, content FROM audit.quarantined_lines(%s, %s, %s)", [server, file, list(positions)]
    )
    return await cursor.fetchall()


async def mark(
    connection: psycopg.AsyncConnection,
    server: str,
    completed: Mapping[str, Position],
    forgotten: Mapping[str, Position],
) -> None:
    """Take down which files are complete, and which are gone. Needs no fence: it is only ever true of what it names."""
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO audit.logfile AS known VALUES (%s, %s, %s, %s, %s, true) ON CONFLICT (server, file) DO UPDATE"
            " SET complete = true WHERE known.inode = excluded.inode AND known.position = excluded.position",
            [(server, name, at.inode, at.offset, at.fingerprint) for name, at in completed.items()],
        )
        await cursor.executemany(
            "DELETE FROM audit.logfile WHERE server = %s AND file = %s AND inode = %s",
            [(server, name, at.inode) for name, at in forgotten.items()],
        )


async def refused(connection: psycopg.AsyncConnection, sealed: Sealed) -> dict[int, str]:
    """Which records the store does not take, by their place in the batch, and the SQLSTATE. Stores nothing."""
    states: dict[int, str] = {}
    spans = [(0, len(sealed.rows.records))]
    while spans:
        start, stop = spans.pop()
        try:
            async with connection.transaction(force_rollback=True):
                await _partitions(connection, sealed)
                await _copy(connection, "record", rows.STORED, sealed.rows.records[start:stop])
        except REFUSALS as error:
            if stop - start == 1:
                states[start] = error.sqlstate or ""
            else:
                middle = (start + stop) // 2
                spans += [(start, middle), (middle, stop)]
    return states


async def store(
    connection: psycopg.AsyncConnection,
    batch: Batch | None,
    sealed: Sealed,
    missing: Mapping[str, Sequence[Hole]] | None = None,
    unheard: Sequence[str] = (),
) -> None:
    """Store a sealed batch, all or nothing. Raises Fenced when another came first. ``batch`` None: events only.

    ``missing``: lines that are missing of the sessions for which that changed; ``unheard``: sessions without any line
    for which it has a gap.
    """
    header = sealed.header
    async with connection.transaction():
        await _move_checkpoint(connection, header.server, header.batch)
        if batch is not None:
            await _move_position(connection, header.server, batch.file, batch.position)
        await _keep_missing(connection, header.server, missing or {})
        if unheard:
            await connection.execute(
                "INSERT INTO audit.unheard(server, session_id) SELECT %s, unnest(%s::text[])",
                [header.server, list(unheard)],
            )
        await _partitions(connection, sealed)
        await _copy(connection, "record", rows.STORED, sealed.rows.records)
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


async def _partitions(connection: psycopg.AsyncConnection, sealed: Sealed) -> None:
    for day, keep in sorted(sealed.partitions):
        await connection.execute("SELECT audit.ensure_partition(%s, %s)", [day, keep])


async def _copy(connection: psycopg.AsyncConnection, table: str, columns: str, lines: Sequence[bytes]) -> None:
    if not lines:
        return
    copying = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier("audit", table),
        sql.SQL(", ").join(sql.Identifier(name.strip()) for name in f"{columns}, {rows.SEAL}".split(",")),
    )
    async with connection.cursor() as cursor, cursor.copy(copying) as copy:
        for piece in _pieces(lines):
            await copy.write(piece)
            # libpq would hold all that the network has not taken yet, and keep the memory.
            while connection.pgconn.flush():  # noqa: ASYNC110 - libpq has nothing to wait for
                await asyncio.sleep(0.001)


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        if size + len(line) > _COPIED_BYTES and waiting:
            yield b"".join(waiting)
            waiting, size = [], 0
        if len(line) > _COPIED_BYTES:
            yield from (line[start : start + _COPIED_BYTES] for start in range(0, len(line), _COPIED_BYTES))
            continue
        waiting.append(line)
        size += len(line)
    if waiting:
        yield b"".join(waiting)


async def _keep_missing(
    connection: psycopg.AsyncConnection, server: str, missing: Mapping[str, Sequence[Hole]]
) -> None:
    if not missing:
        return
    await connection.execute(
        "DELETE FROM audit.missing WHERE server = %s AND session_id = ANY(%s)", [server, list(missing)]
    )
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO audit.missing VALUES (%s, %s, %s, %s, %s, %s)",
            [
                (server, hole.session, hole.first, hole.last, hole.file, hole.position)
                for holes in missing.values()
                for hole in holes
            ],
        )


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
