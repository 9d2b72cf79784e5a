"""supabase-js and postgrest-py work unchanged: another address and another key are all that an application needs."""

import re
from typing import Any

import pytest
from tests.harness.api_clients import NAMES, call, knows
from tests.harness.database import Database
from tests.harness.gateway import Api
from tests.harness.known_keys import DOMAIN, user_header

# What each call gives.
DATA: dict[str, Any] = {
    "eq": [{"id": 4}],
    "quoted": [{"id": 5}],
    "in": [{"id": 2}, {"id": 3}],
    "like": [{"id": 4}],
    "is": [{"id": 5}],
    "or": [{"id": 3}, {"id": 4}],
    "contains": [{"id": 2}, {"id": 4}],
    "search": [{"id": 1}],
    "range": [{"id": 2}, {"id": 3}],
    "order": [{"id": 6}, {"id": 3}, {"id": 2}],
    "embedded": [
        {"title": "Cléo de 5 à 7", "roles": [{"character": "Cléo", "actors": {"last_name": "Marchand"}}]},
    ],
    "inner": [
        {"id": 2, "actors": [{"last_name": "Nakadai"}]},
        {"id": 4, "actors": [{"last_name": "Nakadai"}]},
    ],
    "json": [{"runtime": 90}],
    "count": [{"id": 1}],
    "head": None,
    "single": {"id": 1},
    "maybe_single": None,
    "csv": "id,year\n1,1962\n2,1985",
    "insert": [{"a": 7, "b": 1, "value": "ü"}, {"a": 7, "b": 2, "value": None}],
    "rpc": 5,
    "rpc_of_rows": [{"id": 3}],
    "diary": [{"text": "of jane"}, {"text": "of joe"}],
}
OF_ONE_CLIENT: dict[str, dict[str, Any]] = {
    "supabase-js": {"upsert": {"value": "new"}, "update": [{"value": "changed"}], "delete": None},
    # It asks for the rows that it writes.
    "postgrest-py": {
        "upsert": [{"a": 7, "b": 1, "value": "new"}],
        "update": [{"a": 7, "b": 2, "value": "changed"}],
        "delete": [{"a": 7, "b": 1, "value": "new"}, {"a": 7, "b": 2, "value": "changed"}],
    },
}
COUNTS = {"count": 3, "head": 3, "delete": 2}
ERRORS = {
    "single_of_none": ("PGRST116", "JSON object requested, multiple (or no) rows returned"),
    "insert_again": ("23505", 'duplicate key value violates unique constraint "pairs_pkey"'),
    "rpc_that_fails": ("PT402", "Payment required"),
    "no_such_table": ("42P01", 'relation "tenant_acme.nothing" does not exist'),
}


