"""The audit store: migrations, and one transaction per batch that holds records and checkpoint alike."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from datetime import UTC
from importlib.resources import files

import psycopg
from psycopg import sql

from vaultbrix.audit.reader import Batch, Checkpoint
from vaultbrix.audit.records import Record

_COLUMNS = sql.SQL(", ").join(sql.Identifier(f.name.rstrip("_")) for f in fields(Record))
_LOCK = 0x7662_7802


class Fenced(Exception):
    """Another shipper stored a batch meanwhile; read the checkpoint again."""


@dataclass(frozen=True)
class Quarantined:
    """A line that could not be read, with its place and why."""

    file: str
    position: int
    line: bytes
    reason: str


async def migrate(connection: psycopg.AsyncConnection) -> int:
    """Apply the migrations that are missing, as the store's owner; returns the version in force."""
    scripts = sorted(files("vaultbrix.sql").joinpath("audit").iterdir(), key=lambda item: item.name)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS public.audit_migration(version int PRIMARY KEY,"
            " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        cursor = await connection.execute("SELECT coalesce(max(version), 0) FROM public.audit_migration")
        row = await cursor.fetchone()
        current = int(row[0]) if row else 0
        for script in scripts:
            version = int(script.name.split("_", 1)[0])
            if version > current:
                await connection.execute(script.read_text())
                await connection.execute(
                    "INSERT INTO public.audit_migration(version, name) VALUES (%s, %s)", [version, script.name]
                )
                current = version
    return current


async def ensure_login(connection: psycopg.AsyncConnection, *, name: str, group: str, verifier: str) -> None:
    """A login that is a member of one of the store's groups, and nothing else."""
    async with connection.transaction():
        cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name])
        login = sql.Identifier(name)
        if await cursor.fetchone() is None:
            await connection.execute(sql.SQL("CREATE ROLE {}").format(login))
        await connection.execute(
            sql.SQL("ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}").format(
                login, sql.Literal(verifier)
            )
        )
        await connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), login))


async def load_checkpoint(connection: psycopg.AsyncConnection, server: str) -> Checkpoint:
    """Where the next batch begins; the beginning for a server not seen before."""
    cursor = await connection.execute(
        "SELECT file, inode, position, fingerprint, batch FROM audit.checkpoint WHERE server = %s", [server]
    )
    row = await cursor.fetchone()
    return Checkpoint(*row) if row else Checkpoint()


async def store(
    connection: psycopg.AsyncConnection,
    server: str,
    batch: Batch,
    records: Iterable[Record],
    quarantined: Iterable[Quarantined],
) -> None:
    """Store a batch and its checkpoint, both or neither. Raises Fenced, storing nothing, when it is not the next."""
    rows = list(records)
    async with connection.transaction():
        await _move_checkpoint(connection, server, batch.checkpoint)
        for day in sorted({record.at.astimezone(UTC).date() for record in rows}):
            await connection.execute("SELECT audit.ensure_day(%s)", [day])
        if rows:
            copying = sql.SQL("COPY audit.record ({}) FROM STDIN").format(_COLUMNS)
            async with connection.cursor() as cursor, cursor.copy(copying) as copy:
                for record in rows:
                    await copy.write_row(astuple(record))
        for file, position, reason in batch.gaps:
            await connection.execute(
                "INSERT INTO audit.gap(server, file, position, reason) VALUES (%s, %s, %s, %s)",
                [server, file, position, reason],
            )
        for bad in quarantined:
            await connection.execute(
                "INSERT INTO audit.quarantine(server, file, position, line, reason) VALUES (%s, %s, %s, %s, %s)",
                [server, bad.file, bad.position, bad.line, bad.reason],
            )


async def _move_checkpoint(connection: psycopg.AsyncConnection, server: str, to: Checkpoint) -> None:
    # The first statement of the transaction: its row lock makes a second shipper wait, and then find itself fenced.
    cursor = await connection.execute(
        "INSERT INTO audit.checkpoint AS c (server, file, inode, position, fingerprint, batch)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (server) DO UPDATE SET file = excluded.file,"
        " inode = excluded.inode, position = excluded.position, fingerprint = excluded.fingerprint,"
        " batch = excluded.batch, stored_at = clock_timestamp() WHERE c.batch = excluded.batch - 1",
        [server, to.file, to.inode, to.position, to.fingerprint, to.batch],
    )
    if cursor.rowcount != 1:
        raise Fenced
