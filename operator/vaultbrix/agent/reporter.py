"""Writes the agent's reports on rules to the API server, beside enforcement and never in its way."""

from typing import Any

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.kube.client import Conflict, Kube, NotFound
from vaultbrix.kube.resources import resource_type
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import WorkQueue

WRITERS = 8


class Reporter:
    """Writes reports in the background; the latest for a rule replaces one that still waits."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._waiting: dict[tuple[str, str], dict[str, Any]] = {}
        self._queue: WorkQueue[tuple[str, str]] = WorkQueue(self._write, workers=WRITERS)

    def put(self, rule: AccessRule, status: dict[str, Any]) -> None:
        """Have the status of a rule written soon."""
        # The uid keeps a report from landing on another object of the same name.
        metadata = {"namespace": rule.metadata.namespace, "name": rule.metadata.name, "uid": rule.metadata.uid}
        self._waiting[rule.key] = {"metadata": metadata, "status": status}
        self._queue.add(rule.key)

    async def run(self) -> None:
        """Write reports until cancelled; one that cannot be written now is kept and tried again."""
        await self._queue.run()

    async def _write(self, key: tuple[str, str]) -> None:
        body = self._waiting.pop(key, None)
        if body is None:
            return
        try:
            await self._kube.apply(resource_type(AccessRule), body, subresource="status")
        except (NotFound, Conflict):
            return
        except Expected:
            self._waiting.setdefault(key, body)
            raise
