"""What tenants' sessions take, read from PostgreSQL's shared memory, also while its lock table is full.

With a full table nobody gets a lock that he does not hold already, and PostgreSQL locks a catalogue for each look into
it. Catalogues of this database go by the session's own fast path (PostgreSQL, src/backend/storage/lmgr/README); those
that all databases share do not. So one transaction is left open that holds their locks, weak ones that stand in
nobody's way, and everything is asked within it. It has no snapshot between two statements, so it holds neither VACUUM
nor CREATE INDEX CONCURRENTLY back. Another one takes its place now and then, and holds the locks before this one lets
go of them: whoever fills the table in between would blind the watchdog for good.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.types.numeric import Int8

from vaultbrix.agent.watchdog.decisions import Backend, Locks, Room, Sight
from vaultbrix.api.conditions import Reason
from vaultbrix.postgres.connect import Target, open_connection, translated
from vaultbrix.runtime.addresses import parse_address
from vaultbrix.runtime.errors import Expected, Transient

# Nothing else waits for this connection, and a machine that is busy with an attack takes its time.
PATIENCE_SECONDS = 30.0
# A transaction that is never ended looks like one that somebody forgot.
HOLD_SECONDS = 60.0
# The old transaction is as good while another one takes longer.
RENEWAL_SECONDS = 5.0
# Within a transaction PostgreSQL goes by the memberships and privileges that were there when it began.
HOLD_WITHOUT_RIGHTS_SECONDS = 1.0
# So many locks of a session have room of their own, and take none in the shared table.
FAST_PATH = 16

# Somebody wants to rewrite a catalogue that all databases share (VACUUM FULL), and would wait for ever.
_WAITED_FOR = """
SELECT pid FROM pg_lock_status()
 WHERE NOT granted AND relation IN (
   'pg_authid'::regclass, 'pg_db_role_setting'::regclass, 'pg_auth_members'::regclass, 'pg_tablespace'::regclass)
"""
# Whoever holds these needs no other lock to learn whose a session is, what its role may do, and where files are.
_HOLD = """
SELECT (SELECT count(*) FROM pg_roles), (SELECT count(*) FROM pg_auth_members), (SELECT count(*) FROM pg_tablespace)
"""
# The row without a process is of all of them; locks of prepared transactions have none either. PostgreSQL copies the
# table in a moment, in which nobody takes locks, and then makes rows of the copy one by one, which takes far longer:
# that ends at the limit. What was read of sessions is kept until the end of a transaction, unless it is let go of.
_LOCKS = f"""
SELECT CASE WHEN GROUPING(pid) = 0 THEN coalesce(pid, 0) END, count(*), (SELECT pg_stat_clear_snapshot()::text)
  FROM (SELECT (held).pid FROM (SELECT pg_lock_status() AS held LIMIT %s) seen) process
 GROUP BY GROUPING SETS ((pid), ()) HAVING GROUPING(pid) = 1 OR count(*) > {FAST_PATH}
"""  # noqa: S608 - a number of our own
# What a prepared statement has answered stays open until another takes its place, and its snapshot with it: whoever
# waits for old snapshots (CONCURRENTLY, FINALIZE) would wait for the end of the transaction. This has no snapshot, and,
# sent without parameters, leaves nothing open.
_LET_GO = "SHOW transaction_isolation"
# pg_stat_activity would join catalogues to these rows.
_BACKENDS = """
SELECT clock_timestamp(), pg_notification_queue_usage(),
       pid, leader_pid, pg_get_userbyid(usesysid), host(client_addr), backend_start, xact_start
  FROM pg_stat_get_activity(NULL) WHERE backend_type IN ('client backend', 'parallel worker') AND usesysid IS NOT NULL
"""
# Names of files are pgsql_tmp<pid>.<n> (PostgreSQL, Database File Layout).
_TEMP_FILES = """
SELECT substring(name FROM '^pgsql_tmp([0-9]+)')::int, sum(size)::bigint FROM pg_ls_tmpdir() GROUP BY 1
"""
_TERMINATE = "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid"
_ROOM = """
SELECT current_setting('max_locks_per_transaction')::bigint, current_setting('max_connections')::int,
       current_setting('max_prepared_transactions')::int, current_setting('superuser_reserved_connections')::int,
       pg_has_role('pg_read_all_stats', 'USAGE'), has_function_privilege('pg_ls_tmpdir()', 'EXECUTE'),
       has_parameter_privilege('log_duration', 'SET')
