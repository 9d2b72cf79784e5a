"""What a client with a key of one tenant tries against the others: each gets a clear refusal, no name, and no row."""

import gzip
import json
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from psycopg import sql
from tests.harness.database import Database
from tests.harness.gateway import Api
from tests.harness.http_messages import Answer
from tests.harness.known_keys import DOMAIN, RSA_KEY, jwks, public_pem, user_header, user_token, users_secret
from tests.harness.postgrest import SECRET, PostgREST, token
from tests.harness.shell import wait_for

from vaultbrix.api.apikey import KeyKind
from vaultbrix.gateway.jwt import Users, keys_of_jwks

JSON = ("Content-Type", "application/json")
TENANTS = ("tenant_acme", "tenant_globex")
HIDDEN = f"POST /rest/v1/notes HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: 17\r\n\r\n{{'text':'hidden'}}".encode()
NOT_THEIRS = "globex"


@pytest.fixture(autouse=True)
def _nothing_is_stored(database: Database) -> Iterator[None]:
    before = contents(database)
    yield
    assert contents(database) == before


def contents(database: Database) -> list[Any]:
    """All rows that a request could have added or changed, and the names of all tables."""
    tables = [sql.Identifier(schema, table) for schema in TENANTS for table in ("notes", "pairs", "counters", "diary")]
    with database.postgres.connect() as session:
        rows = [session.execute(sql.SQL("SELECT * FROM {} ORDER BY 1, 2").format(table)).fetchall() for table in tables]
        return [*rows, session.execute("SELECT relname FROM pg_class ORDER BY 1").fetchall()]


def send(api: Api, target: str, *headers: tuple[str, str], method: str = "GET", body: bytes = b"") -> Answer:
    """With the Secret key of acme."""
    answer = api.nginx.send(method, target, [("apikey", api.secret["acme"]), *headers], body)
    assert NOT_THEIRS not in str(answer.headers) + answer.body.decode(), answer
    return answer


def raw(api: Api, head: str, body: bytes = b"", *, end: str = "Connection: close") -> list[int]:
    """Statuses of all answers to these bytes, which name the key of acme."""
    lines = [*head.split("\r\n"), f"Host: {DOMAIN}", f"apikey: {api.secret['acme']}", end]
    answered = api.nginx.send_raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    assert NOT_THEIRS.encode() not in answered
    return [int(part[:3]) for part in answered.split(b"HTTP/1.1 ")[1:]]


# Keys and users.


def test_a_key_that_is_not_good_looks_like_any_other(api: Api) -> None:
    good = api.secret["acme"]
    revoked, ended = (api.known.add_key("acme", KeyKind.SECRET, closed=True), api.secret["globex"])
    wrong = [
        "x", good[:-1], good + "x", good.upper(), good[:-1] + "y", revoked, "vbx_secret_" + "A" * 49, "A" * 5000,
        "' OR ''='", "%00", good.replace("secret", "publishable"), "../" + good, f"{good},{ended}",
    ]  # fmt: skip
    answers = [api.nginx.send("POST", "/rest/v1/notes", [("apikey", text), JSON], b'{"text": "x"}') for text in wrong]
    answers.append(api.nginx.send("GET", "/rest/v1/notes", [("apikey", ended)], host=f"acme.{DOMAIN}"))
    assert {(answer.status, answer.body) for answer in answers} == {(401, answers[0].body)}
    assert NOT_THEIRS.encode() not in answers[0].body


def hmac_with_a_public_key(**claims: Any) -> str:
    return token(public_pem(RSA_KEY), sub="jane", **claims)


def unsigned() -> str:
    claims = user_token(users_secret("acme"), exp=int(time.time()) + 600).split(".")[1]
    header = b64encode(b'{"alg":"none"}').decode().rstrip("=")
    return f"{header}.{claims}."


