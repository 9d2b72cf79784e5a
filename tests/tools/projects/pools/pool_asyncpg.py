"""A pool of asyncpg, which resets its sessions by itself; the database by libpq's PG* variables."""

import asyncio
import json

import asyncpg


async def main() -> None:
    async def discard(connection: asyncpg.Connection) -> None:
        await connection.execute("DISCARD ALL")

    async with asyncpg.create_pool(min_size=1, max_size=1, reset=discard, statement_cache_size=0) as pool:
        async with pool.acquire() as connection:
            await connection.execute("CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n")
            await connection.execute("CREATE TEMP TABLE mine(n int)")
            await connection.execute("SET search_path = pg_catalog")
            await connection.execute("SET lock_timeout = '1s'")
        async with pool.acquire() as connection, connection.transaction():
            rows = 0
            async for _ in connection.cursor("SELECT n FROM numbers", prefetch=100):
                rows += 1
        async with pool.acquire() as connection:
            session = await connection.fetchrow(
                "SELECT current_schema() AS schema, current_setting('lock_timeout') AS lock_timeout,"
                " (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encrypted,"
                " to_regclass('pg_temp.mine') IS NOT NULL AS temporary"
            )
            try:
                await connection.execute("DROP TABLE numbers")
            except asyncpg.PostgresError as error:
                refused = error.sqlstate
    print(json.dumps({"rows": rows, **session, "refused": refused}))


asyncio.run(main())
