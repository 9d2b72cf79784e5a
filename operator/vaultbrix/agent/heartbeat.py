"""The agent's sign of life, and what it says of itself in ``status.agents`` of the PostgresServer."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from vaultbrix.api.postgresserver import AgentAudit, PostgresServer, ServerAgent
from vaultbrix.kube import events
from vaultbrix.kube.client import Conflict, Kube, NotFound, resource_type
from vaultbrix.kube.lease import LEASES
from vaultbrix.runtime.clock import clock_skew_seconds
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

BEAT_SECONDS = 10
LEASE_SECONDS = 40
# status.agents[].sources is a sample of the last hour: enough to see whether addresses are preserved.
MOST_SOURCES = 8
SOURCE_SECONDS = 3600.0


@dataclass(frozen=True)
class Whereabouts:
    """Who this agent is: of which PostgresServer, in which namespace its Lease is, and its kernel backend."""

    agent: str
    server: str
    namespace: str
    firewall: Callable[[], str]


class Heartbeat:
    """Renews the Lease, and writes the agent's entry when something in it changed."""

    def __init__(self, kube: Kube, about: Whereabouts) -> None:
        self._kube = kube
        self._about = about
        self._written: ServerAgent | None = None
        self._sources: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        """Error by layer, as of the last application."""
        self.audit: AgentAudit | None = None
        """How the audit record flows."""

    @property
    def skew(self) -> int:
        """Seconds by which the clocks differ, 0 where that may be the network's doing."""
        return clock_skew_seconds(self._kube.clock_skew)

    def saw(self, addresses: Iterable[str]) -> None:
        """Connections came from these addresses."""
        now = time.monotonic()
        for address in addresses:
            if address in self._sources or len(self._sources) < MOST_SOURCES:
                self._sources[address] = now
        self._sources = {address: at for address, at in self._sources.items() if now - at < SOURCE_SECONDS}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._renew()
                await self._tell()
            except (NotFound, Conflict):
                # The PostgresServer may come later.
                self._written = None
            except Expected as error:
                log.warning("heartbeat", message=error.message)
            await asyncio.sleep(BEAT_SECONDS)

    async def warn(self, server: PostgresServer | None, reason: str, message: str) -> None:
        """A warning event about the PostgresServer; best effort, the log has it too."""
        if server is None:
            log.warning(reason, message=message)
            return
        agent = self._about.agent
        await events.warn(self._kube, server, reason, f"{agent}: {message}", component="vaultbrix-agent", host=agent)

    async def _renew(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        body = {
            "metadata": {"namespace": self._about.namespace, "name": f"{self._about.server}-{self._about.agent}"},
            "spec": {"holderIdentity": self._about.agent, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
        }
        await self._kube.apply(LEASES, body)

    async def _tell(self) -> None:
        now = datetime.now(UTC)
        entry = ServerAgent(
            name=self._about.agent,
            namespace=self._about.namespace,
            firewall=self._about.firewall(),
            clock_skew_seconds=self.skew,
            sources=sorted(self._sources),
            error="; ".join(f"{layer}: {text}" for layer, text in sorted(self.errors.items()))[:1024],
            audit=self.audit,
            at=now,
        )
        if self._written is not None and self._written.model_copy(update={"at": now}) == entry:
            return
        body = {"metadata": {"name": self._about.server}, "status": {"agents": [entry.dump()]}}
        await self._kube.apply(resource_type(PostgresServer), body, subresource="status")
        self._written = entry
