"""The watchdog sees sessions whatever they have taken, and stands in nobody's way while they take nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from tests.harness.postgres import Postgres, local
from tests.harness.shell import wait_for

from vaultbrix.agent.watchdog import sight
from vaultbrix.agent.watchdog.sight import TenantSessions

# Each lock that somebody lets go of is gone before anybody else gets it.
TAKES_WHATEVER_IS_FREE = """
DO $$
DECLARE i int := 0;
BEGIN
  LOOP
    BEGIN
      PERFORM pg_advisory_lock(i);
      i := i + 1;
    EXCEPTION WHEN out_of_memory THEN NULL;
    END;
  END LOOP;
END $$
"""
# More locks than there is room for.
ALL = 1_000_000


def logs_in(postgres: Postgres) -> bool:
    try:
        postgres.connect().close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(autouse=True)
def due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another transaction is due with every look."""
    monkeypatch.setattr(sight, "HOLD_SECONDS", 0.0)


@asynccontextmanager
async def looking(postgres: Postgres) -> AsyncIterator[TenantSessions]:
    sessions = TenantSessions(local(postgres))
    await sessions.look(await sessions.locks(ALL))
    try:
        yield sessions
    finally:
        await sessions.close()


async def holder(postgres: Postgres) -> list[tuple[int]]:
    """The process that holds the catalogues' locks."""
    held = "SELECT DISTINCT pid FROM pg_locks WHERE relation = 'pg_authid'::regclass AND pid <> pg_backend_pid()"
    return await asyncio.to_thread(postgres.query, held)


def test_a_renewal_that_meets_a_full_lock_table_does_not_blind_it(postgres: Postgres) -> None:
    async def story() -> None:
        async with looking(postgres) as sessions:
            with postgres.connect() as greedy:
                taking = asyncio.create_task(asyncio.to_thread(greedy.execute, TAKES_WHATEVER_IS_FREE))
                try:
                    await asyncio.to_thread(wait_for, "nobody logs in", lambda: not logs_in(postgres))  # type: ignore[arg-type]
                    for _ in range(20):
                        await sessions.renew()
                        locks = await sessions.locks(ALL)
                        assert locks.by_process[greedy.info.backend_pid] > 100
                    await sessions.look(locks)
                    await sessions.terminate([greedy.info.backend_pid])
                    with pytest.raises(psycopg.errors.AdminShutdown):
                        await taking
                finally:
                    greedy.cancel()

    asyncio.run(story())


def test_another_transaction_takes_over_and_the_old_one_ends(postgres: Postgres) -> None:
    async def story() -> None:
        async with looking(postgres) as sessions:
            before = await holder(postgres)
            await sessions.renew()
            after = await holder(postgres)
            assert len(before) == len(after) == 1
            assert before != after

    asyncio.run(story())


def test_it_gives_way_to_whoever_waits_for_a_catalogue(postgres: Postgres) -> None:
    async def story() -> None:
        async with looking(postgres) as sessions:
            with postgres.connect() as admin:
                rewriting = asyncio.create_task(asyncio.to_thread(admin.execute, "VACUUM FULL pg_auth_members"))
                waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'pg_auth_members'::regclass"
                await asyncio.to_thread(wait_for, "it waits", lambda: bool(postgres.query(waiting)))  # type: ignore[arg-type]
                await sessions.renew()
                await rewriting
            await sessions.look(await sessions.locks(ALL))

    asyncio.run(story())


def test_a_look_that_is_cut_short_says_so_and_counts_too_little(postgres: Postgres) -> None:
    async def story() -> None:
        async with looking(postgres) as sessions:
            with postgres.connect() as holder:
                holder.execute("SELECT count(pg_advisory_lock(i)) FROM generate_series(1, 1000) i")
                pid = holder.info.backend_pid
                locks = await sessions.locks(ALL)
                assert locks.complete
                assert locks.by_process[pid] >= 1000
                assert locks.total >= sum(locks.by_process.values())
                part = await sessions.locks(500)
                assert not part.complete
                assert part.total == 500
                assert 0 < part.by_process[pid] <= 500
                sight = await sessions.look(part)
                assert sight.locks_seen == 500

    asyncio.run(story())


def test_it_holds_up_nobody_who_waits_for_old_snapshots(postgres: Postgres) -> None:
    async def story() -> None:
        postgres.query("CREATE TABLE indexed(v int)")
        async with looking(postgres) as sessions:
            await sessions.renew()
            await sessions.look(await sessions.locks(ALL))
            (pid,) = (await holder(postgres))[0]
            snapshot = "SELECT state, backend_xmin::text FROM pg_stat_activity WHERE pid = %s"
            assert postgres.query(snapshot, [pid]) == [("idle in transaction", None)]
            with postgres.connect() as admin:
                admin.execute("SET statement_timeout = '10s'")
                await asyncio.to_thread(admin.execute, "CREATE INDEX CONCURRENTLY ON indexed(v)")

    asyncio.run(story())
