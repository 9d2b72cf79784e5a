"""Renews the agent's Lease, and writes the agent's entry in ``status.agents`` of its PostgresServer."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from vaultbrix.api.postgresserver import AgentAudit, AgentWatchdog, PostgresServer, ServerAgent
from vaultbrix.kube import events
from vaultbrix.kube.client import Conflict, Kube, NotFound
from vaultbrix.kube.lease import LEASES
from vaultbrix.kube.resources import resource_type
from vaultbrix.runtime.clock import clock_skew_seconds
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

BEAT_SECONDS = 10
LEASE_SECONDS = 40
# status.agents[].sources is a sample of the last hour: enough to see whether addresses are preserved.
MOST_SOURCES = 8
SOURCE_SECONDS = 3600.0


@dataclass(frozen=True)
class AgentIdentity:
    """Name and PostgresServer of this agent, the namespace of its Lease, and what tells the name of its firewall."""

    agent: str
    server: str
    namespace: str
    firewall: Callable[[], str]


class Heartbeat:
    """Renews the Lease every ``BEAT_SECONDS``, and writes the agent's entry when something in it changed."""

    def __init__(self, kube: Kube, identity: AgentIdentity) -> None:
        self._kube = kube
        self._identity = identity
        self._written: ServerAgent | None = None
        self._sources: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        """Error by layer, as the layers were last applied."""
        self.anchor_trouble: Callable[[], str] = lambda: ""
        """Why the record's anchor could not be kept, empty where it was."""
        self.audit: AgentAudit | None = None
        """What the entry says of the audit record."""
        self.watchdog: AgentWatchdog | None = None
        """What the entry says of sessions that were ended for the server's limits."""

    @property
    def skew(self) -> int:
        """Seconds by which the clocks differ, 0 where that may be the network's doing."""
        return clock_skew_seconds(self._kube.clock_skew)

    def note_sources(self, addresses: Iterable[str]) -> None:
        """Note that connections came from these addresses, for the entry's sample."""
        now = time.monotonic()
        for address in addresses:
            if address in self._sources or len(self._sources) < MOST_SOURCES:
                self._sources[address] = now
        self._sources = {address: at for address, at in self._sources.items() if now - at < SOURCE_SECONDS}

    async def run(self) -> None:
        """Renew and write until cancelled."""
        while True:
            try:
                await self._renew()
                await self._write_entry()
            except (NotFound, Conflict):
                # The PostgresServer may come later.
                self._written = None
            except Expected as error:
                log.warning("heartbeat", message=error.message)
            await asyncio.sleep(BEAT_SECONDS)

    async def warn(self, server: PostgresServer | None, reason: str, message: str) -> None:
        """Write a warning event about the PostgresServer; best effort, the log has it too."""
        if server is None:
            log.warning(reason, message=message)
            return
        agent = self._identity.agent
        await events.warn(self._kube, server, reason, f"{agent}: {message}", component="vaultbrix-agent", host=agent)

    async def _renew(self) -> None:
        agent = self._identity.agent
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        body = {
            "metadata": {"namespace": self._identity.namespace, "name": f"{self._identity.server}-{agent}"},
            "spec": {"holderIdentity": agent, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
        }
        await self._kube.apply(LEASES, body)

    def _troubles(self) -> dict[str, str]:
        trouble = self.anchor_trouble()
        return {**self.errors, **({"anchor": trouble} if trouble else {})}

    async def _write_entry(self) -> None:
        now = datetime.now(UTC)
        entry = ServerAgent(
            name=self._identity.agent,
            namespace=self._identity.namespace,
            firewall=self._identity.firewall(),
            clock_skew_seconds=self.skew,
            sources=sorted(self._sources),
            error="; ".join(f"{part}: {text}" for part, text in sorted(self._troubles().items()))[:1024],
            audit=self.audit,
            watchdog=self.watchdog,
            at=now,
        )
        if self._written is not None and self._written.model_copy(update={"at": now}) == entry:
            return
        body = {"metadata": {"name": self._identity.server}, "status": {"agents": [entry.dump()]}}
        await self._kube.apply(resource_type(PostgresServer), body, subresource="status")
        self._written = entry
