"""The command line."""

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vaultbrix.cli import decide, gate
from vaultbrix.cli.access import commands as access
from vaultbrix.cli.audit import commands as audit
from vaultbrix.cli.ddl import commands as ddl
from vaultbrix.cli.keys import commands as keys
from vaultbrix.cli.tenants import commands as tenants
from vaultbrix.runtime.core_files import leave_no_core

if TYPE_CHECKING:
    from vaultbrix.admission.policies import PolicyList

# Plain text: rich would break messages where a line ends, and read markup in them.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
access.register(app)
decide.register(app)
tenants.register(app)
app.add_typer(audit.app, name="audit")
app.add_typer(ddl.app, name="ddl")
app.add_typer(gate.app, name="gate")
app.add_typer(keys.app, name="keys")


def _print_version(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    from vaultbrix.api.meta import API_VERSION  # noqa: PLC0415

    try:
        release = version("vaultbrix")
    except PackageNotFoundError:
        # Run from its source.
        release = "unknown"
    typer.echo(f"vaultbrix {release} ({API_VERSION})")
    raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print release and API version.")
]


@app.callback()
def every_command(version: Version = False) -> None:
    """Secure access to PostgreSQL."""
    leave_no_core()


ProbePort = Annotated[int, typer.Option(help="Port of /healthz and /readyz.")]
AdmissionPolicies = Annotated[
    str,
    typer.Option(
        metavar="NAMESPACE/NAME",
        help="ConfigMap that names the admission policies, without which decisions do not count. None: all count.",
    ),
]