def errors(given: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    """Codes and messages; empty ones of a call that did not fail."""
    return {(one["error"]["code"], one["error"]["message"]) if one["error"] else ("", "") for one in given.values()}


@pytest.mark.parametrize("host", [DOMAIN, f"acme.{DOMAIN}"])
@pytest.mark.parametrize("client", NAMES)
def test_each_call_gives_what_the_client_promises(client: str, host: str, api: Api) -> None:
    names = [name for name in knows(client) if name != "write_diary"]
    given = call(client, api, api.secret["acme"], names, host=host)
    assert list(given) == names
    for name, one in given.items():
        if name in ERRORS:
            assert (one["error"]["code"], one["error"]["message"]) == ERRORS[name], name
            continue
        assert one["error"] is None, (name, one)
        assert one["data"] == {**DATA, **OF_ONE_CLIENT[client]}[name], name
        assert one["count"] == COUNTS.get(name), name


@pytest.mark.parametrize("client", NAMES)
def test_a_publishable_key_gives_what_anybody_may(client: str, api: Api) -> None:
    given = call(client, api, api.publishable["acme"], ["eq", "diary", "insert"])
    assert given["eq"]["data"] == [{"id": 4}]
    assert given["diary"]["error"] == {"code": "42501", "message": "permission denied for table diary"}
    assert given["insert"]["error"] == {"code": "42501", "message": "permission denied for table pairs"}


@pytest.mark.parametrize("client", NAMES)
def test_a_user_who_is_logged_in_sees_their_own_rows(client: str, api: Api) -> None:
    for key in (api.publishable["acme"], api.secret["acme"]):
        token = user_header("acme", sub="jane")[1].removeprefix("Bearer ")
        given = call(client, api, key, ["diary", "write_diary"], token=token)
        assert given["diary"]["data"] == [{"text": "of jane"}]
        assert given["write_diary"]["error"] == {
            "code": "42501",
            "message": 'new row violates row-level security policy for table "diary"',
        }


@pytest.mark.parametrize("client", NAMES)
def test_what_is_wrong_is_told_as_an_error_of_the_client(client: str, api: Api, database: Database) -> None:
    acme, names = api.secret["acme"], ["eq", "insert", "rpc"]
    bad_key = {("VBX401", "Invalid API key")}
    assert errors(call(client, api, acme[:-1] + "y", names)) == bad_key
    assert errors(call(client, api, acme, names, host=f"globex.{DOMAIN}")) == bad_key
    others = user_header("globex")[1].removeprefix("Bearer ")
    assert errors(call(client, api, acme, names, token=others)) == {("PGRST301", "JWT has no valid signature")}
    expired = user_header("acme", exp=1)[1].removeprefix("Bearer ")
    assert errors(call(client, api, acme, names, token=expired)) == {("PGRST301", "JWT expired")}
    api.known.change_key(acme, closed=True)
    assert errors(call(client, api, acme, names)) == bad_key
    assert database.postgres.query("SELECT FROM tenant_acme.pairs WHERE a = 7") == []


POWER_BI = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": "Microsoft.Data.Mashup (https://go.microsoft.com/fwlink/?LinkID=304225)",
}
INFINITY = {"Accept": "application/json;q=0.9,text/plain", "User-Agent": "Grafana/12.0", "Accept-Encoding": "gzip"}


@pytest.mark.parametrize("tool", [POWER_BI, INFINITY], ids=["Power BI", "Grafana Infinity"])
@pytest.mark.parametrize("in_query", [False, True], ids=["key in a header", "key in the query"])
def test_a_tool_for_reports_reads_page_by_page(api: Api, tool: dict[str, str], in_query: bool) -> None:
    key = api.secret["acme"]
    headers = tool if in_query else {**tool, "apikey": key}
    more = f"&apikey={key}" if in_query else ""
    read: list[int] = []
    while True:
        page = f"/rest/v1/numbers?select=n&order=n&limit=500&offset={len(read)}{more}"
        rows = [row["n"] for row in api.nginx.send("GET", page, headers).json]
        read += rows
        if len(rows) < 500:
            break
    assert read == list(range(1, 1201))


def test_a_tool_may_page_by_range_and_know_how_much_there_is(api: Api) -> None:
    headers = {**INFINITY, "apikey": api.secret["acme"], "Prefer": "count=exact"}
    read, total = 0, 1
    while read < total:
        span = {"Range-Unit": "items", "Range": f"{read}-{read + 499}"}
        answer = api.nginx.send("GET", "/rest/v1/numbers?select=n&order=n", {**headers, **span})
        first, last, total = map(int, re.findall(r"\d+", answer.headers["content-range"]))
        assert (answer.status, first, [row["n"] for row in answer.json]) == (
            206,
            read,
            list(range(first + 1, last + 2)),
        )
        read = last + 1
    assert total == 1200


def test_an_answer_has_no_more_rows_than_the_tenant_says(api: Api) -> None:
    answer = api.nginx.send("GET", "/rest/v1/numbers", {"apikey": api.secret["acme"]})
    assert len(answer.json) == 1000
