"""Ends the sessions of a tenant's logins that a leaked password may have opened."""

from datetime import UTC, datetime, timedelta

import psycopg

# What a backend takes from the end of its authentication until others see it.
_SLACK = timedelta(seconds=5)

# By PostgreSQL's clock alone. Were it set back to before that time, sessions would have nothing to do with a leak.
_END = (
    "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
    " WHERE usename = ANY(%s) AND backend_start <= %s AND clock_timestamp() >= %s AND pid <> pg_backend_pid()"
)


async def time_of(connection: psycopg.AsyncConnection) -> tuple[datetime, datetime]:
    """PostgreSQL's time, and until when by our clock somebody may turn up who began to log in before it."""
    cursor = await connection.execute("SELECT clock_timestamp(), current_setting('authentication_timeout')::interval")
    row = await cursor.fetchone()
    assert row is not None
    now, patience = row
    return now, datetime.now(UTC) + patience + _SLACK


async def end_sessions(connection: psycopg.AsyncConnection, logins: list[str], before: datetime) -> int:
    """End the sessions of these logins that began before a time; returns how many there were."""
    cursor = await connection.execute(_END, [logins, before, before])
    return len(await cursor.fetchall())
