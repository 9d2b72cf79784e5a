"""What the authorizer answers to each kind of proxy, and that it lets nobody in when anything is wrong."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.harness.known_keys import DOMAIN, NOW, OTHER_RSA_KEY, RSA_KEY, KnownInMemory, jwks, user_token

from vaultbrix.gateway import jwt
from vaultbrix.gateway.app import Authorizer, SeenTokens
from vaultbrix.gateway.decisions import Settings
from vaultbrix.gateway.jwt import TokenExpired, TokenRefused, Users, keys_of_jwks, secret_key
from vaultbrix.gateway.known import ObjectKey
from vaultbrix.gateway.limits import Limits
from vaultbrix.gateway.refusals import Refusal
from vaultbrix.gateway.request import Request

SETTINGS = Settings(DOMAIN, bytes(range(32)))
REQUEST_ID = "0123456789abcdef0123456789abcdef"
FORWARDED = {
    "x-forwarded-method": "GET",
    "x-forwarded-uri": "/rest/v1/notes?a=eq.1",
    "x-forwarded-host": DOMAIN,
    "x-forwarded-for": "203.0.113.7",
    "x-request-id": REQUEST_ID,
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class World:
    """An authorizer with one tenant and one key; ``told`` is what is sent unless a test says otherwise."""

    def __init__(self, **options: Any) -> None:
        self.known = KnownInMemory()
        self.known.add_tenant("acme")
        self.key = self.known.add_key("acme")
        self.now = NOW
        self.metrics = CollectorRegistry()
        self.authorizer = Authorizer(self.known, SETTINGS, self.clock, metrics=self.metrics, **options)

    def clock(self) -> datetime:
        return self.now

    def ask(
        self, path: str = "/nginx", *more: tuple[str, str], method: str = "GET", raw_path: str = "", **told: str | None
    ) -> Answer:
        named = {**FORWARDED, "apikey": self.key, **{name.replace("_", "-"): value for name, value in told.items()}}
        headers = [(name, value) for name, value in named.items() if value is not None] + list(more)
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": (raw_path or path).encode("latin-1"),
            "query_string": b"", "headers": [(n.encode(), v.encode("latin-1")) for n, v in headers],
        }  # fmt: skip
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("no body is read")

        asyncio.run(self.authorizer(scope, receive, send))
        start, body = sent
        return Answer(start["status"], {n.decode(): v.decode() for n, v in start["headers"]}, body["body"])

    def outcome(self, name: str) -> float | None:
        return self.metrics.get_sample_value("vaultbrix_gateway_requests_total", {"outcome": name})


def test_nginx_is_told_in_headers_alone() -> None:
    world = World()
    answer = world.ask()
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["x-vaultbrix-path"] == "/notes?a=eq.1"
    assert answer.headers["x-request-id"] == REQUEST_ID
    refused = world.ask(apikey="unknown")
    assert (refused.status, refused.body, refused.headers["x-vaultbrix-status"]) == (403, b"", "401")
    assert json.loads(refused.headers["x-vaultbrix-body"])["message"] == "Invalid API key"
    assert refused.headers["x-vaultbrix-challenge"].startswith("Bearer ")
    assert (world.outcome("Allowed"), world.outcome("KeyUnknown")) == (1, 1)


def test_other_proxies_are_given_the_clients_answer() -> None:
    refused = World().ask("/forward", apikey="unknown")
    assert (refused.status, json.loads(refused.body)["message"]) == (401, "Invalid API key")
    assert refused.headers["content-type"] == "application/json; charset=utf-8"
    assert refused.headers["www-authenticate"].startswith("Bearer ")
    assert re.fullmatch("[0-9a-f]{32}", refused.headers["x-request-id"])


def test_a_request_is_numbered_here_unless_nginx_does() -> None:
    world = World()
    assert world.ask("/forward").headers["x-request-id"] != REQUEST_ID
    for number in ("", "short", REQUEST_ID.upper(), REQUEST_ID + "\n", None):
        assert world.ask(x_request_id=number).headers["x-vaultbrix-status"] == "400"


def test_envoy_sends_the_request_itself() -> None:
    world = World()
    answer = world.ask(
        "/envoy/rest/v1/my table", raw_path="/envoy/rest/v1/my%20table", host=DOMAIN, x_forwarded_uri="/rest/v1/forged"
    )
    assert (answer.status, answer.headers["x-vaultbrix-path"]) == (200, "/my%20table")
    assert world.ask("/envoy/rest/v1/u", method="TRACE", host=DOMAIN).status == 405


@pytest.mark.parametrize("name", ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-request-id"])
@pytest.mark.parametrize("path", ["/nginx", "/forward"])
def test_what_the_proxy_says_is_said_once(path: str, name: str) -> None:
    world = World()
    for answer in (world.ask(path, (name, FORWARDED[name])), world.ask(path, **{name: None})):
        if (path, name) == ("/forward", "x-request-id"):
            assert answer.status == 200
        else:
            assert answer.status in {400, 403, 404, 405}


@pytest.mark.parametrize("path", ["/", "/authorize", "/envoy", "/nginx/", "/NGINX", "/forward/x"])
def test_other_paths_let_nobody_in(path: str) -> None:
    assert World().ask(path).status == 404


def test_the_client_is_where_the_trusted_proxies_were_called_from() -> None:
    world = World(trusted_hops=2)
    world.known.change_key(world.key, allowed_cidrs=("203.0.113.0/24",))
    assert world.ask(x_forwarded_for="192.0.2.1, 203.0.113.9, 10.0.0.1").status == 200
    assert world.ask(x_forwarded_for="203.0.113.9, 192.0.2.1, 10.0.0.1").headers["x-vaultbrix-status"] == "401"
    assert world.ask("/nginx", ("x-forwarded-for", "10.0.0.1"), x_forwarded_for="203.0.113.9").status == 200
    for bad in ("203.0.113.9", "", "x, 10.0.0.1", None):
        assert world.ask(x_forwarded_for=bad).headers["x-vaultbrix-status"] == "400"


def test_an_error_of_ours_lets_nobody_in() -> None:
    world = World()
    world.known.key = None  # type: ignore[assignment,method-assign]  # whatever may be wrong
    # With 503 itself, upon which nginx asks another replica.
    assert (world.ask().status, world.ask("/forward").status) == (403, 503)


def test_nobody_is_let_in_before_everything_is_known() -> None:
    world = World(ready=lambda: False)
    assert (world.ask().status, world.ask("/forward").status) == (403, 503)


def test_a_tenant_whose_postgrest_does_not_run_is_told_to_wait() -> None:
    async def nothing_runs(_: ObjectKey) -> bool:
        return False

    answer = World(serve=nothing_runs).ask()
    assert (answer.status, answer.headers["x-vaultbrix-status"]) == (403, "503")


def test_a_key_has_its_limit() -> None:
    world = World(limits=Limits(rate=0.001, burst=2))
    assert [world.ask("/forward").status for _ in range(3)] == [200, 200, 429]
    other = world.known.add_key("acme", name=("apps", "other"))
    assert world.ask("/forward", apikey=other).status == 200


def test_the_last_use_of_a_key_is_known() -> None:
    world = World()
    world.ask(apikey="unknown")
    assert world.authorizer.used == {}
    world.ask()
    world.now += timedelta(seconds=5)
    world.ask()
    assert world.authorizer.used == {("apps", "acme-publishable"): NOW + timedelta(seconds=5)}


def test_keys_of_users_are_read_again_when_none_fits() -> None:
    asked: list[str] = []

    async def refresh(source: str) -> bool:
        asked.append(source)
        world.known.add_tenant("acme", users=Users(keys_of_jwks(jwks(RSA_KEY, OTHER_RSA_KEY)), source=source))
        return len(asked) == 1

    world = World(refresh=refresh)
    for keys in ((), keys_of_jwks(jwks(RSA_KEY))):
        world.known.add_tenant("acme", users=Users(keys, source="https://id.example/jwks"))
        asked.clear()
        token = user_token(OTHER_RSA_KEY, algorithm="RS256", header={"kid": "k1"})
        assert world.ask("/forward", ("authorization", f"Bearer {token}")).status == 200
        assert asked == ["https://id.example/jwks"]
    unknown = user_token(OTHER_RSA_KEY, algorithm="RS256", header={"kid": "k7"})
    assert world.ask("/forward", ("authorization", f"Bearer {unknown}")).status == 401
    # A token that no key would verify asks nobody.
    asked.clear()
    assert world.ask("/forward", ("authorization", "Bearer x")).status == 401
    assert asked == []


def test_a_token_that_was_seen_is_good_only_for_its_keys_and_in_its_time() -> None:
    seen, token = SeenTokens(), user_token(secret := b"x" * 32, exp=int(NOW.timestamp()) + 10)
    users = Users((secret_key(secret),))
    assert seen.verify(token, users, NOW) == seen.verify(token, users, NOW) == jwt.verify(token, users, NOW)
    with pytest.raises(TokenExpired):
        seen.verify(token, users, NOW + timedelta(seconds=10))
    for others in (Users((secret_key(b"y" * 32),)), Users(users.keys, issuer="https://id.example"), Users(())):
        with pytest.raises(TokenRefused):
            seen.verify(token, others, NOW)


def test_each_refusal_is_told_once_with_its_request() -> None:
    told: list[tuple[Refusal, Request | None]] = []
    world = World(refused=lambda refusal, request: told.append((refusal, request)))
    world.ask(apikey="unknown")
    world.ask(x_request_id="no number")
    world.ask()
    assert [(str(refusal.why), request is not None) for refusal, request in told] == [
        ("KeyUnknown", True),
        ("Malformed", False),
    ]
    assert world.outcome("KeyUnknown") == 1