def _policy_list(text: str) -> "PolicyList | None":
    from vaultbrix.admission.policies import PolicyList  # noqa: PLC0415 - needs more than most commands do

    try:
        return PolicyList.parse(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--admission-policies") from None


@app.command()
def operator(
    namespace: Annotated[str, typer.Option(envvar="POD_NAMESPACE", help="Its own, where its Lease is.")],
    image: Annotated[str, typer.Option(envvar="VAULTBRIX_IMAGE", help="Image of the Jobs.")],
    jobs_namespace: Annotated[
        str,
        typer.Option(
            help="Where it makes Jobs and Secrets of their own; nothing else is there. Default: NAMESPACE-jobs."
        ),
    ] = "",
    pull_policy: Annotated[str, typer.Option(help="imagePullPolicy of the Jobs.")] = "IfNotPresent",
    pull_secret: Annotated[
        list[str] | None, typer.Option(help="Secret with which the Jobs' image is pulled. Repeat it for more.")
    ] = None,
    identity: Annotated[str, typer.Option(envvar="POD_NAME", help="Holder of the Lease.")] = "",
    probe_port: ProbePort = 8080,
    resync_minutes: Annotated[int, typer.Option(min=1, help="How often everything is compared again.")] = 10,
    admission_policies: AdmissionPolicies = "",
) -> None:
    """Reconcile PostgresServers, Tenants, AccessRules, DDLApprovals and APIKeys."""
    import uvloop  # noqa: PLC0415

    from vaultbrix.ddl.run import JobSettings  # noqa: PLC0415
    from vaultbrix.operator.main import Options, main  # noqa: PLC0415 - kopf is needed here only
    from vaultbrix.runtime.process import run  # noqa: PLC0415

    jobs = JobSettings(jobs_namespace or f"{namespace}-jobs", image, pull_policy, tuple(pull_secret or ()))
    policies = _policy_list(admission_policies)
    options = Options(namespace, jobs, identity or socket.gethostname(), probe_port, resync_minutes, policies)
    # Many small messages to the API server and to PostgreSQL: this loop takes a fifth less of the processor.
    run(main(options), new_event_loop=uvloop.new_event_loop)


@app.command()
def agent(
    server: Annotated[str, typer.Option(help="Name of the PostgresServer.")],
    hba_file: Annotated[Path, typer.Option(help="pg_hba.conf of PostgreSQL.")],
    state_file: Annotated[Path, typer.Option(help="grants.json, kept over restarts.")],
    socket_directory: Annotated[Path, typer.Option(help="Where PostgreSQL's Unix socket is.")],
    name: Annotated[str, typer.Option(envvar="POD_NAME", help="This agent's name in status.agents.")] = "",
    namespace: Annotated[str, typer.Option(envvar="POD_NAMESPACE", help="Where its Lease is.")] = "vaultbrix-system",
    port: Annotated[int, typer.Option(help="Port of PostgreSQL.")] = 5433,
    firewall: Annotated[
        Literal["auto", "iptables", "nftables"],
        typer.Option(help="The kernel's interface: iptables (legacy) where it works, else nftables; or one of them."),
    ] = "auto",
    database: Annotated[str, typer.Option(help="Database to connect to.")] = "postgres",
    probe_port: ProbePort = 8081,
    echo_port: Annotated[int, typer.Option(help="Port that tells callers their address; 0: none.")] = 0,
    flow_file: Annotated[Path | None, typer.Option(help="The shipper's flow.json: how the audit record flows.")] = None,
    most_connections: Annotated[
        int, typer.Option(min=0, help="Of one address under rules (IPv6: of one /64) at a time; 0: no limit.")
    ] = 100,
    admin: Annotated[
        str,
        typer.Option(help="The operator's login: let in from trusted sources alone. None: pg_hba.conf has its lines."),
    ] = "",
    admin_certificate: Annotated[
        bool, typer.Option("--admin-certificate", help="It needs a client certificate, of PostgreSQL's ssl_ca_file.")
    ] = False,
    certificate_file: Annotated[
        Path | None, typer.Option(help="PostgreSQL's ssl_cert_file: it reloads when that changes.")
    ] = None,
    log_disk: Annotated[
        Path | None,
        # It is measured, and not read.
        typer.Option(readable=False, help="A path on the filesystem that PostgreSQL logs to, whose room is watched."),
    ] = None,
    log_floor_percent: Annotated[
        int, typer.Option(min=1, max=50, help="Of that filesystem, so much has to stay free for auditRequired ...")
    ] = 10,
    log_floor_mib: Annotated[int, typer.Option(min=1, help="... and so many MiB; never more than half of it.")] = 1024,
    admission_policies: AdmissionPolicies = "",
) -> None:
    """Enforce AccessRules beside PostgreSQL: pg_hba.conf, kernel, sessions."""
    from vaultbrix.agent.audit_guard import LogDisk  # noqa: PLC0415
    from vaultbrix.agent.decisions import LogFloor  # noqa: PLC0415
    from vaultbrix.agent.main import Options, main  # noqa: PLC0415 - netfilter's libraries are needed here only
    from vaultbrix.runtime.process import run  # noqa: PLC0415

    options = Options(
        server=server,
        name=(name or socket.gethostname()).lower(),
        namespace=namespace,
        port=port,
        firewall=firewall,
        hba_file=hba_file,
        state_file=state_file,
        socket_directory=socket_directory,
        database=database,
        probe_port=probe_port,
        echo_port=echo_port,
        flow_file=flow_file,
        certificate_file=certificate_file,
        log_disk=LogDisk(log_disk, LogFloor(log_floor_percent, log_floor_mib * 2**20)) if log_disk else None,
        admin=admin,
        admin_certificate=admin_certificate,
        most_connections=most_connections,
        policy_list=_policy_list(admission_policies),
    )
    run(main(options))


@app.command()
def gateway(
    domain: Annotated[str, typer.Option(help="Host of the data API, such as api.example.com.")],
    postgrest: Annotated[Path, typer.Option(help="The program PostgREST, which is run for each tenant.")],
    folder: Annotated[Path, typer.Option(help="Where its sockets and configuration are; the proxy needs the sockets.")],
    namespace: Annotated[str, typer.Option(help="Where the servers' Secrets are: the operator's --jobs-namespace.")],
    socket_file: Annotated[
        Path | None, typer.Option("--socket", help="Unix socket for the proxy in front, in place of host and port.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address for the proxy in front.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port for the proxy in front.")] = 8082,
    rate: Annotated[float, typer.Option(min=0, help="Requests per second of one key; 0: no limit.")] = 0,
    burst: Annotated[float, typer.Option(min=0, help="Requests of one key at once.")] = 100,
    trusted_hops: Annotated[int, typer.Option(min=1, help="Proxies in a row that write X-Forwarded-For.")] = 1,
    probe_port: ProbePort = 8083,
) -> None:
    """Decide on requests of the data API for the proxy in front: which tenant, which role, or why not."""
    import uvloop  # noqa: PLC0415 - libraries of the server are needed here only

    from vaultbrix.gateway.main import Options, main  # noqa: PLC0415
    from vaultbrix.runtime.process import run  # noqa: PLC0415

    options = Options(
        domain=domain,
        postgrest=postgrest,
        folder=folder,
        namespace=namespace,
        socket=socket_file,
        host=host,
        port=port,
        rate=rate,
        burst=burst,
        trusted_hops=trusted_hops,
        probe_port=probe_port,
    )
    run(main(options), new_event_loop=uvloop.new_event_loop)


@app.command()
def proxy(
    folder: Annotated[Path, typer.Option(help="Where nginx has its configuration and temporary files.")],
    sockets: Annotated[Path, typer.Option(help="The gateway's --folder.")],
    gateway_socket: Annotated[Path, typer.Option("--gateway", help="The gateway's --socket.")],
    listen: Annotated[str, typer.Option(help="Address and port, or a port of all addresses.")] = "8443",
    certificate: Annotated[Path | None, typer.Option(help="PEM file; read again when it changes.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
    trusted_proxy: Annotated[list[str], typer.Option(help="CIDR of what may write X-Forwarded-For; repeat it.")] = [],  # noqa: B006
    max_body: Annotated[str, typer.Option(help="Longest body of a request, such as 1m.")] = "1m",
    nginx: Annotated[Path, typer.Option(help="The program nginx.")] = Path("/usr/sbin/nginx"),
) -> None:
    """Run nginx in front of the gateway of the data API beside it."""
    from vaultbrix.gateway.proxy import Options, main  # noqa: PLC0415
    from vaultbrix.runtime.process import run  # noqa: PLC0415

    options = Options(
        nginx=nginx,
        folder=folder,
        listen=listen,
        gateway=gateway_socket,
        sockets=sockets,
        certificate=certificate,
        key=key,
        trusted_proxies=trusted_proxy,
        max_body=max_body,
    )
    run(main(options))


@app.command()
def bootstrap(
    namespace: Annotated[str, typer.Option(envvar="POD_NAMESPACE")],
    name: Annotated[str, typer.Option(help="Prefix of the Secrets' names.")],
    store_name: Annotated[list[str], typer.Option(help="DNS name of the audit store; repeat it for more.")],
    server: Annotated[
        list[str], typer.Option(help="PostgresServer that gets a shipper's login: the chart's own; repeat it for more.")
    ],
    server_name: Annotated[
        list[str],
        typer.Option(
            help="DNS name or address of PostgreSQL; repeat it for more. None: its certificate comes elsewhere."
        ),
    ] = [],  # noqa: B006
    sweep_jobs: Annotated[
        bool,
        typer.Option(
            "--sweep-jobs", help="Delete Jobs of approvals that earlier releases ran here, and their Secrets."
        ),
    ] = False,
) -> None:
    """Create the chart's passwords and certificates where they are missing, and the audit store's schema."""
    from vaultbrix.install.bootstrap import Release  # noqa: PLC0415
    from vaultbrix.install.bootstrap import bootstrap as make  # noqa: PLC0415
    from vaultbrix.install.bootstrap import sweep_jobs as sweep  # noqa: PLC0415
    from vaultbrix.kube.client import Kube  # noqa: PLC0415,
    from vaultbrix.runtime.process import run  # noqa: PLC0415

    async def main() -> None:
        kube = await Kube.connect("vaultbrix-bootstrap")
        try:
            if sweep_jobs:
                await sweep(kube, namespace)
            await make(
                kube, Release(namespace, name, tuple(server_name), tuple(store_name), tuple(dict.fromkeys(server)))
            )
        finally:
            await asyncio.shield(kube.close())

    run(main())


if __name__ == "__main__":
    app()
