"""nginx, authorizer, PostgREST and PostgreSQL together: each key reaches its own tenant, and ends when it ends."""

import hashlib
import json
import time

import pytest
from tests.harness.database import Database
from tests.harness.gateway import Api
from tests.harness.http_messages import Answer
from tests.harness.known_keys import DOMAIN, user_header
from tests.harness.postgrest import PostgREST

JSON = ("Content-Type", "application/json")


def key(text: str) -> tuple[str, str]:
    return ("apikey", text)


def texts(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return [row["text"] for row in answer.json]


def test_a_tenant_reads_and_writes_with_its_key_and_nobody_else_sees_it(api: Api) -> None:
    acme, globex = key(api.secret["acme"]), key(api.secret["globex"])
    made = api.nginx.send("POST", "/rest/v1/notes", [acme, JSON, ("Prefer", "return=representation")], b'{"text": "n"}')
    assert (made.status, [row["text"] for row in made.json]) == (201, ["n"])
    mine = "/rest/v1/notes?select=text&order=id"
    assert texts(api.nginx.send("GET", mine, [acme])) == ["acme's own", "n"]
    assert texts(api.nginx.send("GET", mine, [acme], host=f"acme.{DOMAIN}")) == ["acme's own", "n"]
    assert texts(api.nginx.send("GET", f"{mine}&apikey={api.secret['acme']}")) == ["acme's own", "n"]
    assert texts(api.nginx.send("GET", mine, [globex])) == ["globex's own"]
    id_ = made.json[0]["id"]
    changed = api.nginx.send("PATCH", f"/rest/v1/notes?id=eq.{id_}", [acme, JSON], b'{"text": "m"}')
    assert changed.status == 204
    # The other tenant has no such row to change or delete.
    assert api.nginx.send("DELETE", f"/rest/v1/notes?id=eq.{id_}", [globex]).status == 204
    assert texts(api.nginx.send("GET", mine, [acme])) == ["acme's own", "m"]
    assert api.nginx.send("DELETE", f"/rest/v1/notes?id=eq.{id_}", [acme]).status == 204


def test_a_revoked_key_is_refused_at_once(api: Api) -> None:
    text = api.secret["acme"]
    assert api.nginx.send("GET", "/rest/v1/notes", [key(text)]).status == 200
    api.known.change_key(text, closed=True)
    refused = api.nginx.send("GET", "/rest/v1/notes", [key(text)])
    unknown = api.nginx.send("GET", "/rest/v1/notes", [key("vbx_secret_" + "x" * 49)])
    assert (refused.status, refused.body) == (unknown.status, unknown.body)
    assert refused.status == 401
    assert refused.json["message"] == "Invalid API key"
    assert refused.headers["www-authenticate"] == 'Bearer realm="vaultbrix"'
    assert refused.headers["content-type"] == "application/json; charset=utf-8"


def test_roles_are_those_of_key_and_user(api: Api, database: Database, postgrest: PostgREST) -> None:
    publishable = key(api.publishable["acme"])
    target = "/rest/v1/notes?select=text&order=id&limit=1"
    assert api.nginx.send("GET", target, [publishable]).json["code"] == "42501"
    with database.login("tenant_acme") as session:
        session.execute("GRANT SELECT ON notes TO tenant_acme_authenticated")
    try:
        assert texts(api.nginx.send("GET", target, [publishable, user_header("acme")])) == ["acme's own"]
        assert api.nginx.send("GET", target, [publishable]).status == 403
        assert api.nginx.send("GET", target, [publishable, user_header("globex")]).status == 401
        assert api.nginx.send("GET", target, [publishable, user_header("acme", role="service_role")]).status == 403
        expired = api.nginx.send("GET", target, [publishable, user_header("acme", exp=int(time.time()) - 1)])
        assert (expired.status, expired.json["code"]) == (401, "PGRST301")
        assert 'error="invalid_token"' in expired.headers["www-authenticate"]
    finally:
        with database.login("tenant_acme") as session:
            session.execute("REVOKE SELECT ON notes FROM tenant_acme_authenticated")


def test_policies_know_who_asks(api: Api, database: Database, postgrest: PostgREST) -> None:
    with database.login("tenant_acme") as session:
        session.execute(
            "CREATE OR REPLACE FUNCTION who() RETURNS json LANGUAGE sql STABLE AS $$ SELECT json_build_object("
            "'uid', auth.uid(), 'email', auth.jwt() ->> 'email', 'role', auth.role(), 'as', current_user) $$"
        )
    postgrest.read_again()
    publishable, secret = key(api.publishable["acme"]), key(api.secret["acme"])
    uid, email = "11111111-1111-4111-8111-111111111111", "jane@example.com"
    jane = user_header("acme", sub=uid, email=email, vaultbrix_role="service_role")
    for headers, expected in (
        ([publishable], (None, None, "anon", "tenant_acme_anon")),
        ([publishable, jane], (uid, email, "authenticated", "tenant_acme_authenticated")),
        ([secret, jane], (uid, email, "authenticated", "tenant_acme_authenticated")),
        ([secret], (None, None, "service_role", "tenant_acme")),
    ):
        answer = api.nginx.send("GET", "/rest/v1/rpc/who", headers)
        assert tuple(answer.json[name] for name in ("uid", "email", "role", "as")) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [("Accept-Profile", "tenant_globex")],
        [("ACCEPT-PROFILE", "tenant_globex")],
        [("Accept-Profile", "tenant_acme"), ("accept-profile", "tenant_globex")],
        [("Content-Profile", "tenant_globex")],
        [("Accept-Profile", "tenant_nobody")],
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_profile_is_refused(api: Api, method: str, headers: list[tuple[str, str]]) -> None:
    answer = api.nginx.send(method, "/rest/v1/notes", [key(api.secret["acme"]), JSON, *headers], b"")
    assert (answer.status, answer.json["code"]) == (406, "PGRST106")
    assert b"globex" not in answer.body


def test_an_underscore_does_not_make_a_header(api: Api) -> None:
    headers = [key(api.secret["acme"]), ("Accept_Profile", "tenant_globex")]
    assert texts(api.nginx.send("GET", "/rest/v1/notes?select=text", headers)) == ["acme's own"]


def test_what_a_client_claims_of_itself_does_not_arrive(api: Api, database: Database, postgrest: PostgREST) -> None:
    with database.login("tenant_acme") as session:
        session.execute(
            "CREATE OR REPLACE FUNCTION told() RETURNS json LANGUAGE sql STABLE AS $$ SELECT json_build_object("
            "'headers', current_setting('request.headers')::json,"
            "'claims', current_setting('request.jwt.claims')::json, 'role', current_user) $$"
        )
    postgrest.read_again()
    forged = [
        ("X-Request-Id", "forged"), ("X-Vaultbrix-Tenant", "forged"), ("X-Vaultbrix-Key", "forged"),
        ("X-Vaultbrix-Path", "/forged"), ("X-Vaultbrix-Backend", "forged"), ("X-Forwarded-For", "192.0.2.66"),
        ("X-Forwarded-Uri", "/forged"), ("X-Forwarded-Method", "DELETE"), ("X-Forwarded-Host", f"globex.{DOMAIN}"),
        ("Forwarded", "for=192.0.2.66"), ("Cookie", "session=forged"), ("X-Mine", "kept"),
    ]  # fmt: skip
    answer = api.nginx.send("GET", "/rest/v1/rpc/told", [key(api.secret["acme"]), *forged])
    assert answer.status == 200, answer
    assert "forged" not in answer.body.decode()
    assert "192.0.2.66" not in answer.body.decode()
    assert api.secret["acme"] not in answer.body.decode()
    assert answer.json["role"] == "tenant_acme"
    assert answer.json["headers"]["x-mine"] == "kept"
    about = answer.json["claims"]["vaultbrix"]
    assert about == {
        "role": "tenant_acme",
        "tenant": "apps/acme",
        "key": "apps/acme-secret",
        "key_sha256": hashlib.sha256(api.secret["acme"].encode()).hexdigest()[:16],
        "subject": "",
        "client": "127.0.0.1",
        "request": answer.headers["x-request-id"],
    }


def test_location_leads_back_to_the_api(api: Api) -> None:
    acme = key(api.secret["acme"])
    headers = [acme, JSON, ("Prefer", "return=headers-only")]
    made = api.nginx.send("POST", "/rest/v1/notes", headers, b'{"text": "x"}')
    assert made.status == 201
    assert made.headers["location"].startswith("/rest/v1/notes?id=eq.")
    assert "content-profile" not in made.headers
    assert api.nginx.send("DELETE", made.headers["location"], [acme]).status == 204


def test_a_browser_may_ask_first_without_a_key(api: Api) -> None:
    asked = [
        ("Origin", "https://app.example.com"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "apikey,authorization,prefer"),
    ]
    answer = api.nginx.send("OPTIONS", "/rest/v1/notes", asked)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == "apikey,authorization,prefer"
    assert api.nginx.send("OPTIONS", "/rest/v1/notes").status == 401
    # A script can read why it was refused.
    assert api.nginx.send("GET", "/rest/v1/notes", asked[:1]).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404), ("/rest/v1/../../etc/passwd", 404), ("/rest/v1/../v1/notes", 400), ("/x/../rest/v1/notes", 404),
        ("/rest/v1/%2e%2e/notes", 404), ("/rest/v1/..%2fnotes", 404), ("/rest/v1/%252e%252e%252fnotes", 400),
        ("/rest/v1//notes", 404), ("/rest/v1/notes%00", 400), ("/rest/v1/notes%2Fx", 400), ("/%72est/v1/notes", 404),
        ("/rest/v1/rpc/pg_sleep", 404), ("/vaultbrix-authorize", 404), ("/rest/v1/pg_catalog.pg_authid", 404),
        ("/rest/v1/tenant_globex.notes", 404), (f"http://globex.{DOMAIN}/rest/v1/notes", 401),
        (f"http://{DOMAIN}/rest/v1/notes", 200), ("/rest/v1/notes?select=" + "a" * 20_000, 414),
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere(api: Api, target: str, status: int) -> None:
    answer = api.nginx.send("GET", target, [key(api.secret["acme"])])
    assert answer.status == status, answer
    # Beyond what the client named itself.
    assert b"globex" not in answer.body.replace(b"tenant_acme.tenant_globex.notes", b"")