NOT_OF_USERS = {
    "none": unsigned(),
    "the gateway's own": token(SECRET, role="service_role", vaultbrix={"role": "tenant_globex"}),
    "of globex": user_token(users_secret("globex"), exp=int(time.time()) + 600),
    "of globex, for acme": user_token(users_secret("globex"), exp=int(time.time()) + 600, iss="acme", aud="acme"),
    "ended": user_token(users_secret("acme"), exp=int(time.time()) - 1),
    "not yet": user_token(users_secret("acme"), exp=int(time.time()) + 600, nbf=int(time.time()) + 300),
    "without an end": user_token(users_secret("acme"), exp=None),
    "huge": user_token(users_secret("acme"), exp=int(time.time()) + 600, more="x" * 10_000),
    "signed with nothing": token(b"", sub="jane"),
    **{
        f"kid {kid}": user_token(secret, exp=int(time.time()) + 600, header={"kid": kid})
        for secret, kid in ((b"\0" * 32, "../../../../dev/null"), (b"\0" * 32, "/dev/zero"), (SECRET, "' UNION SELECT"),
                            (users_secret("globex"), "tenant_globex"), (b"\0" * 32, "https://evil.example/jwks"))
    },
    "jku": user_token(b"\0" * 32, exp=int(time.time()) + 600, header={"jku": "https://evil.example/jwks"}),
    "jwk": user_token(b"\0" * 32, exp=int(time.time()) + 600, header={"jwk": {"kty": "oct", "k": "AAAA"}}),
    "crit": user_token(users_secret("acme"), exp=int(time.time()) + 600, header={"crit": ["b64"], "b64": True}),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_OF_USERS)
def test_no_token_but_of_the_tenants_own_users_is_accepted(api: Api, kind: str) -> None:
    answer = send(
        api,
        "/rest/v1/diary",
        ("Authorization", f"Bearer {NOT_OF_USERS[kind]}"),
        JSON,
        method="POST",
        body=b'{"id": 99}',
    )
    assert answer.status == 401
    assert answer.json["code"] == "PGRST301"


def test_a_public_key_signs_nothing(api: Api) -> None:
    api.known.add_tenant("acme", users=Users(keys_of_jwks(jwks(RSA_KEY))))
    good = user_token(RSA_KEY, algorithm="RS256", exp=int(time.time()) + 60, sub="jane")
    assert send(api, "/rest/v1/diary?select=text", ("Authorization", f"Bearer {good}")).json == [{"text": "of jane"}]
    assert send(api, "/rest/v1/diary", ("Authorization", f"Bearer {hmac_with_a_public_key()}")).status == 401


@pytest.mark.parametrize("role", ["service_role", "tenant_acme", "tenant_globex", "postgres", "vaultbrix_rest", ""])
def test_no_token_gives_more_than_its_key(api: Api, role: str) -> None:
    answer = send(api, "/rest/v1/no_rights", user_header("acme", role=role))
    assert (answer.status, answer.json["code"]) == (403, "VBX403")


# Names of others.


@pytest.mark.parametrize(
    "cast", ["regclass", "regrole", "regnamespace", "REGCLASS", "%20regclass", "%72egrole", "regclass[]", "aclitem"]
)
@pytest.mark.parametrize("select", ["select=n:n::{}", "id=gt.0;select=n::{}", "%73elect=id,notes:n%3A%3A{}"])
def test_no_number_becomes_a_name_of_the_catalogue(api: Api, select: str, cast: str) -> None:
    answer = send(api, f"/rest/v1/counters?{select.format(cast)}")
    assert (answer.status, answer.json["code"]) == (400, "VBX400")


