"""The description of the API: of one tenant, for the role of the key that asks, with an address that works."""

from typing import Any

import pytest
from tests.harness.database import Database
from tests.harness.gateway import Api
from tests.harness.http_messages import Answer
from tests.harness.known_keys import user_header
from tests.harness.postgrest import PostgREST

JSON = ("Content-Type", "application/json")
# What films.py grants.
TABLES_OF_ANON = {"films", "directors", "roles", "actors"}
TABLES_OF_AUTHENTICATED = TABLES_OF_ANON | {"counters", "diary"}


def described(api: Api, *headers: tuple[str, str]) -> Answer:
    answer = api.nginx.send("GET", "/rest/v1/", headers)
    assert (answer.status, answer.json["swagger"]) == (200, "2.0"), answer
    assert answer.headers["content-type"] == "application/openapi+json; charset=utf-8"
    return answer


def tables(document: Any) -> set[str]:
    found = {path.removeprefix("/") for path in document["paths"] if path != "/" and not path.startswith("/rpc/")}
    assert set(document.get("definitions", {})) == found
    return found


def test_it_names_the_address_at_which_requests_with_the_same_key_are_answered(api: Api) -> None:
    key = ("apikey", api.secret["acme"])
    document = described(api, key).json
    # TLS ends before or at nginx; the document is fetched by the name that it gives.
    assert document["schemes"] == ["https"]
    for method, path in (("get", "/notes"), ("post", "/notes"), ("post", "/rpc/add")):
        assert method in document["paths"][path]
    target, host = document["basePath"], document["host"]
    assert api.nginx.send("GET", f"{target}/notes?select=text&limit=1", [key], host=host).json == [
        {"text": "acme's own"}
    ]
    assert api.nginx.send("POST", f"{target}/rpc/add", [key, JSON], b'{"a": 1, "b": 2}', host=host).json == 3
    # The host is everybody's: it is good for any tenant's key.
    assert api.nginx.send("GET", f"{target}/", [("apikey", api.secret["globex"])], host=host).status == 200


def test_each_key_is_told_what_its_role_may_ask_for(api: Api) -> None:
    publishable = ("apikey", api.publishable["acme"])
    assert tables(described(api, publishable).json) == TABLES_OF_ANON
    assert tables(described(api, publishable, user_header("acme")).json) == TABLES_OF_AUTHENTICATED
    owner = described(api, ("apikey", api.secret["acme"])).json
    assert tables(owner) > TABLES_OF_AUTHENTICATED | {"notes"}
    # EXECUTE on it was taken from PUBLIC.
    assert "/rpc/add" in owner["paths"]
    assert "/rpc/add" not in described(api, publishable).json["paths"]


def test_a_function_is_told_to_who_may_execute_it_also_without_the_schema(api: Api, database: Database) -> None:
    publishable = ("apikey", api.publishable["acme"])
    with database.login("tenant_acme") as session:
        session.execute("REVOKE USAGE ON SCHEMA tenant_acme FROM tenant_acme_anon")
        try:
            paths = described(api, publishable).json["paths"]
        finally:
            session.execute("GRANT USAGE ON SCHEMA tenant_acme TO tenant_acme_anon")
    assert "/rpc/films_since" in paths
    assert "/rpc/add" not in paths


@pytest.mark.parametrize(("slug", "other"), [("acme", "globex"), ("globex", "acme")])
def test_nothing_of_another_tenant_or_of_the_servers_own_is_in_it(api: Api, slug: str, other: str) -> None:
    publishable = ("apikey", api.publishable[slug])
    for headers in ([("apikey", api.secret[slug])], [publishable], [publishable, user_header(slug)]):
        text = described(api, *headers).body.decode()
        assert other not in text
        assert "pre_request" not in text
        # The key is what lets a client in; PostgREST can only name a token in Authorization, which alone opens nothing.
        assert "security" not in text


def test_what_the_tenant_writes_of_its_schema_and_tables_is_in_it(
    api: Api, database: Database, postgrest: PostgREST
) -> None:
    with database.login("tenant_acme") as session:
        session.execute("COMMENT ON SCHEMA tenant_acme IS E'The shop\\nOrders and stock'")
        session.execute("COMMENT ON TABLE notes IS 'What was said'")
    postgrest.read_again()
    document = described(api, ("apikey", api.secret["acme"])).json
    assert (document["info"]["title"], document["info"]["description"]) == ("The shop", "Orders and stock")
    assert document["definitions"]["notes"]["description"] == "What was said"
