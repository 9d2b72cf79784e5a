"""Metrics for Prometheus (text format 0.0.4), read off what the processes know anyway when they are asked for."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vaultbrix.api.postgresserver import PostgresServer

log = structlog.get_logger(__name__)


class ServerMetrics(Collector):
    """The conditions of PostgresServers as an operator last saw them; one that does not lead sees none."""

    def __init__(self, servers: Callable[[], Iterable[PostgresServer]]) -> None:
        self._servers = servers

    def collect(self) -> Iterable[Metric]:
        """One scrape."""
        family = GaugeMetricFamily(
            "vaultbrix_server_condition",
            "1 where the condition of a PostgresServer has that status.",
            labels=["server", "type", "status"],
        )
        for server in self._servers():
            for condition in server.status.conditions:
                for status in ("True", "False", "Unknown"):
                    labels = [server.metadata.name, condition.type, status]
                    family.add_metric(labels, float(condition.status == status))
        yield family


def handler(collector: Collector) -> Handler:
    """Answers /metrics, with the process's own beside the collector's."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    return make_aiohttp_handler(registry)


@asynccontextmanager
async def serving(port: int, collector: Collector, *, address: str = "") -> AsyncIterator[None]:
    """Answer /metrics while the context is open; port 0: not at all. A port that is taken stops nothing else."""
    application = web.Application()
    application.router.add_get("/metrics", handler(collector))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        if port:
            try:
                await web.TCPSite(runner, address or None, port).start()
            except OSError as error:
                log.error("no metrics", port=port, message=str(error.strerror))
        yield
    finally:
        await runner.cleanup()
