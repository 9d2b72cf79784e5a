"""The addresses of the Pods that a PostgresServer trusts, from watches of the agent's own.

The agent asks the API server itself, since what stands in a status could have been written by another agent, and the
operator could not reach PostgreSQL to change anything before its own Pod is trusted.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import structlog

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import TrustedPods
from vaultbrix.kube.client import Gone, Kube, Object
from vaultbrix.kube.resources import PODS
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

LONGEST_PAUSE_SECONDS = 5.0

_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class PodSource:
    """Pods of a namespace by a label selector, as the API takes it."""

    namespace: str
    labels: str

    @classmethod
    def of(cls, pods: TrustedPods) -> "PodSource":
        """The source that a PostgresServer names."""
        return cls(pods.namespace, ",".join(f"{key}={value}" for key, value in sorted(pods.selector.items())))


class PodAddresses:
    """Watches the Pods of the sources given last; ``changed`` is called whenever ``known`` may differ.

    What was known goes on to hold while the API server does not answer.
    """

    def __init__(self, kube: Kube, changed: Callable[[], None]) -> None:
        self._kube = kube
        self._changed = changed
        self._watches: dict[PodSource, asyncio.Task[None]] = {}
        self._found: dict[PodSource, dict[str, frozenset[str]]] = {}

    @property
    def known(self) -> frozenset[str] | None:
        """The addresses as CIDRs of one address each; None until every source was listed once.

        A source that may not be listed has none.
        """
        if self._watches.keys() - self._found.keys():
            return None
        return frozenset(cidr for pods in self._found.values() for cidrs in pods.values() for cidr in cidrs)

    def follow(self, sources: Iterable[PodSource]) -> None:
        """Watch these sources and no others."""
        desired = set(sources)
        for source in self._watches.keys() - desired:
            self._watches.pop(source).cancel()
            self._found.pop(source, None)
        for source in desired - self._watches.keys():
            self._watches[source] = asyncio.create_task(self._watch(source))

    async def _watch(self, source: PodSource) -> None:
        failures = 0
        while True:
            try:
                answer = await self._kube.list(PODS, source.namespace, labels=source.labels)
                failures = 0
                self._take(source, {pod["metadata"]["uid"]: addresses(pod) for pod in answer.get("items", [])})
                await self._follow_events(source, str(answer["metadata"]["resourceVersion"]))
            except Gone:
                continue
            except Expected as error:
                failures += 1
                if error.reason is Reason.FORBIDDEN and source not in self._found:
                    # Whom it lets in the agent may not know; who was trusted before must not stay so for that.
                    self._take(source, {})
                log.warning("trusted Pods", namespace=source.namespace, labels=source.labels, message=error.message)
            except Exception:
                failures += 1
                log.exception("unexpected error")
            await asyncio.sleep(min(LONGEST_PAUSE_SECONDS, pause_after(failures, 0.0)))

    async def _follow_events(self, source: PodSource, version: str) -> None:
        while True:
            async for event in self._kube.watch(PODS, version, source.namespace, labels=source.labels):
                pod = event["object"]
                version = str(pod["metadata"]["resourceVersion"])
                if event["type"] == "BOOKMARK":
                    continue
                pods = dict(self._found[source])
                # One whose labels no longer fit is told as deleted, too.
                if event["type"] == "DELETED":
                    pods.pop(pod["metadata"]["uid"], None)
                else:
                    pods[pod["metadata"]["uid"]] = addresses(pod)
                self._take(source, pods)

    def _take(self, source: PodSource, pods: dict[str, frozenset[str]]) -> None:
        before = self._found.get(source)
        self._found[source] = pods
        if before != pods:
            self._changed()


def addresses(pod: Object) -> frozenset[str]:
    """A Pod's addresses as CIDRs; none once it has ended, or while it is on its node's network, which others share."""
    status = pod.get("status", {})
    if pod.get("spec", {}).get("hostNetwork") or status.get("phase") in _ENDED:
        return frozenset()
    texts = [entry.get("ip", "") for entry in status.get("podIPs", ())]
    return frozenset(str(ip_network(ip_address(text))) for text in texts if text)
