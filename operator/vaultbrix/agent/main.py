"""``vaultbrix agent``: enforces direct access beside one PostgreSQL server. Builds the parts and runs them."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vaultbrix.agent.audit_guard import AuditGuard
from vaultbrix.agent.echo import echo
from vaultbrix.agent.enforcer import Enforcer
from vaultbrix.agent.heartbeat import AgentIdentity, Heartbeat
from vaultbrix.agent.host.firewall import ChosenFirewall
from vaultbrix.agent.host.hba import HbaFile
from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.agent.layers.stack import Layers
from vaultbrix.kube.client import Kube
from vaultbrix.postgres.connect import Target
from vaultbrix.runtime.clock import never_behind
from vaultbrix.runtime.probes import probes


@dataclass(frozen=True)
class Options:
    """Command line of the agent."""

    server: str
    name: str
    namespace: str
    port: int
    firewall: str
    hba_file: Path
    state_file: Path
    socket_directory: Path
    database: str
    probe_port: int
    echo_port: int = 0
    flow_file: Path | None = None


async def main(options: Options) -> None:
    """Enforce rules until cancelled; the rules stay in force after that."""
    # Nothing here waits for the API server, or for a configuration that leads to it: rules end without it.
    kube = Kube("vaultbrix-agent")

    def clock() -> datetime:
        return never_behind(datetime.now(UTC), kube.clock_skew)

    firewall = ChosenFirewall(options.port, options.firewall)
    layers = Layers(
        firewall,
        HbaFile(options.hba_file),
        SessionControl(
            Target(
                host=str(options.socket_directory),
                port=options.port,
                database=options.database,
                user="vaultbrix_agent",
                ssl_mode="disable",
                application="vaultbrix-agent",
            )
        ),
        options.port,
        clock,
    )
    identity = AgentIdentity(options.name, options.server, options.namespace, lambda: firewall.name)
    heartbeat = Heartbeat(kube, identity)
    closed_by_default = asyncio.Event()
    guard = AuditGuard(options.flow_file)
    enforcer = Enforcer(identity, options.state_file, layers, kube, heartbeat, guard, closed_by_default, clock)
    try:
        # Ready means closed by default: PostgreSQL starts after that.
        async with probes(options.probe_port, closed_by_default.is_set), echo(options.echo_port):
            await enforcer.run()
    finally:
        await kube.close()
