"""The authorizer as an ASGI application: asked by the proxy in front about each request, before that goes on.

How a proxy asks is told by the path that it calls, which its own configuration fixes and no client can choose:

``/nginx``     for ``auth_request``. The request is in X-Forwarded-Method, -Uri, -Host and -For and in X-Request-Id, all
               written by nginx. nginx takes 200, 401 and 403 alone and no body, so a refusal is 403 with its true
               status, body and challenge in headers.
``/forward``   for Traefik's ForwardAuth and Caddy's forward_auth. The same headers; a refusal is the client's answer.
``/envoy/...`` for Envoy's ext_authz over HTTP with that prefix: method and target are the request's own.

Whatever goes wrong, the request is not let in.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import uuid4

import structlog
from prometheus_client import CollectorRegistry, Counter

from vaultbrix.gateway import jwt, refusals
from vaultbrix.gateway.decisions import Allowed, Settings, decide
from vaultbrix.gateway.jwt import Claims, TokenKeyUnknown, Users
from vaultbrix.gateway.known import Known, KnownKey, ObjectKey
from vaultbrix.gateway.limits import Limits
from vaultbrix.gateway.refusals import Refusal
from vaultbrix.gateway.request import Request
from vaultbrix.runtime.addresses import parse_address

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

ENVOY = "/envoy"
_REQUEST_ID = re.compile(r"[0-9a-f]{32}")
_MOST_TOKENS = 4096
# The same clients come again and again.
_address = lru_cache(maxsize=4096)(parse_address)


class SeenTokens:
    """Verifies users' tokens, and remembers those that were good: a signature is checked once."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, tuple[Users, Claims]] = OrderedDict()

    def verify(self, token: str, users: Users, now: datetime) -> Claims:
        """As ``jwt.verify``. A token is good only with the keys that it was checked with, and only in its time."""
        digest = hashlib.sha256(token.encode()).digest()
        seen = self._seen.get(digest)
        if seen is not None and seen[0] == users:
            jwt.check_time(seen[1], now)
            return seen[1]
        claims = jwt.verify(token, users, now)
        self._seen[digest] = (users, claims)
        if len(self._seen) > _MOST_TOKENS:
            self._seen.popitem(last=False)
        return claims


