"""Caddy in nginx's place, with the configuration that docs/examples shows: the same keys open the same, and no more."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.harness.caddy import Caddy
from tests.harness.database import Database
from tests.harness.gateway import AuthorizerThread
from tests.harness.http_messages import Answer
from tests.harness.known_keys import DOMAIN, KnownInMemory
from tests.harness.postgrest import PostgREST

from vaultbrix.api.apikey import KeyKind

TENANTS = ("acme", "globex")
JSON = ("Content-Type", "application/json")
TOLD = """CREATE OR REPLACE FUNCTION told() RETURNS json LANGUAGE sql STABLE AS $$ SELECT json_build_object(
'headers', current_setting('request.headers')::json, 'claims', current_setting('request.jwt.claims')::json,
'role', current_user) $$"""
STEER = """CREATE OR REPLACE FUNCTION steer() RETURNS text LANGUAGE sql AS $$ SELECT set_config('response.headers',
'[{"Set-Cookie": "a=b; Domain=example.com"}, {"Strict-Transport-Security": "max-age=1"}, {"X-Request-Id": "forged"},
{"Location": "/notes"}, {"X-Kept": "yes"}]', true) $$"""


class Client:
    """Somebody with a secret key of acme."""

    def __init__(self, caddy: Caddy, authorizer: AuthorizerThread, known: KnownInMemory) -> None:
        self.caddy, self.authorizer, self.known = caddy, authorizer, known
        for slug in TENANTS:
            known.add_tenant(slug)
        self.key = known.add_key("acme", KeyKind.SECRET)

    def send(
        self, method: str, target: str, *headers: tuple[str, str], body: bytes = b"", host: str = DOMAIN
    ) -> Answer:
        """A request with the key."""
        return self.caddy.send(method, target, [("apikey", self.key), *headers], body, host=host)

    def call(self, function: str, *headers: tuple[str, str]) -> Answer:
        """Call a function that was made a moment ago."""
        deadline = time.monotonic() + 20
        while True:
            answer = self.send("POST", f"/rest/v1/rpc/{function}", JSON, *headers, body=b"{}")
            if answer.status != 404 or time.monotonic() > deadline:
                return answer
            time.sleep(0.2)


@pytest.fixture(scope="module")
def front(
    directory: Path, sockets: Path, postgrests: Mapping[str, PostgREST]
) -> Iterator[tuple[Caddy, AuthorizerThread, KnownInMemory]]:
    """Caddy and an authorizer of its own, running."""
    folder = directory / "behind-caddy"
    folder.mkdir()
    known = KnownInMemory()
    authorizer = AuthorizerThread(folder, known)
    caddy = Caddy(folder, authorizer.socket, sockets)
    try:
        authorizer.start()
        caddy.start()
        yield caddy, authorizer, known
    finally:
        caddy.stop()
        authorizer.stop()


@pytest.fixture
def client(front: tuple[Caddy, AuthorizerThread, KnownInMemory]) -> Client:
    caddy, authorizer, known = front
    known.keys.clear()
    known.tenants.clear()
    return Client(caddy, authorizer, known)


