"""An API server over HTTP. A kubectl takes a tenth of a second of a processor, and who waits asks many times."""

import http.client
import json
import ssl
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Object = dict[str, Any]

_JSON, _MERGE = "application/json", "application/merge-patch+json"
# Kubernetes API concepts, "Aggregated discovery".
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_TIMEOUT = 30


class KubeHTTP:
    """Requests of one user, on a connection of each thread's own."""

    def __init__(self, url: str, token: str, authority: Path) -> None:
        """``authority`` is the file of the API server's certificate; it may come later."""
        self._address = urlsplit(url).netloc
        self._token = token
        self._authority = authority
        self._threads = threading.local()
        self._collections: dict[str, tuple[str, str, bool]] = {}

    def send(
        self, method: str, path: str, body: Object | None = None, *, accept: str = _JSON
    ) -> tuple[HTTPStatus, Object]:
        """One request; PATCH is a JSON merge patch. Raises OSError or HTTPException where there is no answer."""
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": _MERGE if method == "PATCH" else _JSON,
            "Accept": accept,
        }
        content = json.dumps(body) if body is not None else None
        known: http.client.HTTPSConnection | None = getattr(self._threads, "connection", None)
        if known is not None:
            try:
                return _exchange(known, method, path, content, headers)
            except (OSError, http.client.HTTPException):
                # The API server was started again since, or has ended a connection that was idle.
                known.close()
        self._threads.connection = None
        context = ssl.create_default_context(cafile=str(self._authority))
        connection = http.client.HTTPSConnection(self._address, timeout=_TIMEOUT, context=context)
        answer = _exchange(connection, method, path, content, headers)
        self._threads.connection = connection
        return answer

    def request(self, method: str, path: str, body: Object | None = None) -> Object:
        """The answer to a request; a refusal is an AssertionError with what was said."""
        status, answer = self.send(method, path, body)
        assert status < HTTPStatus.BAD_REQUEST, f"{method} {path}: {answer.get('message')}"
        return answer

    def path(self, kind: str, namespace: str, name: str = "") -> str:
        """Where objects of a kind lie, or one of them; a kind has the names that kubectl knows it by."""
        if kind.lower() not in self._collections:
            self._discover()
        group, plural, namespaced = self._collections[kind.lower()]
        parts = [group, *(["namespaces", namespace] if namespaced else []), plural, *([name] if name else [])]
        return "/".join(parts)

    def _discover(self) -> None:
        for root in ("/api", "/apis"):
            status, answer = self.send("GET", root, accept=_DISCOVERY)
            assert status == HTTPStatus.OK, answer
            for group in answer["items"]:
                name = group["metadata"].get("name", "")
                # The first one is the one that is preferred.
                version = group["versions"][0]
                for resource in version["resources"]:
                    kind = resource["responseKind"]["kind"]
                    names = (resource["resource"], resource["singularResource"], kind, *resource.get("shortNames", ()))
                    where = "/".join(part for part in (root, name, version["version"]) if part)
                    for known_by in names:
                        namespaced = resource["scope"] == "Namespaced"
                        self._collections.setdefault(known_by.lower(), (where, resource["resource"], namespaced))


def _exchange(
    connection: http.client.HTTPSConnection, method: str, path: str, content: str | None, headers: dict[str, str]
) -> tuple[HTTPStatus, Object]:
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    text = answer.read()
    body: Object = json.loads(text) if text.strip().startswith(b"{") else {"message": text.decode()}
    return HTTPStatus(answer.status), body