"""

T = TypeVar("T")


class TenantSessions:
    """Asks over a connection of its own, opened when it is needed and again after it broke.

    Every method raises Transient or Blocked.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: psycopg.AsyncConnection | None = None
        self._held_since = 0.0
        self.room: Room | None = None
        """As it was last asked; None before."""

    async def locks(self, most: int) -> Locks:
        """Return how many locks processes hold, of so many at most."""
        # Always of one type, or it would be another statement for PostgreSQL, to be planned anew.
        counted = {pid: int(count) for pid, count, _ in await self._ask(_LOCKS, [Int8(most)])}
        total = counted.pop(None)
        return Locks(total, counted, complete=total < most)

    async def look(self, locks: Locks, *, files: bool = True) -> Sight:
        """Return all sessions, which hold these locks; ``files``: and what they have in temporary files."""
        rows = await self._ask(_BACKENDS)
        lists_files = files and self.room is not None and self.room.lists_temp_files
        sizes = await self._ask(_TEMP_FILES) if lists_files else []
        return sight(rows, locks, {int(pid): int(size) for pid, size in sizes if pid is not None})

    async def terminate(self, pids: Sequence[int]) -> None:
        """Tell the backends with these process ids to end; does not wait for that."""
        await self._ask(_TERMINATE, [list(pids)])

    async def renew(self) -> None:
        """Put another transaction in place of one that is open for HOLD_SECONDS; the old one goes on where that fails.

        Much sooner while rights are missing, so that they are used once they are granted. It lets go of the locks for a
        moment only for somebody who waits for them.
        """
        has_rights = self.room is not None and self.room.sees_sessions and self.room.lists_temp_files
        longest = HOLD_SECONDS if has_rights else HOLD_WITHOUT_RIGHTS_SECONDS
        held, now = self._connection, time.monotonic()
        if held is None or now - self._held_since <= longest:
            return
        self._held_since = now
        if await self._ask(_WAITED_FOR):
            await self._guarded(lambda: self._hold(held))
            return
        with contextlib.suppress(Expected, TimeoutError), translated():
            async with asyncio.timeout(RENEWAL_SECONDS):
                self._connection = await self._open()
            await held.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _ask(self, query: LiteralString, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        async def ask() -> list[tuple[Any, ...]]:
            if self._connection is None or self._connection.closed:
                self._connection = await self._open()
            # Planned once, so that it reads no catalogue again.
            cursor = await self._connection.execute(query, parameters, prepare=True)
            rows = await cursor.fetchall()
            await self._connection.execute(_LET_GO, prepare=False)
            return rows

        return await self._guarded(ask)

    async def _guarded(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Whatever fails ends the transaction, and with it the connection."""
        with translated():
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    return await ask()
            except TimeoutError:
                await self.close()
                raise Transient(Reason.UNREACHABLE, "PostgreSQL does not answer") from None
            except psycopg.Error:
                await self.close()
                raise

    async def _open(self) -> psycopg.AsyncConnection:
        """A connection that holds the locks."""
        connection = await open_connection(self._target)
        try:
            await self._hold(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _hold(self, connection: psycopg.AsyncConnection) -> None:
        await connection.execute("ROLLBACK")
        await connection.execute("SET idle_in_transaction_session_timeout = 0")
        cursor = await connection.execute(_ROOM)
        row = await cursor.fetchone()
        assert row is not None
        per_slot, connections, prepared, reserved, sees_sessions, lists_temp_files, may_be_quiet = row
        if may_be_quiet:
            # Nobody asked for what is asked here, and it would be most of the audit record.
            await connection.execute("SET log_duration = off")
        slots = connections + prepared
        self.room = Room(per_slot * slots, connections - reserved, sees_sessions, lists_temp_files, slots, prepared)
        await connection.execute("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY")
        await connection.execute(_HOLD)
        self._held_since = time.monotonic()


def sight(rows: Sequence[tuple[Any, ...]], locks: Locks, files: Mapping[int, int]) -> Sight:
    """Make a sight of rows of _BACKENDS, at least one, and of bytes of temporary files by process."""
    at, queue, *_ = rows[0]
    clients, workers = [], defaultdict(list)
    for _, _, pid, leader, *client in rows:
        if leader is None:
            clients.append((pid, *client))
        else:
            workers[leader].append(pid)
    return Sight(
        at,
        tuple(
            Backend(
                pid,
                login,
                parse_address(address) if address else None,
                started_at,
                transaction_at,
                sum(locks.by_process.get(process, 0) for process in (pid, *workers[pid])),
                sum(files.get(process, 0) for process in (pid, *workers[pid])),
            )
            for pid, login, address, started_at, transaction_at in clients
        ),
        float(queue),
        None if locks.complete else locks.total,
    )
