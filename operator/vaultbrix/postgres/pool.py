"""Keeps a few connections to each server for a while, since to open one costs more than most statements.

psycopg's own pool connects in the background and tells whoever waits only that there is no connection; here the
failure itself, such as a wrong password, has to reach the condition of the object that it holds up.
"""

import asyncio
import contextlib
import select
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg.pq import TransactionStatus

from vaultbrix.postgres.connect import Target, open_connection, translated

MOST_PER_TARGET = 4
IDLE_SECONDS = 60.0


@dataclass
class _Kept:
    """Connections to one target: how many more may be in use, and those that wait, with the time since when."""

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_PER_TARGET))
    waiting: list[tuple[psycopg.AsyncConnection, float]] = field(default_factory=list)
    users: int = 0


class Pool:
    """Autocommit connections by target, at most ``MOST_PER_TARGET`` of each at a time.

    Nobody may change the state of a session beyond a transaction: the next user finds it as it was left.
    """

    def __init__(self) -> None:
        self._targets: dict[Target, _Kept] = {}

    @asynccontextmanager
    async def connection(self, target: Target) -> AsyncIterator[psycopg.AsyncConnection]:
        """A connection for the time of the context. Raises Transient or Blocked, also for what runs inside."""
        kept = self._targets.setdefault(target, _Kept())
        kept.users += 1
        try:
            async with kept.slots:
                with translated():
                    connection = await self._take(kept) or await open_connection(target)
                    try:
                        yield connection
                    except BaseException:
                        # Its state is not known: the error may have come in the middle of anything.
                        await connection.close()
                        raise
                await self._give_back(kept, connection)
        finally:
            kept.users -= 1
            self._drop_unused(target, kept)

    async def close_idle(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """Close connections that have not been used for that time."""
        for target, kept in list(self._targets.items()):
            before = time.monotonic() - idle_seconds
            old = [connection for connection, since in kept.waiting if since <= before]
            kept.waiting = [(connection, since) for connection, since in kept.waiting if since > before]
            for connection in old:
                await connection.close()
            self._drop_unused(target, kept)

    async def close(self) -> None:
        """Close all connections that are not in use."""
        await self.close_idle(-1.0)

    async def _take(self, kept: _Kept) -> psycopg.AsyncConnection | None:
        while kept.waiting:
            # The one used last: the others grow old and are closed.
            connection, _ = kept.waiting.pop()
            if not _has_news(connection):
                return connection
            await connection.close()
        return None

    async def _give_back(self, kept: _Kept, connection: psycopg.AsyncConnection) -> None:
        if connection.closed or connection.info.transaction_status is not TransactionStatus.IDLE:
            await connection.close()
        else:
            kept.waiting.append((connection, time.monotonic()))

    def _drop_unused(self, target: Target, kept: _Kept) -> None:
        if not kept.users and not kept.waiting:
            with contextlib.suppress(KeyError):
                del self._targets[target]


def _has_news(connection: psycopg.AsyncConnection) -> bool:
    """Whether the server has sent something on an idle connection: most likely that it ends it."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
