"""Reads, writes and watches objects of the Kubernetes API, which are plain dicts here.

Uses the transport of the client library. Writes are server-side apply wherever an object has several owners, so that
each keeps its own fields.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client

from vaultbrix.api.conditions import Reason
from vaultbrix.kube.answer_lines import lines
from vaultbrix.kube.configuration import Access, load
from vaultbrix.kube.resources import SELF_SUBJECT_REVIEWS, ResourceType
from vaultbrix.runtime.errors import Blocked, Expected, Transient

Object = dict[str, Any]

REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=15)
PAGE = 500

_JSON = "application/json"
# Kubernetes API concepts, "Receiving resources as Tables" and after it: what a list of Secrets then does not hold.
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_METADATA_OF_ONE = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
WATCH_SECONDS = 300
SHORTEST_WATCH_SECONDS = 1.0
# The API server sends a bookmark about once a minute, so silence for longer is a connection that is dead.
LONGEST_REQUEST_SECONDS = WATCH_SECONDS + 30
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=LONGEST_REQUEST_SECONDS, sock_read=75)

# When credentials are asked for again that were not to be had, and how often at most they are where they go on being
# as good as over.
RENEW_AGAIN = timedelta(seconds=10)
SHORTEST_RENEWAL = timedelta(seconds=1)


class NotFound(Exception):
    """The object does not exist."""


class Conflict(Exception):
    """The object exists already, or was changed since it was read."""


class Gone(Exception):
    """A watch fell behind; list again (HTTP 410)."""


class Kube:
    """A connection to one API server, acting as one field manager."""

    def __init__(self, field_manager: str, *, context: str = "") -> None:
        """Connect by $KUBECONFIG or a named context of it, else, in a Pod, by its service account.

        The configuration is read when it is first needed. While it cannot be read, every call raises Blocked. It is
        read again before credentials end of which that is known, and when the API server accepts them no more: a
        program that gives them is run again, a file that was renewed is read.
        """
        self._manager = field_manager
        self._context = context
        self._access: Access | None = None
        self._loaded: client.ApiClient | None = None
        # Clients with certificates of before, each with the time from which on no request of theirs can go on.
        self._replaced: list[tuple[float, client.ApiClient]] = []
        self._loading = asyncio.Lock()
        self._clock = (datetime.now(UTC), time.monotonic())

    @property
    def clock_skew(self) -> timedelta:
        """This machine's clock minus the API server's, to about a second (RFC 9110 6.6.1).

        The monotonic clock carries the API server's time on from its last answer, and until there is one the time at
        which this was made, so that a step of this machine's clock counts at once.
        """
        there, at = self._clock
        return datetime.now(UTC) - (there + timedelta(seconds=time.monotonic() - at))

    @classmethod
    async def connect(cls, field_manager: str) -> "Kube":
        """Make a connection whose configuration is read at once. Raises Blocked if it cannot be read."""
        kube = cls(field_manager)
        await kube.api()
        return kube

    async def close(self) -> None:
        """Close the connections."""
        for loaded in (self._loaded, *(replaced for _, replaced in self._replaced)):
            if loaded is not None:
                await loaded.close()

    async def api(self) -> client.ApiClient:
        """Return the library's client, for what this has no call of. Raises Blocked if it is not configured."""
        async with self._loading:
            access = self._access
            if self._loaded is None or access is None:
                access = await load(self._context)
                self._loaded, self._access = _connected(access), access
            elif access.renew_at is not None and datetime.now(UTC) >= access.renew_at:
                await self._renew(access)
            return self._loaded

    async def _renewed(self, refused: Access | None) -> bool:
        """Whether there are other credentials than those that the API server refused; read again to know."""
        async with self._loading:
            if self._access is None or refused is None:
                return False
            if self._access is refused:
                await self._renew(refused)
            return self._access.credentials != refused.credentials

    async def _renew(self, before: Access) -> None:
        """Read the configuration again, of the same context; credentials stay where there are none to be had now."""
        again = datetime.now(UTC) + RENEW_AGAIN
        try:
            access = await load(before.context)
            if access.anonymous or access.configuration.host != before.configuration.host:
                raise Blocked(Reason.UNREACHABLE, "no credentials for this API server")
            connected = None if access.shares_connections_of(before) else _connected(access)
        except Blocked:
            if before.renew_at is not None:
                self._access = replace(before, renew_at=again)
            return
        assert self._loaded is not None
        if access.renew_at is not None:
            # A program may give again what it gave before, up to its very end.
            access = replace(access, renew_at=max(access.renew_at, datetime.now(UTC) + SHORTEST_RENEWAL))
        self._access = access
        if connected is None:
            self._loaded.configuration.api_key = access.configuration.api_key
            self._loaded.configuration.refresh_api_key_hook = access.configuration.refresh_api_key_hook
            return
        now = time.monotonic()
        self._replaced.append((now + LONGEST_REQUEST_SECONDS, self._loaded))
        self._loaded = connected
        over = [replaced for ends, replaced in self._replaced if ends <= now]
        self._replaced = [(ends, replaced) for ends, replaced in self._replaced if ends > now]
        for replaced in over:
            await replaced.close()

    async def address(self) -> str:
        """Return the API server's URL."""
        return str((await self.api()).configuration.host)

    async def whoami(self) -> str:
        """Return the name that the API server knows the caller by (SelfSubjectReview)."""
        body = {"apiVersion": SELF_SUBJECT_REVIEWS.api_version, "kind": SELF_SUBJECT_REVIEWS.kind}
        answer = await self.create(SELF_SUBJECT_REVIEWS, "", body)
        return str(answer.get("status", {}).get("userInfo", {}).get("username", ""))

    def server_now(self) -> datetime:
        """Return the time by the API server's clock, exact to about a second."""
        return datetime.now(UTC) - self.clock_skew

    async def get(self, kind: ResourceType, namespace: str, name: str, *, meta: bool = False) -> Object:
        """Read an object; with ``meta`` no more of it than its metadata. Raises NotFound."""
        return await self._call("GET", kind.path(namespace, name), accept=_METADATA_OF_ONE if meta else _JSON)

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "", meta: bool = False) -> Object:
        """Read a collection as the API's List object; with ``meta`` no more of each than its metadata."""
        query = {"labelSelector": labels} if labels else {}
        return await self._call("GET", kind.path(namespace), query, accept=_METADATA if meta else _JSON)

    async def pages(self, kind: ResourceType, *, meta: bool = False) -> AsyncIterator[Object]:
        """Read a whole collection as List objects of one version, none of which is large; ``meta`` as for ``list``.

        Kubernetes API concepts, "Retrieving large results sets in chunks".
        """
        query = {"limit": str(PAGE)}
        while True:
            try:
                answer = await self._call("GET", kind.path(""), query, accept=_METADATA if meta else _JSON)
            except Gone as error:
                # Reading the pages took so long that the API server no longer has that version.
                raise Transient(Reason.UNREACHABLE, f"Kubernetes API: {error}") from None
            yield answer
            if not answer["metadata"].get("continue"):
                return
            query["continue"] = answer["metadata"]["continue"]

    async def create(self, kind: ResourceType, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        """Create an object; with ``dry_run`` only have it checked and completed. Raises Conflict when it exists."""
        return await self._call("POST", kind.path(namespace), self._query(dry_run=dry_run), body)

    async def replace(self, kind: ResourceType, namespace: str, name: str, body: Object) -> Object:
        """Replace an object that was read. Raises Conflict when it was changed since, NotFound when it is gone."""
        return await self._call("PUT", kind.path(namespace, name), {"fieldManager": self._manager}, body)

    async def apply(self, kind: ResourceType, body: Object, *, subresource: str = "", manager: str = "") -> Object:
        """Apply all fields that we own (server-side apply); takes them over from other managers.

        ``manager`` names the owner of a part of an object, where this process owns several that are written apart.
        """
        meta = body["metadata"]
        path = kind.path(meta.get("namespace", ""), meta["name"], subresource)
        query = {"fieldManager": manager or self._manager, "force": "true"}
        full = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        return await self._call("PATCH", path, query, full, content_type="application/apply-patch+yaml")

    async def merge(
        self, kind: ResourceType, namespace: str, name: str, body: Object, *, dry_run: bool = False
    ) -> Object:
        """Change an object by a JSON merge patch; with ``dry_run`` only have the change checked.

        Raises NotFound, and Conflict if the patch names an old resourceVersion.
        """
        return await self._call(
            "PATCH",
            kind.path(namespace, name),
            self._query(dry_run=dry_run),
            body,
            content_type="application/merge-patch+json",
        )

    def _query(self, *, dry_run: bool) -> dict[str, str]:
        return {"fieldManager": self._manager, **({"dryRun": "All"} if dry_run else {})}

    async def delete(self, kind: ResourceType, namespace: str, name: str, *, uid: str = "") -> None:
        """Delete an object and what it owns; no error if it is gone, or has another uid than the given one."""
        options: Object = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._call("DELETE", kind.path(namespace, name), {}, options)
        except NotFound:
            return
        except Conflict:
            if not uid:
                raise

    async def watch(
        self, kind: ResourceType, resource_version: str, namespace: str = "", name: str = "", *, labels: str = ""
    ) -> AsyncIterator[Object]:
        """Yield events since a version, each {type, object}; of one object only if ``name`` is given.

        With ``labels`` of those that have them: one that has them no longer is told as DELETED.

        Ends when the server closes the connection, and not before a second has passed, so that one that closes every
        watch is not asked again and again. Raises Gone when events since that version are no longer known.
        """
        begun = time.monotonic()
        query = {
            **({"fieldSelector": f"metadata.name={name}"} if name else {}),
            **({"labelSelector": labels} if labels else {}),
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        response = await self._send("GET", kind.path(namespace), query, timeout=WATCH_TIMEOUT)
        try:
            async for line in lines(response.content):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Gone(event["object"].get("message", ""))
                yield event
        except (aiohttp.ClientError, TimeoutError, ValueError):
            pass
        finally:
            response.close()
        await asyncio.sleep(max(0.0, begun + SHORTEST_WATCH_SECONDS - time.monotonic()))

    async def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        *,
        content_type: str = _JSON,
        accept: str = _JSON,
    ) -> Object:
        response = await self._send(method, path, query or {}, body, content_type, REQUEST_TIMEOUT, accept)
        try:
            answer: Object = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Transient(Reason.UNREACHABLE, f"Kubernetes API: {type(error).__name__}") from None
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: Object | None = None,
        content_type: str = _JSON,
        timeout: aiohttp.ClientTimeout = REQUEST_TIMEOUT,
        accept: str = _JSON,
    ) -> aiohttp.ClientResponse:
        api = await self.api()
        access = self._access
        response = await self._request(api, method, path, query, body, content_type, timeout, accept)
        if response.status == HTTPStatus.UNAUTHORIZED and await self._renewed(access):
            # It was not done: whoever is not known is answered before anything else is looked at.
            response.close()
            api = await self.api()
            response = await self._request(api, method, path, query, body, content_type, timeout, accept)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise await _error(response, f"{method} {path}")
        return response

    async def _request(
        self,
        api: client.ApiClient,
        method: str,
        path: str,
        query: dict[str, str],
        body: Object | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
        accept: str,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content_type}
        queries: list[tuple[str, str]] = []
        sent = time.monotonic()
        try:
            await api.update_params_for_auth(headers, queries, ["BearerToken"], path, method, body)
            answer = await api.rest_client.request(
                method,
                f"{api.configuration.host}{path}?{urlencode([*query.items(), *queries])}",
                headers=headers,
                body=body,
                _request_timeout=timeout,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Transient(Reason.UNREACHABLE, f"Kubernetes API: {type(error).__name__}") from None
        response: aiohttp.ClientResponse = answer.response
        self._compare_clocks(sent, response.headers.get("Date", ""))
        return response

    def _compare_clocks(self, sent: float, date: str) -> None:
        try:
            # Whole seconds: half of one later, in the middle.
            there = parsedate_to_datetime(date) + timedelta(seconds=0.5)
        except (TypeError, ValueError):
            return
        received = time.monotonic()
        # An answer that took long says little about when it was dated.
        if received - sent < 1:
            self._clock = (there, (sent + received) / 2)


def _connected(access: Access) -> client.ApiClient:
    """A client of that configuration. Raises Blocked."""
    try:
        return client.ApiClient(access.configuration)
    except (OSError, ValueError) as error:
        # Certificates are read here.
        raise Blocked(Reason.UNREACHABLE, f"no Kubernetes API: {error}") from None


_POLICY = re.compile(r".*ValidatingAdmissionPolicy '([^']*)' with binding '[^']*' denied request: (.*)", re.DOTALL)


def _without_preamble(message: str) -> str:
    """What an admission policy says of its own, and its name; any other message as it is."""
    denial = _POLICY.fullmatch(message)
    return f"{denial[2]} (policy {denial[1]})" if denial else message


async def _error(response: aiohttp.ClientResponse, what: str) -> Exception:
    try:
        message = str((await response.json(content_type=None))["message"])
    except (aiohttp.ClientError, ValueError, KeyError, TypeError):
        message = response.reason or ""
    # A refusal by the API server says itself who may not do what, and where.
    text = _without_preamble(message) if response.status == 403 else f"{what}: {response.status} {message}"
    if response.status == 401:
        text = f"the API server does not accept the credentials ({message}); log in again"
    errors: dict[int, Exception] = {
        401: Blocked(Reason.AUTHENTICATION_FAILED, text),
        403: Blocked(Reason.FORBIDDEN, text),
        404: NotFound(text),
        409: Conflict(text),
        410: Gone(text),
    }
    if response.status in errors:
        return errors[response.status]
    kind: type[Expected] = Blocked if response.status == 422 else Transient
    return kind(Reason.UNREACHABLE, text)
