"""``vaultbrix agent``: direct access beside one PostgreSQL."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vaultbrix.agent.audit_guard import AuditGuard
from vaultbrix.agent.echo import echo
from vaultbrix.agent.enforcer import Enforcer, Identity
from vaultbrix.agent.heartbeat import Heartbeat, Whereabouts
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
    """Until cancelled; the rules stay in force."""
    # Nothing waits for the API server, or for a configuration that leads to it: what is due is closed without.
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
    about = Whereabouts(options.name, options.server, options.namespace, lambda: firewall.name)
    heartbeat = Heartbeat(kube, about)
    closed = asyncio.Event()
    identity = Identity(options.name, options.server, options.state_file)
    enforcer = Enforcer(identity, layers, kube, heartbeat, AuditGuard(options.flow_file), closed, clock)
    try:
        # Ready means closed by default: PostgreSQL starts after that.
        async with probes(options.probe_port, closed.is_set), echo(options.echo_port):
            await enforcer.run()
    finally:
        await kube.close()
