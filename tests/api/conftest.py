"""One database with the gate, two tenants, and a PostgREST for each; all of them real."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.harness.database import Database, running
from tests.harness.films import make_films
from tests.harness.gateway import Api, Front, in_front_of
from tests.harness.postgrest import PostgREST, served_roles
from tests.harness.slot import folder

from vaultbrix.dataapi.serving import schema

TENANTS = ("acme", "globex")


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    """A PostgreSQL with the gate and the tenants, each with a table ``notes`` of its own and with films."""
    with running() as started:
        started.admin(schema.install)
        for slug in TENANTS:
            role = started.tenant(slug)
            served_roles(started, slug)
            with started.login(role) as session:
                session.execute("CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)")
                session.execute("INSERT INTO notes (text) VALUES (%s)", [f"{slug}'s own"])
            make_films(started, role)
        yield started


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Where sockets and logs are; gone afterwards."""
    made = folder()
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def sockets(directory: Path) -> Path:
    """Where the sockets of all PostgREST are."""
    folder = directory / "sockets"
    folder.mkdir()
    # nginx's workers are another user's.
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def postgrests(database: Database, sockets: Path) -> Iterator[Mapping[str, PostgREST]]:
    """The PostgREST of each tenant, running."""
    servers = {slug: PostgREST(sockets, database, slug) for slug in TENANTS}
    try:
        for server in servers.values():
            server.serve()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture(scope="session")
def postgrest(postgrests: Mapping[str, PostgREST]) -> PostgREST:
    """That of acme."""
    return postgrests["acme"]


@pytest.fixture(scope="session")
def front(directory: Path, sockets: Path, postgrests: Mapping[str, PostgREST]) -> Iterator[Front]:
    """nginx and authorizer, running."""
    with in_front_of(sockets, directory) as started:
        yield started


@pytest.fixture
def api(front: Front) -> Api:
    """The data API, with both tenants and new keys; whatever the test before made known is forgotten."""
    return front.api(TENANTS)