def test_postgrest_itself_would_show_them(postgrest: PostgREST, database: Database) -> None:
    # The reason for the refusal above; number and name are a neighbour's.
    (number,) = database.postgres.query("SELECT 'tenant_globex'::regrole::oid::int")[0]
    with database.login("tenant_acme") as session:
        session.execute("INSERT INTO pairs VALUES (%s, 0, '')", [number])
    headers = {
        "Authorization": f"Bearer {token(vaultbrix={'role': 'tenant_acme'})}",
        "Accept-Profile": "tenant_acme",
    }
    try:
        answer = postgrest.send("GET", f"/pairs?a=eq.{number}&select=a::regrole", headers)
    finally:
        with database.login("tenant_acme") as session:
            session.execute("DELETE FROM pairs WHERE a = %s", [number])
    assert answer.json == [{"a": "tenant_globex"}]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/rest/v1/pg_tables", 404), ("/rest/v1/pg_catalog.pg_class", 404), ("/rest/v1/information_schema.tables", 404),
        ("/rest/v1/%22pg_catalog%22.%22pg_class%22", 404), ("/rest/v1/vaultbrix.tenant", 404),
        ("/rest/v1/rpc/pg_read_file?filename=/etc/passwd", 404), ("/rest/v1/rpc/current_setting?setting_name=x", 404),
        ("/rest/v1/rpc/pg_catalog.version", 404), ("/rest/v1/rpc/pg_ls_dir", 404), ("/rest/v1/rpc/version", 404),
        ("/rest/v1/rpc/set_config?setting_name=role&new_value=x&is_local=false", 404),
        ("/rest/v1/rpc/dblink?connstr=x", 404), ("/rest/v1/rpc/lo_import", 404), ("/rest/v1/rpc/vaultbrix.repair", 404),
        ("/rest/v1/films?select=*,pg_authid(*)", 400), ("/rest/v1/films?select=*,...pg_roles(*)", 400),
        ("/rest/v1/films?select=notes(*)", 400), ("/rest/v1/films?plot=fts(pg_catalog.english).x", 400),
        ("/rest/v1/films?order=pg_sleep(10)", 400), ("/rest/v1/films?id=eq.(select 1)".replace(" ", "%20"), 400),
        ("/rest/v1/films?title=eq.'%3B%20DROP%20TABLE%20notes%3B--", 200), ("/rest/v1/films?select=id)--", 200),
        ("/rest/v1/films?on_conflict=id&columns=tableoid", 200), ("/rest/v1/films?select=tableoid,xmin&limit=1", 200),
        ("/rest/v1/films?select=pg_typeof&limit=1", 200), ("/rest/v1/film", 404), ("/rest/v1/rpc/films_sinc", 404),
    ],
)  # fmt: skip
def test_catalogues_and_functions_of_the_server_are_not_served(api: Api, target: str, status: int) -> None:
    assert send(api, target).status == status


@pytest.mark.parametrize("name", ["Accept-Profile", "accept-profile", "CONTENT-PROFILE", "content-Profile"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"])
def test_no_method_takes_the_profile_of_another(api: Api, method: str, name: str) -> None:
    values = [("tenant_globex",), ("tenant_acme", "tenant_globex"), ("tenant_acme,tenant_globex",), ("*",), ("",)]
    for each in values:
        answer = send(api, "/rest/v1/notes", JSON, *((name, value) for value in each), method=method, body=b"{}")
        assert answer.status == 406


def test_the_description_of_the_api_is_the_tenants_own_whatever_is_asked_for(api: Api) -> None:
    for target in ("/rest/v1", "/rest/v1/", "/rest/v1/?"):
        assert "/notes" in send(api, target, ("Accept", "application/openapi+json")).json["paths"]
    assert send(api, "/rest/v1/", ("Accept-Profile", "tenant_globex")).status == 406
    assert api.nginx.send("GET", "/rest/v1/").status == 401


@pytest.mark.parametrize(
    "value",
    [
        "0-18446744073709551616", "0-99999999999999999999999999", "-5", "5-1", "bytes=0-1,2-3,4-5", "items=0-1", "a-b",
        "0-0;x", "-", "1-1, 2-2", "0x10-0x20", "bytes=" + ",".join(f"{n}-{n}" for n in range(500)),
    ],
)  # fmt: skip
def test_a_range_gives_no_more_than_there_is(api: Api, value: str) -> None:
    answer = send(api, "/rest/v1/films?select=id&order=id", ("Range", value))
    assert answer.status in {200, 416}
    if answer.status == 200:
        assert set(range(1, 7)) >= {row["id"] for row in answer.json}


def test_preferences_open_nothing(api: Api) -> None:
    for value in (
        "tx=rollback",
        "handling=strict, tx=rollback",
        "timezone=x'; SET ROLE tenant_globex",
        "role=postgres",
    ):
        answer = send(api, "/rest/v1/films?select=id&id=eq.1", ("Prefer", value))
        assert answer.status in {200, 400}
    plan = send(api, "/rest/v1/films", ("Accept", "application/vnd.pgrst.plan+json; options=analyze"))
    assert plan.json["code"] == "PGRST107"


# One request is one request.


@pytest.mark.parametrize(
    ("head", "body", "statuses"),
    [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN, [400]),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4", b"0\r\n\r\n" + HIDDEN, [400]),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n" + HIDDEN, [400]),
        ("Transfer-Encoding: chunked, identity", b"0\r\n\r\n" + HIDDEN, [501]),
        ("Transfer-Encoding: identity, chunked", b"0\r\n\r\n" + HIDDEN, [501]),
        ("Transfer-Encoding: \x0bchunked", b"0\r\n\r\n" + HIDDEN, [501]),
        ("Transfer-Encoding : chunked", b"0\r\n\r\n" + HIDDEN, [400]),
        ("Transfer-Encoding: chunked", b"z\r\n" + HIDDEN, [400]),
        ("Transfer-Encoding: chunked", b"-1\r\n" + HIDDEN, [400]),
        ("Transfer-Encoding: chunked", b"ffffffffffffffffff\r\n" + HIDDEN, [400]),
        ("Content-Length: 5\r\nContent-Length: 5", b"{'a':" + HIDDEN, [400]),
        ("Content-Length: 5, 5", b"{'a':" + HIDDEN, [400]),
        ("Content-Length: +5", b"{'a':" + HIDDEN, [400]),
        ("Content-Length: -5", HIDDEN, [400]),
        ("Content-Length: 0x5", HIDDEN, [400]),
        ("Content-Length: 99999999999999999999", HIDDEN, [400]),
        ("Content-Length : 5", b"{'a':" + HIDDEN, [400]),
    ],
)  # fmt: skip
def test_nothing_is_hidden_behind_a_body(api: Api, head: str, body: bytes, statuses: list[int]) -> None:
    assert raw(api, f"POST /rest/v1/notes HTTP/1.1\r\n{JSON[0]}: {JSON[1]}\r\n{head}", body) == statuses


