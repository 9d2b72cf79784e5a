"""One database with the gate, two tenants, and a PostgREST for each; all of them real."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.harness.database import Database, running
from tests.harness.gateway import Api, AuthorizerThread, Nginx
from tests.harness.known_keys import KnownInMemory, users_secret
from tests.harness.postgrest import PostgREST
from tests.harness.slot import folder

from vaultbrix.api.apikey import KeyKind
from vaultbrix.dataapi.serving import schema
from vaultbrix.gateway.jwt import Users, secret_key

SECRET = bytes(range(32))
TENANTS = ("acme", "globex")


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    """A PostgreSQL with the gate and the tenants, each with a table ``notes`` of its own."""
    with running() as started:
        started.admin(schema.install)
        for slug in TENANTS:
            role = started.tenant(slug)
            with started.login(role) as session:
                session.execute("CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)")
                session.execute("INSERT INTO notes (text) VALUES (%s)", [f"{slug}'s own"])
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
def shards(database: Database, sockets: Path) -> Iterator[Mapping[str, PostgREST]]:
    """The PostgREST of each tenant, running."""
    servers = {slug: PostgREST(sockets, database, slug, SECRET) for slug in TENANTS}
    try:
        for slug, server in servers.items():
            with database.login(f"tenant_{slug}") as session:
                for role in ("anon", "authenticated"):
                    session.execute(f"GRANT USAGE ON SCHEMA tenant_{slug} TO tenant_{slug}_{role}")
            server.serve()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture(scope="session")
def shard(shards: Mapping[str, PostgREST]) -> PostgREST:
    """That of acme."""
    return shards["acme"]


@pytest.fixture(scope="session")
def front(
    directory: Path, sockets: Path, shards: Mapping[str, PostgREST]
) -> Iterator[tuple[Nginx, AuthorizerThread, KnownInMemory]]:
    """nginx and authorizer, running."""
    known = KnownInMemory()
    authorizer = AuthorizerThread(directory, known, SECRET)
    nginx = Nginx(directory, authorizer.socket, sockets)
    try:
        authorizer.start()
        nginx.start()
        yield nginx, authorizer, known
    finally:
        nginx.stop()
        authorizer.stop()


@pytest.fixture
def api(front: tuple[Nginx, AuthorizerThread, KnownInMemory]) -> Api:
    """The data API, with both tenants and new keys; whatever the test before made known is forgotten."""
    nginx, authorizer, known = front
    known.keys.clear()
    known.tenants.clear()
    for slug in TENANTS:
        known.add_tenant(slug, users=Users((secret_key(users_secret(slug)),)))
    return Api(
        nginx,
        authorizer,
        known,
        secret={slug: known.add_key(slug, KeyKind.SECRET) for slug in TENANTS},
        publishable={slug: known.add_key(slug) for slug in TENANTS},
    )
