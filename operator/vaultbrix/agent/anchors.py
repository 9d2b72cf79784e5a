"""Keeps what the record was sealed with where neither the operator nor the store's owner can write.

A ConfigMap for each server has, by day (UTC), the newest batch as ``vaultbrix audit anchor`` prints it. An anchor of
a day that has passed is never written again, one of today only by a later batch.
"""

import asyncio
import json
from collections.abc import Callable, Mapping

import structlog

from vaultbrix.audit.flow.report import Head
from vaultbrix.kube.client import Kube, NotFound
from vaultbrix.kube.resources import CONFIG_MAPS
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

KEEP_SECONDS = 300.0
# The first one soon after the start, and a failure is not worth five minutes.
RETRY_SECONDS = 10.0
# About 90 KiB; a ConfigMap may have 1 MiB.
MOST_DAYS = 600


def anchors_name(server: str) -> str:
    """The ConfigMap with the anchors of a server."""
    return f"vaultbrix-anchors-{server}"


def anchors_patch(kept: Mapping[str, str], server: str, head: Head) -> dict[str, str | None]:
    """What to change in the ConfigMap's data for a head, None for a day that goes; empty where it says so already."""
    day = head.sealed_at.date().isoformat()
    latest = max(kept, default="")
    # A day before the latest has its anchor, or never will: what is written later is no witness of it.
    if day < latest or (day in kept and head.batch <= _batch(kept[day])):
        return {}
    line = json.dumps({"server": server, "batch": head.batch, "head": head.head})
    oldest = sorted({*kept, day})[:-MOST_DAYS]
    return {day: line, **dict.fromkeys(oldest)}


def _batch(line: str) -> int:
    """The number of the batch in a line; one that cannot be read gives way to any other."""
    try:
        return int(json.loads(line)["batch"])
    except (ValueError, TypeError, KeyError):
        return -1


class Anchors:
    """Writes the anchors of one server; ``latest`` tells its newest sealed batch."""

    def __init__(self, kube: Kube, namespace: str, server: str, latest: Callable[[], Head | None]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._server = server
        self._latest = latest
        self._kept: Head | None = None
        self.trouble = ""
        """Why the last attempt failed, for people."""

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            head = self._latest()
            if head is not None and head != self._kept:
                await self._keep(head)
            await asyncio.sleep(KEEP_SECONDS if self._kept == head and head is not None else RETRY_SECONDS)

    async def _keep(self, head: Head) -> None:
        name = anchors_name(self._server)
        before = self.trouble
        try:
            found = await self._kube.get(CONFIG_MAPS, self._namespace, name)
            patch = anchors_patch(found.get("data") or {}, self._server, head)
            if patch:
                await self._kube.merge(CONFIG_MAPS, self._namespace, name, {"data": patch})
            self._kept, self.trouble = head, ""
        except NotFound:
            self.trouble = (
                f"ConfigMap {self._namespace}/{name} is not there, so nothing outside the store says up to where the "
                "record is sealed; the chart makes it, for an agent elsewhere manifests/vm-agent-rbac.yaml"
            )
        except Expected as error:
            self.trouble = error.message
        except Exception as error:
            # The agent has other work than this.
            log.exception("unexpected error")
            self.trouble = type(error).__name__
        if self.trouble and self.trouble != before:
            log.warning("anchor", message=self.trouble)
