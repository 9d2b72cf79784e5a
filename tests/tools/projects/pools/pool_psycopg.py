"""A pool of psycopg that resets its sessions, as an application has it; the database by libpq's PG* variables."""

import json

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool


def reset(connection: psycopg.Connection) -> None:
    connection.execute("DISCARD ALL")


with ConnectionPool(min_size=1, max_size=1, kwargs={"autocommit": True}, reset=reset, timeout=10) as pool:
    with pool.connection() as connection:
        connection.execute("CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n")
        connection.execute("CREATE TEMP TABLE mine(n int)")
        connection.execute("SET search_path = pg_catalog")
        connection.execute("SET lock_timeout = '1s'")
    with pool.connection() as connection, connection.transaction(), connection.cursor("batches") as cursor:
        cursor.itersize = 100
        rows = sum(1 for _ in cursor.execute("SELECT n FROM numbers"))
    with pool.connection() as connection:
        found = connection.cursor(row_factory=dict_row).execute(
            "SELECT current_schema() AS schema, current_setting('lock_timeout') AS lock_timeout,"
            " (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encrypted,"
            " to_regclass('pg_temp.mine') IS NOT NULL AS temporary"
        )
        session = found.fetchone()
        try:
            connection.execute("DROP TABLE numbers")
        except psycopg.Error as error:
            refused = error.sqlstate
print(json.dumps({"rows": rows, **session, "refused": refused}))
