"""Retention in the audit store, as a member of audit_manage: policies, and partitions that are dropped when due."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import errors

from vaultbrix.audit.retention.decisions import (
    Changes,
    Clocks,
    Dropped,
    Outcome,
    Partition,
    Policy,
    Scope,
    disagreement,
    due,
    unexported,
)

# What a query holds is tried again, so often in all: a query holds all partitions or none. A try waits half a second
# at most, and holds up others for no longer.
_ATTEMPTS = 10
_PAUSE_SECONDS = 1.0
_MOST_EMPTY_DAYS = 50


@dataclass(frozen=True)
class Kept:
    """The partitions that are stored, and what time it is by each clock."""

    partitions: Sequence[Partition]
    clocks: Clocks

    @property
    def due(self) -> list[Partition]:
        """Partitions that may be dropped, oldest first."""
        return due(self.partitions, self.clocks)


async def policies(connection: psycopg.AsyncConnection) -> dict[Scope, Policy]:
    """The policies, by tenant and class. Raises psycopg.Error, as all functions here."""
    cursor = await connection.execute("SELECT tenant, class, days, archive, managed FROM audit.retention ORDER BY 1, 2")
    return {(tenant, class_): Policy(*policy) for tenant, class_, *policy in await cursor.fetchall()}


async def change(connection: psycopg.AsyncConnection, changes: Changes) -> None:
    """Write policies; the store notes each change with the old days and the new."""
    async with connection.transaction():
        for (tenant, class_), policy in sorted(changes.put.items()):
            await connection.execute(
                "INSERT INTO audit.retention AS r (tenant, class, days, archive, managed)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (tenant, class) DO UPDATE"
                " SET days = excluded.days, archive = excluded.archive, managed = excluded.managed",
                [tenant, class_, policy.days, policy.archive, policy.managed],
            )
        for tenant, class_ in sorted(changes.remove):
            await connection.execute("DELETE FROM audit.retention WHERE tenant = %s AND class = %s", [tenant, class_])


async def kept(connection: psycopg.AsyncConnection, here: datetime) -> Kept:
    """Partitions and clocks; ``here`` is this process's clock."""
    cursor = await connection.execute("SELECT name, day, keep, divided, bytes, archive_allows FROM audit.kept()")
    partitions = [Partition(*row) for row in await cursor.fetchall()]
    cursor = await connection.execute("SELECT store, newest FROM audit.clocks()")
    row = await cursor.fetchone()
    assert row is not None
    return Kept(partitions, Clocks(here, *row))


async def apply(connection: psycopg.AsyncConnection, here: datetime, *, really: bool = True) -> Outcome:
    """Drop what is due, each partition in a transaction of its own. Without ``really``, only say what is due."""
    state = await kept(connection, here)
    quarantine = await _quarantine(connection, really)
    rest = unexported(state.partitions, state.clocks), disagreement(state.partitions, state.clocks), quarantine
    if not really:
        return Outcome([Dropped(partition, 0) for partition in state.due], (), *rest)
    gone: list[Dropped] = []
    held: list[Partition] = []
    attempts = _ATTEMPTS
    for partition in state.due:
        rows = None
        while attempts and (rows := await _drop(connection, partition)) is None:
            attempts -= 1
            await asyncio.sleep(_PAUSE_SECONDS)
        if rows is None:
            held.append(partition)
        else:
            gone.append(Dropped(partition, rows))
    await _drop_empty_days(connection)
    return Outcome(gone, held, *rest)


async def _drop(connection: psycopg.AsyncConnection, partition: Partition) -> int | None:
    """How many rows it had; None while others hold it."""
    try:
        cursor = await connection.execute("SELECT audit.drop_partition(%s)", [partition.name])
    except (errors.LockNotAvailable, errors.DeadlockDetected):
        return None
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def _drop_empty_days(connection: psycopg.AsyncConnection) -> None:
    # Once is enough: what a query holds now is dropped another day.
    try:
        await connection.execute("SELECT audit.drop_empty_days(%s)", [_MOST_EMPTY_DAYS])
    except (errors.LockNotAvailable, errors.DeadlockDetected):
        pass


async def _quarantine(connection: psycopg.AsyncConnection, really: bool) -> int:
    cursor = await connection.execute("SELECT audit.expire_quarantine(%s)", [really])
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
