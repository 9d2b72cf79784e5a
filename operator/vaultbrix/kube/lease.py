"""Elects one leader among the operator's replicas by a coordination.k8s.io Lease (the protocol of client-go).

The client library's own election cannot create a Lease with the API types that it is released with.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from vaultbrix.kube.client import Conflict, Kube, NotFound
from vaultbrix.kube.resources import ResourceType
from vaultbrix.runtime.errors import Expected, LeaseLost

log = structlog.get_logger(__name__)

LEASES = ResourceType("coordination.k8s.io/v1", "leases", "Lease")

LEASE_SECONDS = 15
RENEW_DEADLINE_SECONDS = 10
RETRY_SECONDS = 2


class Lease:
    """One Lease as one candidate sees it. Times are measured by this machine's clock only, since clocks may differ."""

    def __init__(self, kube: Kube, *, name: str, namespace: str, identity: str) -> None:
        self._kube = kube
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0

    async def try_hold(self) -> bool:
        """Take or renew the Lease; False while another candidate holds it. Raises Expected."""
        try:
            lease = await self._kube.get(LEASES, self._namespace, self._name)
        except NotFound:
            lease = None
        try:
            if lease is None:
                await self._kube.create(LEASES, self._namespace, self._body({}, ""))
                return True
            spec = lease["spec"]
            holder = spec.get("holderIdentity") or ""
            if holder not in ("", self._identity) and not self._expired(holder, spec.get("renewTime") or ""):
                return False
            body = self._body(spec, lease["metadata"]["resourceVersion"])
            await self._kube.replace(LEASES, self._namespace, self._name, body)
        except (Conflict, NotFound):
            return False
        return True

    async def release(self) -> None:
        """Let the next candidate in at once. Best effort: without it the Lease runs out by itself."""
        try:
            lease = await self._kube.get(LEASES, self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._kube.replace(LEASES, self._namespace, self._name, lease)
        except (Expected, Conflict, NotFound):
            return

    def _expired(self, holder: str, renewed: str) -> bool:
        if (holder, renewed) != self._seen:
            self._seen, self._seen_at = (holder, renewed), time.monotonic()
        return time.monotonic() - self._seen_at > LEASE_SECONDS

    def _body(self, old: dict[str, Any], version: str) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        renews = old.get("holderIdentity") == self._identity
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace, "resourceVersion": version},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": LEASE_SECONDS,
                "acquireTime": old.get("acquireTime", now) if renews else now,
                "renewTime": now,
                "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if renews else 1),
            },
        }


async def lead(lease: Lease, work: Callable[[], Awaitable[None]]) -> None:
    """Wait for the Lease, then do the work for as long as it is renewed. Raises LeaseLost, or what the work raises."""
    while not await _attempt(lease):  # noqa: ASYNC110 - the other end of the wait is the API server
        await asyncio.sleep(RETRY_SECONDS)
    log.info("leading")
    working = asyncio.ensure_future(work())
    renewing = asyncio.ensure_future(_renew(lease))
    try:
        await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
        for ended in (renewing, working):
            if ended.done():
                ended.result()
    finally:
        working.cancel()
        renewing.cancel()
        await asyncio.gather(working, renewing, return_exceptions=True)
        await lease.release()


async def _attempt(lease: Lease) -> bool:
    try:
        return await lease.try_hold()
    except Expected as error:
        log.warning("Lease", message=error.message)
        return False


async def _renew(lease: Lease) -> None:
    renewed = time.monotonic()
    while (left := renewed + RENEW_DEADLINE_SECONDS - time.monotonic()) > 0:
        await asyncio.sleep(min(RETRY_SECONDS, left))
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, renewed + RENEW_DEADLINE_SECONDS - began)):
                if await _attempt(lease):
                    # From the moment of asking: the answer may have taken long.
                    renewed = began
        except TimeoutError:
            continue
    raise LeaseLost("the Lease was not renewed in time")