def test_a_body_of_a_read_is_its_body(api: Api) -> None:
    head = f"GET /rest/v1/notes HTTP/1.1\r\nContent-Length: {len(HIDDEN)}"
    last = f"GET /rest/v1/films?id=eq.1 HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n".encode()
    assert raw(api, head, HIDDEN + last, end="Connection: keep-alive") == [200, 401]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("X-A: a\rAccept-Profile: tenant_globex", 400), ("X-A: a\x00b", 400), ("X A: b", 400), (": b", 400),
        (" Accept-Profile: tenant_globex", 400), (f"Host: globex.{DOMAIN}", 400), ("no colon", 400), ("X-\xe4: b", 200),
        ("Accept-Profile : tenant_globex", 400), ("Connection: close, Authorization, Accept-Profile", 200),
        ("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", 200), ("Upgrade: websocket", 200), ("TE: trailers", 200),
        ("Trailer: Accept-Profile", 200), ("X-HTTP-Method-Override: DELETE", 200), ("X-Original-URL: /x", 200),
        ("X-Accel-Redirect: /vaultbrix-authorize", 200), ("X-Large: " + "x" * 40_000, 400),
    ],
)  # fmt: skip
def test_no_line_of_a_header_becomes_another(api: Api, line: str, status: int) -> None:
    assert raw(api, f"GET /rest/v1/notes?select=text&text=eq.none HTTP/1.1\r\n{line}") == [status]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("TRACE /rest/v1/notes HTTP/1.1", 405), ("CONNECT api.example.com:443 HTTP/1.1", 400),
        ("PROPFIND /rest/v1/notes HTTP/1.1", 405), ("get /rest/v1/notes HTTP/1.1", 400),
        ("GET http://globex.api.example.com/rest/v1/notes HTTP/1.1", 401), ("GET /rest/v1/notes HTTP/3.0", 505),
        ("GET //rest/v1/notes HTTP/1.1", 404), ("GET /rest/v1/notes#x HTTP/1.1", 400), ("GET  HTTP/1.1", 400),
        ("GET /rest/v1/no tes HTTP/1.1", 400), ("GET /rest/v1/notes%0d%0aX-Evil:1 HTTP/1.1", 400),
        ("GET /rest/v1/%2525252e%2525252e/notes HTTP/1.1", 400), ("GET /rest/v1/..%c0%af..%c0%afnotes HTTP/1.1", 400),
        ("GET /vaultbrix-authorize HTTP/1.1", 404), ("GET /rest/v1/../../vaultbrix-authorize HTTP/1.1", 404),
        ("GET @evil.example/rest/v1/notes HTTP/1.1", 400), ("GET file:///etc/passwd HTTP/1.1", 400),
    ],
)  # fmt: skip
def test_no_line_of_a_request_leads_elsewhere(api: Api, line: str, status: int) -> None:
    assert raw(api, line) == [status]


