"""Refused requests come on record once each, or as a number, at the server of their key; no key's text does."""

import asyncio
import json
from typing import Any

from tests.harness.known_keys import request

from vaultbrix.api.conditions import Reason
from vaultbrix.gateway import refusals
from vaultbrix.gateway.refusals import Refusal, Why
from vaultbrix.gateway.refused import MOST_WAITING, TOLD_PER_SECOND, Refused, entry_of
from vaultbrix.runtime.errors import Transient

UNKNOWN = refusals.bad_key(Why.KEY_UNKNOWN)
OURS = Refusal(
    Why.KEY_CLOSED, 401, "VBX401", "Invalid API key",
    key=("team", "web"), key_sha256="0123456789abcdef", tenant=("team", "acme"),
)  # fmt: skip


class Servers:
    """Two servers, and what was written to each; ``away`` names those that cannot be reached."""

    def __init__(self) -> None:
        self.written: dict[str, list[dict[str, Any]]] = {"one": [], "two": []}
        self.away: set[str] = set()
        self.second = 0.0
        self.refused = Refused(lambda: self.written, self._server_of, self._note, clock=lambda: self.second)

    def _server_of(self, refusal: Refusal) -> str | None:
        return "two" if refusal.tenant == ("team", "acme") else None

    async def _note(self, server: str, entries: str) -> None:
        await asyncio.sleep(0)
        if server in self.away:
            raise Transient(Reason.UNREACHABLE, "away")
        self.written[server] += json.loads(entries)

    def write(self) -> bool:
        return asyncio.run(self.refused.write())

    def counts(self, server: str) -> int:
        """How many refusals are on record, one by one or by their number."""
        return sum(entry.get("count", 1) for entry in self.written[server])


def test_a_refusal_is_told_where_its_key_is_and_everywhere_when_nobody_knows_it() -> None:
    servers = Servers()
    servers.refused(OURS, request())
    servers.refused(UNKNOWN, request())
    assert servers.write()
    assert [entry["why"] for entry in servers.written["two"]] == ["KeyClosed", "KeyUnknown"]
    assert [entry["why"] for entry in servers.written["one"]] == ["KeyUnknown"]
    assert servers.write()
    assert servers.counts("two") == 2


def test_nothing_of_key_query_or_token_is_told() -> None:
    headers = (("apikey", "vbx_secret_x"), ("Authorization", "Bearer token"))
    told = entry_of(OURS, request("/rest/v1/notes?apikey=vbx_secret_x&a=eq.private", *headers))
    assert not any(text in json.dumps(told) for text in ("vbx_secret", "private", "token"))
    assert (told["path"], told["key"], told["tenant"]) == ("/rest/v1/notes", "team/web", "team/acme")
    assert told["key_sha256"] == "0123456789abcdef"


def test_a_flood_is_told_by_its_number() -> None:
    servers = Servers()
    for _ in range(1000):
        servers.refused(UNKNOWN, request())
    assert servers.write()
    assert len(servers.written["one"]) == TOLD_PER_SECOND
    servers.second = 1.0
    servers.refused(UNKNOWN, request())
    assert servers.write()
    assert len(servers.written["one"]) == TOLD_PER_SECOND + 2
    assert servers.counts("one") == 1001


def test_what_cannot_be_written_waits_in_order_and_is_counted_where_it_is_too_much() -> None:
    servers = Servers()
    servers.away.add("one")
    for number in range(MOST_WAITING + 5):
        servers.second = float(number)
        servers.refused(UNKNOWN, request(f"/rest/v1/t{number}"))
    assert not servers.write()
    assert servers.counts("two") == MOST_WAITING + 5
    servers.away.clear()
    assert servers.write()
    assert servers.written["one"][0] == {"why": "LeftOut", "count": 5}
    paths = [entry["path"] for entry in servers.written["one"][1:]]
    assert (len(paths), paths[0], paths[-1]) == (MOST_WAITING, "/rest/v1/t5", f"/rest/v1/t{MOST_WAITING + 4}")


def test_what_no_database_takes_holds_up_nothing() -> None:
    told = entry_of(UNKNOWN, request("/rest/v1/\x00\x1b[2J", method="G\x00T", host="a\x00b"))
    assert (told["path"], told["method"], told["host"]) == ("/rest/v1/??[2J", "G?T", "a?b")
