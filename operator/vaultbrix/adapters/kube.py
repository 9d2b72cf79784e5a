"""The Kubernetes API by plain objects (dicts), over the client's transport.

Writes are server-side apply wherever an object is owned in part, so that every owner keeps its own fields.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from vaultbrix.api.conditions import Reason
from vaultbrix.api.kinds import KINDS
from vaultbrix.api.meta import GROUP, VERSION, Resource
from vaultbrix.runtime.errors import Blocked, Expected, Transient

Object = dict[str, Any]

REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=15)
WATCH_SECONDS = 300
# The API server sends a bookmark about once a minute, so silence for longer is a connection that is dead.
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, sock_read=75)


@dataclass(frozen=True)
class ResourceType:
    """A resource of the API: where its objects live."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The object's path, or the collection's where name is empty."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        scope = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        tail = "".join(f"/{quote(part, safe='')}" for part in (name, subresource) if part)
        return f"{root}{scope}/{self.plural}{tail}"


SECRETS = ResourceType("v1", "secrets", "Secret")
PODS = ResourceType("v1", "pods", "Pod")
NODES = ResourceType("v1", "nodes", "Node", namespaced=False)
EVENTS = ResourceType("v1", "events", "Event")
JOBS = ResourceType("batch/v1", "jobs", "Job")
NETWORK_POLICIES = ResourceType("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
OURS = {
    model: ResourceType(f"{GROUP}/{VERSION}", model.crd.plural, model.crd.kind, model.crd.namespaced)  # type: ignore[attr-defined]
    for model in KINDS
}


def resource_type(model: type[Resource]) -> ResourceType:
    """The resource of one of our kinds."""
    return OURS[model]


class NotFound(Exception):
    """The object does not exist."""


class Conflict(Exception):
    """The object exists already, or was changed since it was read."""


class Gone(Exception):
    """A watch fell behind; list again (HTTP 410)."""


class Kube:
    """A connection to one API server, acting as one field manager."""

    def __init__(self, field_manager: str) -> None:
        """In a Pod by its service account, elsewhere by $KUBECONFIG; read when it is first needed.

        Until one can be read, every call raises Blocked.
        """
        self._manager = field_manager
        self._loaded: client.ApiClient | None = None
        self._loading = asyncio.Lock()
        self._ahead = timedelta()

    @classmethod
    async def connect(cls, field_manager: str) -> "Kube":
        """With the configuration read at once. Raises Blocked when there is none."""
        kube = cls(field_manager)
        await kube._api()
        return kube

    async def close(self) -> None:
        """Close the connections."""
        if self._loaded is not None:
            await self._loaded.close()

    async def _api(self) -> client.ApiClient:
        async with self._loading:
            if self._loaded is None:
                self._loaded = client.ApiClient(await _configuration())
            return self._loaded

    def server_now(self) -> datetime:
        """The time by the API server's clock, as of its last answer; exact to about a second."""
        return datetime.now(UTC) + self._ahead

    async def get(self, kind: ResourceType, namespace: str, name: str) -> Object:
        """Read an object. Raises NotFound."""
        return await self._call("GET", kind.path(namespace, name))

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "") -> Object:
        """Read a collection as the API's List object."""
        return await self._call("GET", kind.path(namespace), {"labelSelector": labels} if labels else {})

    async def create(self, kind: ResourceType, namespace: str, body: Object) -> Object:
        """Create an object. Raises Conflict when it exists."""
        return await self._call("POST", kind.path(namespace), {"fieldManager": self._manager}, body)

    async def replace(self, kind: ResourceType, namespace: str, name: str, body: Object) -> Object:
        """Replace an object that was read. Raises Conflict when it was changed since, NotFound when it is gone."""
        return await self._call("PUT", kind.path(namespace, name), {"fieldManager": self._manager}, body)

    async def apply(self, kind: ResourceType, body: Object, *, subresource: str = "") -> Object:
        """Server-side apply of the whole of what we own; takes fields over from other managers."""
        meta = body["metadata"]
        path = kind.path(meta.get("namespace", ""), meta["name"], subresource)
        query = {"fieldManager": self._manager, "force": "true"}
        full = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        return await self._call("PATCH", path, query, full, content_type="application/apply-patch+yaml")

    async def merge(self, kind: ResourceType, namespace: str, name: str, body: Object) -> Object:
        """JSON merge patch. Raises NotFound."""
        return await self._call(
            "PATCH",
            kind.path(namespace, name),
            {"fieldManager": self._manager},
            body,
            content_type="application/merge-patch+json",
        )

    async def delete(self, kind: ResourceType, namespace: str, name: str, *, uid: str = "") -> None:
        """Delete an object and what it owns; one that is gone, or of another uid than is given, is fine."""
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

    async def watch(self, kind: ResourceType, resource_version: str, namespace: str = "") -> AsyncIterator[Object]:
        """Events since a version: {type, object}. Ends quietly when the server closes; raises Gone on a gap."""
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        response = await self._send("GET", kind.path(namespace), query, timeout=WATCH_TIMEOUT)
        try:
            async for line in _lines(response.content):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Gone(event["object"].get("message", ""))
                yield event
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return
        finally:
            response.close()

    async def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
    ) -> Object:
        response = await self._send(method, path, query or {}, body, content_type, REQUEST_TIMEOUT)
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
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout = REQUEST_TIMEOUT,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        queries: list[tuple[str, str]] = []
        api = await self._api()
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
        self._note_time(response.headers.get("Date", ""))
        if response.status >= 400:
            raise await _error(response, f"{method} {path}")
        return response

    def _note_time(self, date: str) -> None:
        try:
            told = parsedate_to_datetime(date)
        except ValueError:
            return
        # Whole seconds, cut off.
        self._ahead = told.astimezone(UTC) + timedelta(seconds=0.5) - datetime.now(UTC)


async def _configuration() -> client.Configuration:
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            await config.load_kube_config(client_configuration=configuration)
        except (config.ConfigException, OSError, ValueError) as error:
            raise Blocked(Reason.UNREACHABLE, f"no Kubernetes API: set KUBECONFIG ({error})") from None
    return configuration


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    # aiohttp's own iteration by lines refuses those over 128 KiB, and an object may have more.
    pending = bytearray()
    async for chunk in stream.iter_any():
        head, *rest = chunk.split(b"\n")
        pending += head
        for part in rest:
            yield bytes(pending)
            pending = bytearray(part)


async def _error(response: aiohttp.ClientResponse, what: str) -> Exception:
    try:
        message = str((await response.json(content_type=None))["message"])
    except (aiohttp.ClientError, ValueError, KeyError, TypeError):
        message = response.reason or ""
    text = f"{what}: {response.status} {message}"
    errors: dict[int, Exception] = {
        401: Blocked(Reason.FORBIDDEN, text),
        403: Blocked(Reason.FORBIDDEN, text),
        404: NotFound(text),
        409: Conflict(text),
        410: Gone(text),
    }
    if response.status in errors:
        return errors[response.status]
    kind: type[Expected] = Blocked if response.status == 422 else Transient
    return kind(Reason.UNREACHABLE, text)