def test_what_is_encoded_in_a_query_makes_no_header_of_the_answer(api: Api) -> None:
    answer = send(api, "/rest/v1/notes?text=eq.%0d%0aX-Evil:%20yes%0d%0a%0d%0a<script>")
    assert (answer.status, answer.json) == (200, [])
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        [{"X-A": "a\r\nSet-Cookie: a=b"}], [{"X-A": "a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"}],
        [{"X-A: a\r\nSet-Cookie": "a=b"}], [{"Content-Length": "0"}], [{"Content-Length": "5"}],
        [{"Connection": "upgrade"}], [{"Transfer-Encoding": "chunked"}], [{"Transfer-Encoding": "gzip"}],
        [{"Content-Length": "5000"}],
    ],
)  # fmt: skip
def test_headers_that_a_tenants_function_sets_spoil_no_other_answer(api: Api, headers: list[dict[str, str]]) -> None:
    target = f"/rest/v1/rpc/respond?headers={quote(json.dumps(headers))}"
    head = f"GET {target} HTTP/1.1\r\nHost: {DOMAIN}\r\napikey: {api.secret['acme']}\r\nConnection: close\r\n\r\n"
    answered = api.nginx.send_raw(head.encode(), timeout=2)
    assert b"\r\nSet-Cookie" not in answered
    for _ in range(10):
        other = api.nginx.send("GET", "/rest/v1/notes?select=text", [("apikey", api.secret["globex"])])
        assert (other.status, other.json) == (200, [{"text": "globex's own"}])


# Too much, too slow.


def test_a_large_body_is_refused_whether_its_size_is_told_or_not(api: Api) -> None:
    assert raw(api, "POST /rest/v1/notes HTTP/1.1\r\nContent-Length: 104857600") == [413]
    large = b'[{"text": "' + b"x" * 100_000_000 + b'"}]'
    answer = send(api, "/rest/v1/notes", JSON, ("Transfer-Encoding", "chunked"), method="POST", body=large)
    assert (answer.status, answer.json["code"]) == (413, "VBX413")


def test_a_compressed_body_is_not_inflated(api: Api) -> None:
    bomb = gzip.compress(b'[{"text": "' + b"x" * 50_000_000 + b'"}]')
    answer = send(api, "/rest/v1/notes", JSON, ("Content-Encoding", "gzip"), method="POST", body=bomb)
    assert (answer.status, answer.json["code"]) == (400, "PGRST102")


def test_half_a_body_is_no_body(api: Api) -> None:
    head = f"POST /rest/v1/notes HTTP/1.1\r\n{JSON[0]}: {JSON[1]}\r\nContent-Length: 100"
    message = f"{head}\r\nHost: {DOMAIN}\r\napikey: {api.secret['acme']}\r\n\r\n".encode() + b'{"text": "half"}'
    with socket.create_connection(("127.0.0.1", api.nginx.port), 10) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        assert not connection.recv(65536).startswith(b"HTTP/1.1 2")


def test_who_sends_slowly_is_cut_off_and_holds_up_nobody(api: Api) -> None:
    heads = (b"GET /rest/v1/notes HTTP/1.1\r\nX-", f"POST /rest/v1/notes HTTP/1.1\r\nHost: {DOMAIN}\r\n".encode()
             + f"apikey: {api.secret['acme']}\r\nContent-Length: 50\r\n\r\n{{".encode())  # fmt: skip
    connections = [socket.create_connection(("127.0.0.1", api.nginx.port), 10) for _ in range(20) for _ in heads]
    for n, connection in enumerate(connections):
        connection.sendall(heads[n % 2])
        connection.setblocking(False)
    open_ones = set(connections)

    def drip() -> bool:
        for connection in list(open_ones):
            try:
                if connection.recv(4096):
                    continue
            except BlockingIOError:
                continue
            except ConnectionError:
                pass
            open_ones.discard(connection)
        return not open_ones

    try:
        assert send(api, "/rest/v1/notes?select=text").status == 200
        wait_for("all of them are cut off", drip, patience=60, pause=0.2)
    finally:
        for connection in connections:
            connection.close()
