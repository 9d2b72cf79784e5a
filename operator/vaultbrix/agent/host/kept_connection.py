"""One connection to PostgreSQL that is opened before it is needed, and let go of only for another that works.

Whoever uses up PostgreSQL's connections, or its lock table, keeps everybody from logging in, the agent too. A
connection that stands by then goes on to work.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString

import psycopg

from vaultbrix.api.conditions import Reason
from vaultbrix.postgres.connect import Target, open_connection, translated
from vaultbrix.runtime.errors import Expected, Transient

# A server that hangs must not keep whoever asks it waiting for longer.
PATIENCE_SECONDS = 3.0
# How often it is seen to that the connection stands. This asks PostgreSQL nothing.
KEEP_SECONDS = 0.5
# The longest pause between tries to open it: each one that PostgreSQL refuses is a line in its log.
LONGEST_PAUSE = 5.0

Rows = list[tuple[Any, ...]]
Parameters = Sequence[object] | Mapping[str, object] | None


class KeptConnection:
    """Runs one statement after the other.

    A statement that takes too long is never cancelled: libpq cancels by another connection, which may not be had, and
    waits for it.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: psycopg.AsyncConnection | None = None
        self._turn = asyncio.Lock()
        self.opened = 0
        """How often it was opened; what was learned by an earlier one may be of another server's data."""
        # When (monotonic) the statement began that runs now.
        self._running_since: float | None = None

    async def run(self, query: LiteralString, parameters: Parameters = None) -> Rows:
        """Run a statement and return its rows. Raises Transient or Blocked."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise _no_answer() from None
        self._running_since = time.monotonic()
        statement = asyncio.create_task(self._execute(query, parameters))
        statement.add_done_callback(self._end_turn)
        done, _ = await asyncio.wait({statement}, timeout=max(0.0, begun + PATIENCE_SECONDS - time.monotonic()))
        if not done:
            raise _no_answer()
        return statement.result()

    async def keep(self, opened: Callable[[], None]) -> None:
        """Open the connection, and again when it breaks or hangs, until cancelled; ``opened`` is called each time."""
        pause = KEEP_SECONDS
        while True:
            try:
                if self._hangs:
                    await self._replace()
                    opened()
                elif not self._turn.locked() and self._has_news():
                    before = self._connection
                    await self.run("SELECT 1")
                    if self._connection is not before:
                        opened()
                pause = KEEP_SECONDS
            except Expected:
                pause = min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    @property
    def _hangs(self) -> bool:
        return self._running_since is not None and time.monotonic() - self._running_since > PATIENCE_SECONDS

    async def _execute(self, query: LiteralString, parameters: Parameters) -> Rows:
        with translated():
            if self._connection is None or self._connection.closed:
                self._connection = await open_connection(self._target)
                self.opened += 1
            cursor = await self._connection.execute(query, parameters)
            return await cursor.fetchall() if cursor.description else []

    def _end_turn(self, statement: asyncio.Task[Rows]) -> None:
        self._running_since = None
        self._turn.release()
        if not statement.cancelled():
            # Whoever asked may have gone.
            statement.exception()

    async def _replace(self) -> None:
        """Open another connection, and only then let go of the one whose statement does not end."""
        with translated():
            connection = await open_connection(self._target)
        hanging, self._connection = self._connection, connection
        self.opened += 1
        if hanging is not None and not hanging.closed:
            # Its statement, which waits for this socket, ends with an error then.
            with _socket_of(hanging) as its_socket, contextlib.suppress(OSError):
                its_socket.shutdown(socket.SHUT_RDWR)

    def _has_news(self) -> bool:
        """Whether there is no connection, or PostgreSQL has sent something unasked, as when it ends it."""
        connection = self._connection
        if connection is None or connection.closed:
            return True
        with _socket_of(connection) as its_socket:
            try:
                its_socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                pass
        return True


def _socket_of(connection: psycopg.AsyncConnection) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))


def _no_answer() -> Transient:
    return Transient(Reason.UNREACHABLE, "PostgreSQL does not answer")
