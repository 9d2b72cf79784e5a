"""postgrest-py as an application uses it. Standard input says where, with which key and which calls; what each of them
has given goes to standard output."""

import json
import sys
from collections.abc import Callable
from typing import Any

from httpx import Client
from postgrest import APIError, CountMethod, SyncPostgrestClient

asked = json.load(sys.stdin)
headers = {"apikey": asked["key"], "Authorization": f"Bearer {asked['token'] or asked['key']}"}
# No server knows the names of the tests' hosts.
connection = Client(base_url=asked["address"], headers={**headers, "Host": asked["host"]})
client = SyncPostgrestClient(asked["address"], headers=headers, http_client=connection)


def films() -> Any:
    return client.from_("films")


def pairs() -> Any:
    return client.from_("pairs")


CALLS: dict[str, Callable[[], Any]] = {
    "eq": lambda: films().select("id").eq("title", "Seven Samurai"),
    "quoted": lambda: films().select("id").eq("title", 'A "quoted", (odd) title: 100%_\\*'),
    "in": lambda: films().select("id").in_("title", ["Ran", "花樣年華"]).order("id"),
    "like": lambda: films().select("id").like("title", "S%"),
    "is": lambda: films().select("id").is_("year", None).order("id"),
    "or": lambda: films().select("id").or_("year.lt.1960,and(mood.eq.calm,rating.gt.8)").order("id"),
    "contains": lambda: films().select("id").contains("tags", ["war"]).order("id"),
    "range": lambda: films().select("id").order("id").range(1, 2),
    "order": lambda: films().select("id").order("year", desc=True, nullsfirst=False).limit(3),
    "embedded": lambda: films().select("title, roles(character, actors(last_name))").eq("id", 1),
    "inner": lambda: films().select("id, actors!inner(last_name)").eq("actors.last_name", "Nakadai").order("id"),
    "json": lambda: films().select("runtime:details->runtime").eq("id", 1),
    "count": lambda: films().select("id", count=CountMethod.exact).in_("id", [1, 2, 3]).order("id").limit(1),
    "single": lambda: films().select("id").eq("id", 1).single(),
    "single_of_none": lambda: films().select("id").eq("id", 1000).single(),
    "csv": lambda: films().select("id,year").in_("id", [1, 2]).order("id").csv(),
    "insert": lambda: pairs().insert([{"a": 7, "b": 1, "value": "ü"}, {"a": 7, "b": 2, "value": None}]),
    "insert_again": lambda: pairs().insert({"a": 7, "b": 1}),
    "upsert": lambda: pairs().upsert({"a": 7, "b": 1, "value": "new"}, on_conflict="a,b"),
    "update": lambda: pairs().update({"value": "changed"}).eq("a", 7).eq("b", 2),
    "delete": lambda: pairs().delete(count=CountMethod.exact).eq("a", 7),
    "rpc": lambda: client.rpc("add", {"a": 2, "b": 3}),
    "rpc_that_fails": lambda: client.rpc("fail", {"code": "PT402", "message": "Payment required"}),
    "no_such_table": lambda: client.from_("nothing").select("*"),
    "diary": lambda: client.from_("diary").select("text").order("id"),
    "write_diary": lambda: client.from_("diary").insert({"id": 30, "owner": "joe"}),
}


def call(name: str) -> dict[str, Any]:
    try:
        answer = CALLS[name]().execute()
    except APIError as error:
        return {"data": None, "count": None, "error": {"code": error.code, "message": error.message}}
    return {"data": answer.data, "count": answer.count, "error": None}


print(json.dumps({name: call(name) for name in asked["names"]}))
