"""Connections that are kept: few, good when they are given out, and with errors that say what is wrong."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from tests.harness.database import Database

from vaultbrix.api.conditions import Reason
from vaultbrix.postgres.connect import Target
from vaultbrix.postgres.pool import MOST_PER_TARGET, Pool
from vaultbrix.runtime.errors import Blocked, Transient


def target(database: Database) -> Target:
    return Target(
        host=str(database.postgres.socket),
        port=database.postgres.port,
        database="postgres",
        user="postgres",
        ssl_mode="disable",
    )


def with_pool(work: Callable[[Pool], Awaitable[None]]) -> None:
    """Run it with a pool that is closed afterwards."""

    async def run() -> None:
        pool = Pool()
        try:
            await work(pool)
        finally:
            await pool.close()

    asyncio.run(run())


async def backend(connection: psycopg.AsyncConnection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None
    return int(row[0])


async def backend_of(pool: Pool, where: Target) -> int:
    async with pool.connection(where) as connection:
        return await backend(connection)


def test_a_connection_is_used_again(database: Database) -> None:
    async def work(pool: Pool) -> None:
        assert await backend_of(pool, target(database)) == await backend_of(pool, target(database))

    with_pool(work)


def test_there_are_never_more_than_the_limit(database: Database) -> None:
    async def work(pool: Pool) -> None:
        busy = 0
        most = 0

        async def use() -> None:
            nonlocal busy, most
            async with pool.connection(target(database)) as connection:
                busy += 1
                most = max(most, busy)
                await connection.execute("SELECT pg_sleep(0.02)")
                busy -= 1

        await asyncio.gather(*(use() for _ in range(4 * MOST_PER_TARGET)))
        assert most == MOST_PER_TARGET

    with_pool(work)


def test_one_that_the_server_has_ended_is_not_given_out(database: Database) -> None:
    async def work(pool: Pool) -> None:
        first = await backend_of(pool, target(database))
        database.postgres.query("SELECT pg_terminate_backend(%s, 2000)", [first])
        assert await backend_of(pool, target(database)) != first

    with_pool(work)


def test_one_that_failed_in_the_middle_of_something_is_not_given_out(database: Database) -> None:
    async def work(pool: Pool) -> None:
        first = 0
        with pytest.raises(Transient) as failure:
            async with pool.connection(target(database)) as connection:
                first = await backend(connection)
                await connection.execute("SELECT 1 / 0")
        assert failure.value.reason is Reason.DATABASE_ERROR
        assert await backend_of(pool, target(database)) != first

    with_pool(work)


def test_one_whose_user_was_cancelled_is_not_given_out(database: Database) -> None:
    async def work(pool: Pool) -> None:
        seen: list[int] = []
        started = asyncio.Event()

        async def use() -> None:
            async with pool.connection(target(database)) as connection:
                seen.append(await backend(connection))
                started.set()
                await connection.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(use())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await backend_of(pool, target(database)) != seen[0]

    with_pool(work)


def test_an_open_transaction_is_never_handed_on(database: Database) -> None:
    async def work(pool: Pool) -> None:
        async with pool.connection(target(database)) as connection:
            first = await backend(connection)
            await connection.execute("BEGIN")
        assert await backend_of(pool, target(database)) != first

    with_pool(work)


def test_what_nobody_has_used_for_a_while_is_closed(database: Database) -> None:
    async def work(pool: Pool) -> None:
        pid = await backend_of(pool, target(database))
        await pool.close_idle(60.0)
        assert await backend_of(pool, target(database)) == pid
        await pool.close_idle(0.0)
        assert await backend_of(pool, target(database)) != pid

    with_pool(work)


def test_a_login_that_is_refused_says_so(database: Database) -> None:
    wrong = Target(
        host="127.0.0.1",
        port=database.postgres.port,
        database="postgres",
        user=database.tenant("pooled"),
        password="wrong",
        ssl_mode="require",
    )

    async def work(pool: Pool) -> None:
        with pytest.raises(Blocked) as failure:
            await backend_of(pool, wrong)
        assert failure.value.reason is Reason.AUTHENTICATION_FAILED

    with_pool(work)
