"""Passes: what lets an approved text through the gate, and what became of it."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from vaultbrix.ddl.plan import Plan

_COPY_RUNS = "COPY vaultbrix.ddl_pass_text(pass_id, from_stmt, to_stmt, sha256) FROM STDIN"


# The audit record is what lasts.
_KEPT_FOR = timedelta(days=30)


@dataclass(frozen=True)
class PassUse:
    """How far a pass was used, by transactions that committed. ``next_stmt`` and ``gated`` are 1-based positions.

    ``used_at`` is when the latest use happened; ``complete`` says that every gated statement was used.
    """

    next_stmt: int
    gated: tuple[int, ...]
    used_at: datetime | None

    @property
    def complete(self) -> bool:
        """Whether no gated statement is left."""
        return all(position < self.next_stmt for position in self.gated)


async def issue_pass(
    connection: psycopg.AsyncConnection,
    *,
    pass_id: str,
    role: str,
    login: str | None,
    approved_by: str,
    expires_at: datetime,
    plan: Plan,
    expect_drops: Sequence[str] | None = None,
    allow_nested: bool = False,
    rehearsal: bool = False,
) -> None:
    """Store the pass of an approval; one that is stored already stays as it is.

    ``login`` None: any member of ``role`` may use it. ``expect_drops``: what it may drop or empty at most, as
    ``dropped`` names it; None: whatever the text does. ``rehearsal``: whoever uses it cannot commit (VBX04).
    """
    async with connection.transaction():
        cursor = await connection.execute(
            "INSERT INTO vaultbrix.ddl_pass(pass_id, role_name, login, approved_by, expires_at, gated, lexer_safe,"
            " expect_drops, allow_nested) VALUES (%s, %s, %s, %s, %s, %s, true, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [
                pass_id,
                role,
                login,
                approved_by,
                expires_at,
                plan.gated,
                None if expect_drops is None else list(expect_drops),
                allow_nested,
            ],
        )
        if cursor.rowcount:
            if rehearsal:
                await connection.execute("INSERT INTO vaultbrix.rehearsal(pass_id) VALUES (%s)", [pass_id])
            # Tens of thousands, at the worst.
            runs = await asyncio.to_thread(lambda: plan.runs)
            async with connection.cursor() as cursor, cursor.copy(_COPY_RUNS) as copy:
                for run in runs:
                    await copy.write_row((pass_id, run.first, run.last, run.sha256))


async def revoke_pass(connection: psycopg.AsyncConnection, pass_id: str) -> None:
    """End the pass; it stays as a record, without the hashes of its texts, of which there are many."""
    await connection.execute(
        "UPDATE vaultbrix.ddl_pass SET revoked_at = clock_timestamp() WHERE pass_id = %s AND revoked_at IS NULL",
        [pass_id],
    )
    await connection.execute("DELETE FROM vaultbrix.ddl_pass_text WHERE pass_id = %s", [pass_id])


async def open_passes(connection: psycopg.AsyncConnection) -> list[str]:
    """Those of approvals that still let something through."""
    cursor = await connection.execute(
        "SELECT pass_id::text FROM vaultbrix.ddl_pass p WHERE revoked_at IS NULL AND expires_at > clock_timestamp()"
        " AND NOT EXISTS (SELECT FROM vaultbrix.rehearsal r WHERE r.pass_id = p.pass_id)"
    )
    return [str(pass_id) for (pass_id,) in await cursor.fetchall()]


async def purge(connection: psycopg.AsyncConnection, kept: Collection[str]) -> None:
    """Forget passes that ended long ago, with their ledger, but for those of approvals that are still there."""
    cursor = await connection.execute(
        "DELETE FROM vaultbrix.ddl_pass WHERE coalesce(revoked_at, expires_at) < clock_timestamp() - %s"
        " AND pass_id::text <> ALL (%s) RETURNING pass_id",
        [_KEPT_FOR, list(kept)],
    )
    gone = [row[0] for row in await cursor.fetchall()]
    for table in ("ddl_pass_use", "ddl_pass_drop"):
        await connection.execute(
            sql.SQL("DELETE FROM vaultbrix.{} WHERE pass_id = ANY (%s)").format(sql.Identifier(table)), [gone]
        )


async def committed(connection: psycopg.AsyncConnection, pass_id: str) -> bool:
    """Whether the text of that pass ran: its ledger row is written in the DDL's own transaction."""
    cursor = await connection.execute("SELECT 1 FROM vaultbrix.ddl_run WHERE pass_id = %s", [pass_id])
    return await cursor.fetchone() is not None


async def dropped(connection: psycopg.AsyncConnection, pass_id: str) -> list[str]:
    """What uses of the pass dropped or emptied, in order, such as ``table a.t`` or ``truncate a.t``.

    Called by the pass's own login, also within the transaction that uses it. Raises psycopg.Error VBX03 for another's.
    """
    cursor = await connection.execute("SELECT vaultbrix.dropped(%s)", [pass_id])
    return [str(name) for (name,) in await cursor.fetchall()]


async def use_of(connection: psycopg.AsyncConnection, pass_id: str) -> PassUse | None:
    """How far the pass was used, for an admin; None when there is no such pass."""
    cursor = await connection.execute(
        "SELECT next_stmt, gated, (SELECT max(used_at) FROM vaultbrix.ddl_pass_use u WHERE u.pass_id = p.pass_id)"
        " FROM vaultbrix.ddl_pass p WHERE pass_id = %s",
        [pass_id],
    )
    row = await cursor.fetchone()
    return PassUse(row[0], tuple(row[1]), row[2]) if row else None


async def steps(connection: psycopg.AsyncConnection, pass_id: str) -> dict[int, bool]:
    """Statements outside a transaction that were begun: position → whether it took effect, for an admin."""
    cursor = await connection.execute(
        "SELECT position, finished_at IS NOT NULL FROM vaultbrix.ddl_step WHERE pass_id = %s ORDER BY position",
        [pass_id],
    )
    return dict(await cursor.fetchall())