def raw_request(api: Api, *lines: str, body: bytes = b"") -> bytes:
    head = [*lines, f"Host: {DOMAIN}", f"apikey: {api.secret['acme']}", "Connection: close"]
    return api.nginx.send_raw("\r\n".join([*head, "", ""]).encode("latin-1") + body)


def test_one_request_is_one_request(api: Api) -> None:
    hidden = f"GET /rest/v1/notes HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode()
    both = raw_request(
        api,
        "POST /rest/v1/notes HTTP/1.1",
        "Content-Length: 4",
        "Transfer-Encoding: chunked",
        body=b"0\r\n\r\n" + hidden,
    )
    assert both.startswith(b"HTTP/1.1 400")
    twice = raw_request(api, "POST /rest/v1/notes HTTP/1.1", "Content-Length: 0", "Content-Length: 40", body=hidden)
    assert twice.startswith(b"HTTP/1.1 400")
    coded = raw_request(api, "POST /rest/v1/notes HTTP/1.1", "Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + hidden)
    assert coded.startswith(b"HTTP/1.1 501")
    folded = raw_request(api, "GET /rest/v1/notes HTTP/1.1", "Accept-Profile: tenant_acme", " tenant_globex")
    assert folded.startswith(b"HTTP/1.1 400")
    bare = raw_request(api, "GET /rest/v1/notes HTTP/1.1", "X-A: a\nAccept-Profile: tenant_globex")
    assert bare.startswith(b"HTTP/1.1 406")
    assert all(answer.count(b"HTTP/1.1 ") == 1 for answer in (both, twice, coded, folded, bare))


def test_large_bodies_are_refused(api: Api) -> None:
    acme = key(api.secret["acme"])
    answer = api.nginx.send("POST", "/rest/v1/notes", [acme, JSON], b" " * 1_100_000)
    assert (answer.status, answer.json["code"]) == (413, "VBX413")
    announced = raw_request(api, "POST /rest/v1/notes HTTP/1.1", "Content-Length: 104857600")
    assert announced.startswith(b"HTTP/1.1 413")


def test_headers_of_a_tenants_function_steer_neither_nginx_nor_a_browser(
    api: Api, database: Database, postgrest: PostgREST
) -> None:
    with database.login("tenant_acme") as session:
        session.execute(
            "CREATE OR REPLACE FUNCTION steer() RETURNS text LANGUAGE sql AS $$ SELECT set_config('response.headers',"
            """ '[{"X-Accel-Redirect": "/vaultbrix-authorize"}, {"Set-Cookie": "a=b; Domain=example.com"},"""
            """ {"X-Request-Id": "forged"}, {"X-Kept": "yes"}]', true) $$"""
        )
    postgrest.read_again()
    answer = api.nginx.send("POST", "/rest/v1/rpc/steer", [key(api.secret["acme"]), JSON], b"{}")
    assert (answer.status, answer.headers["x-kept"]) == (200, "yes")
    assert not {"x-accel-redirect", "set-cookie", "authorization"} & set(answer.headers)
    assert "forged" not in str(answer.headers)


def test_without_the_authorizer_nothing_is_let_in(api: Api) -> None:
    api.authorizer.stop()
    try:
        answer = api.nginx.send("GET", "/rest/v1/notes", [key(api.secret["acme"])])
    finally:
        api.authorizer.start()
    assert (answer.status, answer.json["code"]) == (503, "VBX503")
    assert api.nginx.send("GET", "/rest/v1/notes", [key(api.secret["acme"])]).status == 200


def test_without_postgrest_the_answer_is_in_the_form_of_an_error(api: Api, postgrest: PostgREST) -> None:
    postgrest.stop()
    try:
        answer = api.nginx.send("GET", "/rest/v1/notes", [key(api.secret["acme"])])
    finally:
        postgrest.serve()
    assert (answer.status, answer.json["code"]) == (503, "VBX503")


def test_no_key_and_no_token_is_in_the_log_of_nginx(api: Api) -> None:
    text = api.secret["acme"]
    assert api.nginx.send("GET", f"/rest/v1/notes?apikey={text}").status == 200
    wrong = text[:-1] + "y"
    api.nginx.send("GET", f"/rest/v1/notes?apikey={wrong}")
    log = api.nginx.access_log() + api.nginx.error_log()
    assert text not in log
    assert wrong not in log
    last = [json.loads(line) for line in api.nginx.access_log().splitlines()][-2]
    assert (last["tenant"], last["key"], last["path"]) == ("apps/acme", "apps/acme-secret", "/rest/v1/notes")


def test_a_write_right_after_a_head_arrives(api: Api) -> None:
    """PostgREST closes the connection after it has answered a HEAD, and does not say so."""
    acme = key(api.secret["acme"])
    for number in range(50):
        assert api.nginx.send("HEAD", "/rest/v1/notes?id=eq.0", [acme]).status == 200
        assert api.nginx.send("DELETE", "/rest/v1/notes?id=eq.0", [acme]).status == 204, number
