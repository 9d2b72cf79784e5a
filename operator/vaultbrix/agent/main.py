"""``vaultbrix agent``: enforces direct access beside one PostgreSQL server. Builds the parts and runs them."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vaultbrix.admission.memory import StandingFile
from vaultbrix.admission.policies import Policies, PolicyList
from vaultbrix.agent.anchors import Anchors
from vaultbrix.agent.audit_guard import AuditGuard, LogDisk
from vaultbrix.agent.certificate import CertificateReload
from vaultbrix.agent.echo import echo
from vaultbrix.agent.enforcer import Enforcer
from vaultbrix.agent.heartbeat import AgentIdentity, Heartbeat
from vaultbrix.agent.host.firewall import ChosenFirewall
from vaultbrix.agent.host.hba import HbaFile
from vaultbrix.agent.host.hba_text import Admin
from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.agent.layers.stack import Layers
from vaultbrix.agent.reports import field_manager
from vaultbrix.agent.session_list import SessionList
from vaultbrix.agent.watchdog.sight import TenantSessions
from vaultbrix.agent.watchdog.watchdog import Watchdog
from vaultbrix.grants.sessions import sessions_file
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
    certificate_file: Path | None = None
    log_disk: LogDisk | None = None
    admin: str = ""
    admin_certificate: bool = False
    most_connections: int = 0
    policy_list: PolicyList | None = None


async def main(options: Options) -> None:
    """Enforce rules until cancelled; the rules stay in force after that."""
    # Nothing here waits for the API server, or for a configuration that leads to it: rules end without it.
    kube = Kube(field_manager(options.name))

    def clock() -> datetime:
        return never_behind(datetime.now(UTC), kube.clock_skew)

    firewall = ChosenFirewall(options.port, options.firewall, options.most_connections)
    target = Target(
        host=str(options.socket_directory),
        port=options.port,
        database=options.database,
        user="vaultbrix_agent",
        ssl_mode="disable",
        application="vaultbrix-agent",
    )
    control = SessionControl(target)
    admin = Admin(options.admin, options.admin_certificate) if options.admin else None
    layers = Layers(firewall, HbaFile(options.hba_file), control, options.port, clock, admin)
    identity = AgentIdentity(options.name, options.server, options.namespace, lambda: firewall.name)
    heartbeat = Heartbeat(kube, identity)
    closed_by_default = asyncio.Event()
    guard = AuditGuard(options.flow_file, options.log_disk)
    anchors = Anchors(kube, options.namespace, options.server, lambda: guard.latest)
    heartbeat.anchor_trouble = lambda: anchors.trouble
    watchdog = Watchdog(
        TenantSessions(replace(target, application="vaultbrix-watchdog")),
        control.terminate,
        lambda: guard.loud,
        heartbeat,
        options.name,
    )
    # Over a connection of its own: closing waits for nothing.
    policies = Policies(kube, options.policy_list, StandingFile(options.state_file.with_name("admission.json")))
    session_list = SessionList(SessionControl(target), sessions_file(options.state_file), options.server, clock)
    enforcer = Enforcer(
        identity,
        options.state_file,
        layers,
        kube,
        heartbeat,
        guard,
        watchdog,
        session_list,
        policies,
        closed_by_default,
        clock,
    )
    try:
        # Ready means closed by default: PostgreSQL starts after that.
        async with (
            probes(options.probe_port, closed_by_default.is_set),
            echo(options.echo_port),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(enforcer.run())
            group.create_task(anchors.run())
            if options.certificate_file is not None:
                certificate = CertificateReload(options.certificate_file, options.port, SessionControl(target))
                group.create_task(certificate.run())
    finally:
        await kube.close()