class Authorizer:
    """Decides on each request from what is known at that moment.

    ``clock`` is the time by which keys end. ``refresh`` reads the keys of a tenant's users again from their source,
    unless that was done lately, and says whether there are others now. ``serve`` has a tenant's PostgREST answer, and
    says whether it does. ``refused`` is told each refusal, with the request as far as it could be read.
    ``trusted_hops`` is how many proxies in a row write X-Forwarded-For; the client is where the first of them was
    called from. ``used`` holds when each key was last let in.
    """

    def __init__(
        self,
        known: Known,
        settings: Settings,
        clock: Callable[[], datetime],
        *,
        ready: Callable[[], bool] = lambda: True,
        refresh: Callable[[str], Awaitable[bool]] | None = None,
        serve: Callable[[ObjectKey], Awaitable[bool]] | None = None,
        refused: Callable[[Refusal, Request | None], None] | None = None,
        limits: Limits[ObjectKey] | None = None,
        trusted_hops: int = 1,
        metrics: CollectorRegistry | None = None,
    ) -> None:
        self._known = known
        self._settings = settings
        self._clock = clock
        self._ready = ready
        self._refresh = refresh
        self._serve = serve
        self._limits: Limits[ObjectKey] = limits or Limits(0, 0)
        self._hops = trusted_hops
        self._tokens = SeenTokens()
        self._refused = refused or (lambda refusal, request: None)
        self._outcomes = Counter(
            "vaultbrix_gateway_requests", "Requests decided on, by outcome.", ["outcome"], registry=metrics
        )
        self._allowed = self._outcomes.labels("Allowed")
        self.used: dict[ObjectKey, datetime] = {}

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Answer one call of a proxy."""
        if scope["type"] != "http":
            return
        nginx = scope["path"] == "/nginx"
        try:
            request = self._read(scope)
            decision = request if isinstance(request, Refusal) else await self._decide(request)
        except Exception:
            log.exception("unexpected error")
            request, decision = None, refusals.unavailable()
        if isinstance(decision, Allowed):
            self._allowed.inc()
            self.used[decision.key.name] = self._clock()
            await _answer(send, 200, decision.headers)
            return
        self._outcomes.labels(str(decision.why)).inc()
        self._refused(decision, request if isinstance(request, Request) else None)
        number = request.request_id if isinstance(request, Request) else ""
        status, headers, body = _refused(decision, number, nginx=nginx)
        await _answer(send, status, headers, body)

    async def _decide(self, request: Request) -> Allowed | Refusal:
        if not self._ready():
            return refusals.unavailable()
        sources: list[str] = []

        def verify(token: str, users: Users, now: datetime) -> Claims:
            try:
                return self._tokens.verify(token, users, now)
            except TokenKeyUnknown:
                if users.source:
                    sources.append(users.source)
                raise

        def once(seconds_to_wait: Callable[[KnownKey], float]) -> Allowed | Refusal:
            now = self._clock()
            return decide(request, self._known, now, self._settings, verify=verify, seconds_to_wait=seconds_to_wait)

        decision = once(lambda key: self._limits.seconds_to_wait(key.name, time.monotonic()))
        if sources and self._refresh is not None and await self._refresh(sources[0]):
            # It was counted already.
            decision = once(lambda _: 0.0)
        if isinstance(decision, Allowed) and self._serve is not None and not await self._serve(decision.key.tenant):
            return refusals.not_running()
        return decision

    def _read(self, scope: Scope) -> Request | Refusal:
        """The client's request as the proxy tells of it."""
        headers: list[tuple[str, str]] = []
        told: dict[str, list[str]] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers.append((name, value))
            told.setdefault(name, []).append(value)
        path: str = scope["path"]
        if path.startswith(ENVOY + "/"):
            query = scope["query_string"].decode("latin-1")
            target = scope["raw_path"].decode("latin-1").removeprefix(ENVOY) + (f"?{query}" if query else "")
            method, host = scope["method"], _one(told, "host")
        elif path in ("/nginx", "/forward"):
            method, target = _one(told, "x-forwarded-method"), _one(told, "x-forwarded-uri")
            host = _one(told, "x-forwarded-host")
        else:
            return refusals.not_found()
        addresses = [part.strip() for value in told.get("x-forwarded-for", ()) for part in value.split(",")]
        try:
            client = _address(addresses[-self._hops])
        except (ValueError, IndexError):
            return refusals.malformed("The proxy does not say where the request comes from")
        request_id = _one(told, "x-request-id") if path == "/nginx" else uuid4().hex
        if not _REQUEST_ID.fullmatch(request_id):
            return refusals.malformed("The proxy has not numbered the request")
        return Request(method, target, host, tuple(headers), client, request_id)


def _one(told: Mapping[str, list[str]], name: str) -> str:
    """The value of a header that a proxy writes; empty, which nothing accepts, unless it is there once."""
    values = told.get(name, [])
    return values[0] if len(values) == 1 else ""


def _refused(refusal: Refusal, request_id: str, *, nginx: bool) -> tuple[int, dict[str, str], bytes]:
    challenge = {"WWW-Authenticate": refusal.challenge} if refusal.challenge else {}
    retry = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
    if nginx:
        told = {"X-Vaultbrix-Status": str(refusal.status), "X-Vaultbrix-Body": refusal.body.decode()}
        if challenge:
            told["X-Vaultbrix-Challenge"] = refusal.challenge
        return 403, {**told, **retry}, b""
    headers = {"Content-Type": "application/json; charset=utf-8", "Access-Control-Allow-Origin": "*"}
    number = {"X-Request-Id": request_id} if request_id else {}
    return refusal.status, {**headers, **number, **challenge, **retry}, refusal.body


async def _answer(send: Send, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