def texts(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return [row["text"] for row in answer.json]


def test_a_key_opens_its_own_tenant_until_it_is_replaced_or_revoked(client: Client) -> None:
    mine = "/rest/v1/notes?select=text&order=id&limit=1"
    assert texts(client.send("GET", mine)) == ["acme's own"]
    assert texts(client.send("GET", mine, host=f"acme.{DOMAIN}")) == ["acme's own"]
    other = client.known.add_key("globex", KeyKind.SECRET)
    assert texts(client.caddy.send("GET", mine, [("apikey", other)])) == ["globex's own"]
    assert client.send("GET", mine, host=f"globex.{DOMAIN}").status == 401
    new = client.known.add_key("acme", KeyKind.SECRET)
    client.known.change_key(client.key, closed=True)
    refused = client.send("GET", mine)
    assert (refused.status, refused.json["message"]) == (401, "Invalid API key")
    assert refused.headers["www-authenticate"] == 'Bearer realm="vaultbrix"'
    assert refused.headers["content-type"] == "application/json; charset=utf-8"
    assert len(refused.headers["x-request-id"]) == 32
    assert texts(client.caddy.send("GET", mine, [("apikey", new)])) == ["acme's own"]


def test_bodies_arrive_as_they_were_sent_and_location_leads_back(client: Client) -> None:
    text = "ä { } {env.HOME} %41 ; & " * 1000
    body = ('{"text": "' + text + '"}').encode()
    headers = (JSON, ("Prefer", "return=representation,missing=default"))
    made = client.send("POST", "/rest/v1/notes", *headers, body=body)
    assert (made.status, made.json[0]["text"]) == (201, text)
    assert "content-profile" not in made.headers
    one = f"/rest/v1/notes?id=eq.{made.json[0]['id']}"
    assert client.send("PATCH", one, JSON, body=b'{"text": "m"}').status == 204
    head = client.send("HEAD", one)
    assert (head.status, head.body, head.headers["content-range"]) == (200, b"", "0-0/*")
    assert client.send("DELETE", one).status == 204
    located = client.send("POST", "/rest/v1/notes", JSON, ("Prefer", "return=headers-only"), body=b'{"text": "x"}')
    assert located.headers["location"].startswith("/rest/v1/notes?id=eq.")
    assert client.send("DELETE", located.headers["location"]).status == 204


def test_a_write_right_after_a_head_arrives(client: Client) -> None:
    """PostgREST closes the connection after it has answered a HEAD, and does not say so."""
    for number in range(50):
        assert client.send("HEAD", "/rest/v1/notes?id=eq.0").status == 200
        assert client.send("DELETE", "/rest/v1/notes?id=eq.0").status == 204, number


def test_the_query_arrives_as_it_was_sent_but_for_the_key(client: Client) -> None:
    target = "/rest/v1/notes?select=text&text=in.(acme's%20own,%22a%3Bb%22)&order=id&limit=1"
    assert texts(client.caddy.send("GET", f"{target}&apikey={client.key}")) == ["acme's own"]
    assert texts(client.caddy.send("GET", f"{target}&%61pikey={client.key}")) == ["acme's own"]
    # What stands in braces is the client's text, and none of Caddy's placeholders; nothing is left out of a filter.
    for value in ("{env.HOME}", "{http.request.header.apikey}", "{a,b}", "a%3Bb", "%25", "+"):
        assert texts(client.send("GET", f"/rest/v1/notes?select=text&text=eq.{value}")) == [], value
    assert len(texts(client.send("GET", "/rest/v1/notes?select=text&text=neq.{env.HOME}"))) >= 1
    echoed = client.send("GET", "/rest/v1/notes?select={env.HOME}").headers["content-location"]
    assert echoed == "/rest/v1/notes?select=%7Benv.HOME%7D"


def test_what_a_client_claims_of_itself_does_not_arrive(
    client: Client, database: Database, postgrest: PostgREST
) -> None:
    with database.login("tenant_acme") as session:
        session.execute(TOLD)
    postgrest.read_again()
    forged = [
        ("X-Request-Id", "forged"), ("X-Vaultbrix-Tenant", "forged"), ("X-Vaultbrix-Key", "forged"),
        ("X-Vaultbrix-Path", "/forged"), ("X-Vaultbrix-Backend", "forged"), ("X-Vaultbrix-Other", "forged"),
        ("X-Forwarded-For", "192.0.2.66"), ("X-Forwarded-Uri", "/forged"), ("X-Forwarded-Method", "DELETE"),
        ("X-Forwarded-Host", f"globex.{DOMAIN}"), ("X-Forwarded-Proto", "forged"), ("Forwarded", "for=192.0.2.66"),
        ("Cookie", "session=forged"), ("Accept-Profile", "tenant_acme"), ("X-Mine", "kept"),
    ]  # fmt: skip
    answer = client.call("told", *forged)
    assert answer.status == 200, answer
    told = answer.body.decode()
    assert not any(text in told for text in ("forged", "192.0.2.66", "globex", client.key))
    assert answer.json["headers"]["x-mine"] == "kept"
    assert answer.json["claims"]["vaultbrix"] == {
        "role": "tenant_acme", "tenant": "apps/acme", "key": "apps/acme-secret", "subject": "",
        "key_sha256": hashlib.sha256(client.key.encode()).hexdigest()[:16],
        "client": "127.0.0.1", "request": answer.headers["x-request-id"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "named", ["Authorization", "Accept-Profile", "Accept-Profile, Content-Profile", "X-Request-Id"]
)
def test_connection_does_not_take_away_what_the_authorizer_wrote(client: Client, named: str) -> None:
    answer = client.send("GET", "/rest/v1/notes?select=text&limit=1", ("Connection", named))
    assert texts(answer) == ["acme's own"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", ["Accept-Profile", "CONTENT-PROFILE"])
def test_another_profile_is_refused(client: Client, method: str, name: str) -> None:
    answer = client.send(method, "/rest/v1/notes", JSON, (name, "tenant_globex"))
    assert (answer.status, answer.json["code"]) == (406, "PGRST106")
    assert b"globex" not in answer.body


def test_a_browser_may_ask_first_without_a_key(client: Client) -> None:
    asked = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "apikey,prefer")]
    answer = client.caddy.send("OPTIONS", "/rest/v1/notes", asked)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, "*")
    assert answer.headers["access-control-allow-headers"] == "apikey,prefer"
    refused = client.caddy.send("OPTIONS", "/rest/v1/notes")
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "*")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404), ("/REST/v1/notes", 404), ("/x/../rest/v1/notes", 404), ("/rest/v1/../v1/notes", 400),
        ("/rest/v1/..%2fnotes", 400), ("/rest/v1/%252e%252e%252fnotes", 400), ("/rest/v1/notes%252Fx", 400),
        ("/rest/v1//notes", 404), ("//rest/v1/notes", 404), ("/rest/v1/notes%2Fx", 400), ("/forward", 404),
        ("/rest/v1/tenant_globex.notes", 404), (f"http://globex.{DOMAIN}/rest/v1/notes", 401),
        ("/rest/v1/notes?select=" + "a" * 20_000, 414),
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere(client: Client, target: str, status: int) -> None:
    answer = client.send("GET", target)
    assert answer.status == status, answer
    assert b"globex" not in answer.body.replace(b"tenant_acme.tenant_globex.notes", b"")


