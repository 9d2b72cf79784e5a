"""One key, one address, or a client that is slow takes no more than its share."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.database import Database
from tests.harness.gateway import Api, Front, in_front_of
from tests.harness.known_keys import DOMAIN

from vaultbrix.api.apikey import KeyKind
from vaultbrix.gateway.limits import Limits

pytestmark = pytest.mark.usefixtures("postgrests")

# As the template has it.
CONNECTIONS_OF_AN_ADDRESS = 200
SECONDS_WITHOUT_A_BYTE = 10


@pytest.fixture
def limited(directory: Path, sockets: Path) -> Iterator[Front]:
    """nginx and an authorizer that lets ten requests of a key through at once, and then next to none."""
    with in_front_of(sockets, directory / "limited", options={"limits": Limits(rate=0.01, burst=10)}) as front:
        front.known.add_tenant("acme")
        yield front


def test_a_key_that_asks_too_often_is_told_to_wait_and_no_other_is(limited: Front) -> None:
    nginx, known = limited.nginx, limited.known
    busy = known.add_key("acme", KeyKind.SECRET)
    quiet = known.add_key("acme", KeyKind.SECRET, name=("apps", "quiet"))
    answers = [nginx.send("GET", "/rest/v1/notes?limit=1", [("apikey", busy)]) for _ in range(12)]
    assert [answer.status for answer in answers] == [200] * 10 + [429] * 2
    assert answers[-1].json["code"] == "VBX429"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 100
    assert nginx.send("GET", "/rest/v1/notes?limit=1", [("apikey", quiet)]).status == 200
    # Who has no good key uses up nobody's share.
    for _ in range(20):
        assert nginx.send("GET", "/rest/v1/notes", [("apikey", quiet[:-1] + "y")]).status == 401
    assert nginx.send("GET", "/rest/v1/notes?limit=1", [("apikey", quiet)]).status == 200


def begun(api: Api, *lines: str) -> socket.socket:
    """A connection with this much of a request sent."""
    connection = socket.create_connection(("127.0.0.1", api.nginx.port), 30)
    connection.sendall("\r\n".join(lines).encode())
    return connection


def slow_body(api: Api) -> socket.socket:
    """A request whose body does not come."""
    return begun(
        api, "POST /rest/v1/notes HTTP/1.1", f"Host: {DOMAIN}", f"apikey: {api.secret['acme']}", "Content-Length: 9",
        "Content-Type: application/json", "", "",
    )  # fmt: skip


def test_clients_that_send_slowly_hold_up_nobody_and_are_cut_off(api: Api) -> None:
    opened_at = time.monotonic()
    # More than PostgREST has connections to PostgreSQL.
    slow = [slow_body(api) for _ in range(40)] + [
        begun(api, "GET /rest/v1/notes HTTP/1.1", "Host: x") for _ in range(40)
    ]
    try:
        for _ in range(20):
            assert api.nginx.send("GET", "/rest/v1/notes?limit=1", [("apikey", api.secret["acme"])]).status == 200
        for connection in slow:
            # The end, or a reset: nothing was let in.
            try:
                assert not connection.recv(4096).startswith(b"HTTP/1.1 2")
            except ConnectionResetError:
                pass
        assert time.monotonic() - opened_at >= SECONDS_WITHOUT_A_BYTE - 1
    finally:
        for connection in slow:
            connection.close()


def test_an_address_has_so_many_requests_at_once(api: Api) -> None:
    slow = [slow_body(api) for _ in range(CONNECTIONS_OF_AN_ADDRESS)]
    try:
        deadline = time.monotonic() + 8
        while True:
            answer = api.nginx.send("GET", "/rest/v1/notes?limit=1", [("apikey", api.secret["acme"])])
            if answer.status == 429 or time.monotonic() > deadline:
                break
        assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (429, "VBX429", "1")
    finally:
        for connection in slow:
            connection.close()


def test_clients_that_read_slowly_hold_no_connection_to_the_database(api: Api, database: Database) -> None:
    with database.login("tenant_acme") as session:
        session.execute("CREATE TABLE read_slowly (text text)")
        # Of what does not compress, and more than the buffers of a connection hold.
        session.execute("INSERT INTO read_slowly SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300000) n")
    get = (f"Host: {DOMAIN}", f"apikey: {api.secret['acme']}", "", "")
    readers = [begun(api, "GET /rest/v1/read_slowly HTTP/1.1", *get) for _ in range(10)]
    try:
        for reader in readers:
            assert reader.recv(15) == b"HTTP/1.1 200 OK"
        for _ in range(20):
            assert api.nginx.send("GET", "/rest/v1/notes?limit=1", [("apikey", api.secret["acme"])]).status == 200
        running = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'vaultbrix_rest_acme' AND state <> 'idle'"
        assert database.postgres.query(running) == [(0,)]
    finally:
        for reader in readers:
            reader.close()
        with database.login("tenant_acme") as session:
            session.execute("DELETE FROM read_slowly")
