"""One database with the gate, two tenants, and a PostgREST that serves both; all of them real."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import postgrest
from tests.harness.database import Database, running
from tests.harness.postgrest import PostgREST
from tests.harness.slot import folder

SECRET = bytes(range(32))
TENANTS = ("acme", "globex")


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    """A PostgreSQL with the gate and the tenants, each with a table ``notes`` of its own."""
    with running() as started:
        postgrest.make_login(started)
        for slug in TENANTS:
            role = started.tenant(slug)
            postgrest.admit(started, role)
            with started.login(role) as session:
                session.execute("CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)")
                session.execute("INSERT INTO notes (text) VALUES (%s)", [f"{slug}'s own"])
        yield started


@pytest.fixture(scope="session")
def directory() -> Path:
    """Where sockets and logs are."""
    return folder()


@pytest.fixture(scope="session")
def shard(database: Database, directory: Path) -> Iterator[PostgREST]:
    """PostgREST, running."""
    server = PostgREST(directory / "shard", database, SECRET)
    try:
        server.serve(f"tenant_{slug}" for slug in TENANTS)
        yield server
    finally:
        server.stop()