def raw_request(client: Client, *lines: str, body: bytes = b"") -> bytes:
    head = [*lines, f"Host: {DOMAIN}", f"apikey: {client.key}", "Connection: close"]
    return client.caddy.send_raw("\r\n".join([*head, "", ""]).encode("latin-1") + body)


def test_one_request_is_one_request(client: Client) -> None:
    hidden = f"GET /rest/v1/notes HTTP/1.1\r\nHost: {DOMAIN}\r\napikey: {client.key}\r\n\r\n".encode()
    post = "POST /rest/v1/notes HTTP/1.1"
    answers = [
        raw_request(client, post, "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + hidden),
        raw_request(client, post, "Content-Length: 0", "Content-Length: 40", body=hidden),
        raw_request(client, post, "Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + hidden),
    ]
    assert all(answer.count(b"HTTP/1.1 ") == 1 for answer in answers), answers
    assert b"acme's own" not in b"".join(answers)


def test_large_bodies_are_refused(client: Client) -> None:
    answer = client.send("POST", "/rest/v1/notes", JSON, body=b" " * 1_100_000)
    assert (answer.status, answer.json["code"]) == (413, "VBX413")


def test_headers_of_a_tenants_function_do_not_steer_a_browser(
    client: Client, database: Database, postgrest: PostgREST
) -> None:
    with database.login("tenant_acme") as session:
        session.execute(STEER)
    postgrest.read_again()
    answer = client.call("steer")
    assert (answer.status, answer.headers["x-kept"], answer.headers["location"]) == (200, "yes", "/rest/v1/notes")
    assert not {"set-cookie", "strict-transport-security", "authorization"} & set(answer.headers)
    assert "forged" not in str(answer.headers)


def without(part: Any, client: Client) -> Answer:
    part.stop()
    return client.send("GET", f"/rest/v1/notes?apikey={client.key}", ("Authorization", "Bearer "))


def test_without_authorizer_or_postgrest_nothing_is_let_in_and_no_key_is_logged(
    client: Client, postgrest: PostgREST
) -> None:
    try:
        answers = [without(client.authorizer, client)]
        client.authorizer.start()
        answers.append(without(postgrest, client))
    finally:
        postgrest.serve()
    assert [(answer.status, answer.json["code"]) for answer in answers] == [(503, "VBX503")] * 2
    client.known.add_tenant("acme", backend="elsewhere")
    assert client.send("GET", "/rest/v1/notes").json["code"] == "VBX503"
    assert "/rest/v1/notes" in client.caddy.log()
    assert client.key not in client.caddy.log()
