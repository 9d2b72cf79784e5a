"""What a tenant, or a machine in trouble, can do to PostgreSQL so that it helps nobody to end a session."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
from tests.harness.shell import run, wait_for
from tests.harness.small_disk import Disk
from tests.harness.world import World

# As many locks as there are, and then sleeps; its backend never looks whether its client is still there.
HOLDS_ALL_LOCKS = """
SET client_connection_check_interval = 0;
DO $$
BEGIN
  PERFORM count(pg_advisory_lock(i)) FROM generate_series(1, 2000000) i;
EXCEPTION WHEN out_of_memory THEN PERFORM pg_sleep(600);
END $$
"""


def can_log_in(world: World) -> bool:
    """Whether PostgreSQL has room for one more session, of a superuser's even."""
    try:
        world.postgres.connect(connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


@contextlib.contextmanager
def locks_taken(world: World) -> Iterator[None]:
    """The lock table is full for as long as this; nobody can log in."""
    with world.postgres.connect() as holder:
        with contextlib.suppress(psycopg.errors.OutOfMemory):
            holder.execute("SELECT count(pg_advisory_lock(i)) FROM generate_series(1, 2000000) i")
        assert not can_log_in(world)
        yield


@contextlib.contextmanager
def connections_taken(world: World) -> Iterator[None]:
    """All of PostgreSQL's connections are in use."""
    with ExitStack() as held, contextlib.suppress(psycopg.OperationalError):
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                held.enter_context(world.postgres.connect(connect_timeout=5))
        yield


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """These processes run no further."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def small_disk(world: World) -> Iterator[Disk]:
    """PostgreSQL's data lie on a disk that can be filled. It is restarted before and after."""
    data, aside = world.postgres.data, world.postgres.data.with_name("data.aside")
    world.postgres.stop()
    data.rename(aside)
    disk = Disk(data, 400)
    try:
        run("cp", "-a", f"{aside}/.", data)
        world.postgres.start()
        yield disk
    finally:
        disk.free()
        world.postgres.stop()
        disk.unmount()
        shutil.rmtree(data)
        aside.rename(data)
        world.postgres.start()
        wait_for("PostgreSQL has room", lambda: can_log_in(world))
