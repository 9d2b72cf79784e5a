"""The API server as fast as one connection is, so that what a bench measures is not its own client."""

import http.client
import json
import ssl
from typing import Any

from tests.harness.apiserver import PORT as API_PORT
from tests.harness.network import MACHINE
from tests.harness.world import World


class Api:
    """One connection that is kept, so that no handshake counts as ours."""

    def __init__(self, world: World) -> None:
        context = ssl.create_default_context(cafile=str(world.api.authority))
        self._connection = http.client.HTTPSConnection(MACHINE, API_PORT, context=context)
        self._headers = {"Authorization": f"Bearer {world.api.token}", "Content-Type": "application/json"}

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """One request; PATCH is a JSON merge patch."""
        patch = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        self._connection.request(method, path, json.dumps(body) if body else None, {**self._headers, **patch})
        answer = self._connection.getresponse()
        said = answer.read()
        assert answer.status < 300, said
        return said
