"""``vaultbrix gateway``: the authorizer of the data API, one of several replicas that know nothing of each other."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler

from vaultbrix.api.conditions import Reason
from vaultbrix.gateway.app import Authorizer
from vaultbrix.gateway.decisions import Settings
from vaultbrix.gateway.jwks import KeySets
from vaultbrix.gateway.jwt import SHORTEST_SECRET
from vaultbrix.gateway.last_use import write_last_use
from vaultbrix.gateway.limits import Limits
from vaultbrix.gateway.watched import Watched
from vaultbrix.kube.client import Kube
from vaultbrix.kube.secrets import Secrets
from vaultbrix.runtime.clock import never_behind
from vaultbrix.runtime.errors import Blocked
from vaultbrix.runtime.probes import probes


@dataclass(frozen=True)
class Options:
    """Command line of the gateway. ``rate`` and ``burst`` are requests of one key, per second and at once."""

    domain: str
    secret_file: Path
    socket: Path | None
    host: str
    port: int
    shard: str
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
    """Until cancelled. Raises Blocked without a secret to sign with."""
    secret = _secret(options.secret_file)
    # Nothing waits for the API server: until all is known, nobody is let in.
    kube = Kube("vaultbrix-gateway")
    secrets = Secrets(kube)
    key_sets, metrics = KeySets(), CollectorRegistry()
    ProcessCollector(registry=metrics)
    watched = Watched(kube, secrets, key_sets, options.shard)

    def clock() -> datetime:
        return never_behind(datetime.now(UTC), kube.clock_skew)

    authorizer = Authorizer(
        watched,
        Settings(options.domain.lower(), secret),
        clock,
        ready=lambda: watched.synced,
        refresh=key_sets.refresh,
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
            group.create_task(serve(authorizer, socket=options.socket, host=options.host, port=options.port))
    finally:
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


def _secret(file: Path) -> bytes:
    """The secret that PostgREST has too. Raises Blocked where it cannot be used."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Blocked(Reason.SECRET_INVALID, f"the secret for PostgREST's tokens cannot be read: {error}") from None
    if len(content) < SHORTEST_SECRET:
        raise Blocked(Reason.SECRET_INVALID, f"{file} must hold at least {SHORTEST_SECRET} bytes")
    return content
