"""``vaultbrix gateway``: the authorizer of the data API, one of several replicas that know nothing of each other."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.serving.secret import server_of_secret
from vaultbrix.gateway.app import Authorizer
from vaultbrix.gateway.backends import Backends, Listeners
from vaultbrix.gateway.decisions import Settings
from vaultbrix.gateway.jwks import KeySets
from vaultbrix.gateway.jwt import SHORTEST_SECRET
from vaultbrix.gateway.last_use import write_last_use
from vaultbrix.gateway.limits import Limits
from vaultbrix.gateway.refused import Refused
from vaultbrix.gateway.runner import Runner
from vaultbrix.gateway.watched import Watched
from vaultbrix.kube.client import Kube
from vaultbrix.kube.secrets import SecretKey, Secrets
from vaultbrix.postgres.pool import Pool
from vaultbrix.runtime.clock import never_behind
from vaultbrix.runtime.errors import Blocked
from vaultbrix.runtime.probes import probes


@dataclass(frozen=True)
class Options:
    """Command line of the gateway. ``rate`` and ``burst`` are requests of one key, per second and at once."""

    domain: str
    namespace: str
    postgrest: Path
    folder: Path
    socket: Path | None
    host: str
    port: int
    rate: float
    burst: float
    trusted_hops: int
    probe_port: int


class _Server(uvicorn.Server):
    """Serves until it is told to end; signals are the process's own matter."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


async def main(options: Options) -> None:
    """Until cancelled. Raises Blocked where PostgREST cannot be run."""
    _check(options)
    # Nobody else needs it: what is signed is for the PostgRESTs that run here.
    secret = os.urandom(SHORTEST_SECRET)
    # Nothing waits for the API server: until all is known, nobody is let in.
    kube = Kube("vaultbrix-gateway")
    secrets = Secrets(kube)
    key_sets, metrics = KeySets(), CollectorRegistry()
    ProcessCollector(registry=metrics)
    watched = Watched(kube, secrets, key_sets)
    pool = Pool()
    backends = Backends(watched.cache, secrets, pool, options.namespace)
    refused = Refused(backends.servers, backends.server_of, backends.note)
    runner = Runner(options.postgrest, options.folder, secret, backends.served)
    listeners = Listeners(backends.listener, runner.schema_changed)
    runner.started = listeners.ensure

    def changed(resource: Tenant | PostgresServer) -> None:
        if isinstance(resource, Tenant):
            runner.tenant_changed(resource.key)
        else:
            runner.server_changed(resource.metadata.name)

    def secret_changed(secret: SecretKey) -> None:
        if (server := server_of_secret(options.namespace, secret)) is not None:
            runner.server_changed(server)

    watched.changed = changed
    secrets.on_change(secret_changed)

    def clock() -> datetime:
        return never_behind(datetime.now(UTC), kube.clock_skew)

    authorizer = Authorizer(
        watched,
        Settings(options.domain.lower(), secret),
        clock,
        ready=lambda: watched.synced,
        refresh=key_sets.refresh,
        serve=runner.ensure,
        refused=refused,
        limits=Limits(options.rate, options.burst),
        trusted_hops=options.trusted_hops,
        metrics=metrics,
    )
    try:
        async with (
            probes(options.probe_port, lambda: watched.synced, make_aiohttp_handler(metrics)),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(watched.run())
            group.create_task(write_last_use(kube, watched.cache.api_keys, authorizer.used))
            group.create_task(runner.run())
            group.create_task(refused.run())
            group.create_task(serve(authorizer, socket=options.socket, host=options.host, port=options.port))
    finally:
        await listeners.close()
        await pool.close()
        await secrets.close()
        await kube.close()


async def serve(authorizer: Authorizer, *, socket: Path | None, host: str = "127.0.0.1", port: int = 0) -> None:
    """Answer the proxy until cancelled; requests that are being decided on then are answered first.

    At ``socket``, or else at ``host`` and ``port``.
    """
    server = _Server(
        uvicorn.Config(
            authorizer,
            uds=str(socket) if socket is not None else None,
            host=host,
            port=port,
            http="httptools",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=5,
        )
    )
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving


def _check(options: Options) -> None:
    if not os.access(options.postgrest, os.X_OK):
        raise Blocked(Reason.NOT_SUPPORTED, f"--postgrest: {options.postgrest} cannot be run")
    if not os.access(options.folder, os.W_OK):
        raise Blocked(Reason.NOT_SUPPORTED, f"--folder: {options.folder} cannot be written to")
