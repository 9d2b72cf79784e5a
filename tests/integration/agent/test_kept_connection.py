"""The agent's connection to PostgreSQL stands when no other can be had, and is let go of only for another."""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from tests.harness.postgres import USER, Postgres, local
from tests.harness.shell import run, wait_for

from vaultbrix.agent.host.kept_connection import KeptConnection
from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.runtime.errors import Expected, Transient


@asynccontextmanager
async def kept(postgres: Postgres) -> AsyncIterator[tuple[KeptConnection, list[float]]]:
    """A connection that is looked after, and when it was opened each time."""
    connection = KeptConnection(local(postgres))
    opened: list[float] = []
    keeper = asyncio.create_task(connection.keep(lambda: opened.append(time.monotonic())))
    await until(lambda: bool(opened))
    yield connection, opened
    keeper.cancel()
    await connection.close()


async def until(true: object) -> None:
    await asyncio.to_thread(wait_for, "it is so", true)  # type: ignore[arg-type]


async def backend(connection: KeptConnection) -> int:
    ((pid,),) = await connection.run("SELECT pg_backend_pid()")
    return int(pid)


@contextlib.contextmanager
def locks_taken(postgres: Postgres) -> Iterator[None]:
    with postgres.connect() as holder:
        with contextlib.suppress(psycopg.errors.OutOfMemory):
            holder.execute("SELECT count(pg_advisory_lock(i)) FROM generate_series(1, 200000) i")
        with pytest.raises(psycopg.OperationalError, match="out of shared memory"):
            postgres.connect()
        yield
    # Its backend ends, and gives them back, a moment after its client.
    wait_for("there are locks again", lambda: lets_in(postgres))


def lets_in(postgres: Postgres) -> bool:
    with contextlib.suppress(psycopg.OperationalError), postgres.connect():
        return True
    return False


def test_a_statement_that_fails_for_want_of_a_lock_costs_no_connection(postgres: Postgres) -> None:
    async def story() -> None:
        async with kept(postgres) as (connection, opened):
            before = await backend(connection)
            with locks_taken(postgres):
                with pytest.raises(Transient, match="out of shared memory"):
                    await connection.run("SELECT pg_advisory_lock(n) FROM generate_series(900000, 999999) n")
                assert await backend(connection) == before
            assert len(opened) == 1

    asyncio.run(story())


def test_one_that_hangs_is_replaced_and_what_hung_is_not_waited_for(postgres: Postgres) -> None:
    async def story() -> None:
        async with kept(postgres) as (connection, opened):
            hanging = await backend(connection)
            os.kill(hanging, signal.SIGSTOP)
            try:
                with pytest.raises(Transient, match="does not answer"):
                    await connection.run("SELECT 1")
                await until(lambda: len(opened) == 2)
                assert await backend(connection) != hanging
            finally:
                os.kill(hanging, signal.SIGCONT)

    asyncio.run(story())


def test_one_that_breaks_is_opened_again_without_being_asked(postgres: Postgres) -> None:
    async def story() -> None:
        async with kept(postgres) as (connection, opened):
            pid = await backend(connection)
            await asyncio.to_thread(postgres.query, "SELECT pg_terminate_backend(%s)", [pid])
            await until(lambda: len(opened) == 2)
            assert await backend(connection) != pid

    asyncio.run(story())


def test_who_gives_up_waiting_leaves_the_connection_whole(postgres: Postgres) -> None:
    async def story() -> None:
        async with kept(postgres) as (connection, _):
            pid = await backend(connection)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connection.run("SELECT pg_sleep(0.5)")
            assert await backend(connection) == pid

    asyncio.run(story())


def test_sessions_are_listed_and_ended_while_no_lock_is_left(postgres: Postgres) -> None:
    async def story() -> None:
        control = SessionControl(local(postgres))
        with postgres.connect(user="tenant_a") as session:
            pid = session.info.backend_pid
            assert [s.role for s in await control.sessions() if s.pid == pid] == ["tenant_a"]
            await control.refresh_roles()
            with locks_taken(postgres):
                with pytest.raises(Expected):
                    await control.refresh_roles()
                sessions = {s.pid: s for s in await control.sessions()}
                assert (sessions[pid].role, sessions[pid].of_tenant) == ("tenant_a", True)
                await control.terminate([pid])
                with pytest.raises(psycopg.OperationalError):
                    session.execute("SELECT pg_sleep(10)")
        await control.close()

    asyncio.run(story())


def test_a_role_that_was_dropped_under_its_session_is_a_tenants_that_nothing_covers(postgres: Postgres) -> None:
    async def story() -> None:
        control = SessionControl(local(postgres))
        postgres.query("CREATE ROLE leaver LOGIN")
        with postgres.connect(user="leaver") as session:
            postgres.query("DROP ROLE leaver")
            (left,) = [s for s in await control.sessions() if s.pid == session.info.backend_pid]
            assert left.of_tenant
            assert "dropped" in left.role
        assert {s.of_tenant for s in await control.sessions() if s.role == USER} == {False}
        await control.close()

    asyncio.run(story())


def test_data_that_were_put_back_give_roles_no_names_of_before(postgres: Postgres) -> None:
    backup = postgres.data.with_name("backup")

    def role(control: SessionControl, name: str) -> list[str]:
        postgres.query(SQL("CREATE ROLE {} IN ROLE vaultbrix_tenants LOGIN").format(Identifier(name)))
        with postgres.connect(user=name) as session:
            return [s.role for s in loop.run(control.sessions()) if s.pid == session.info.backend_pid]

    postgres.stop()
    run("cp", "-a", postgres.data, backup)
    postgres.start()
    with asyncio.Runner() as loop:
        control = SessionControl(local(postgres))
        assert role(control, "before") == ["before"]
        postgres.stop()
        shutil.rmtree(postgres.data)
        backup.rename(postgres.data)
        postgres.start()
        # Its connection broke; the first statement says so.
        with contextlib.suppress(Expected):
            loop.run(control.sessions())
        assert role(control, "after") == ["after"], "the same oid as before"
        loop.run(control.close())
