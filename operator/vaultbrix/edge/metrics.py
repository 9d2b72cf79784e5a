"""Metrics for Prometheus (text format 0.0.4), read off what the processes know anyway when they are asked for."""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.audit.monitor import Monitor

log = structlog.get_logger(__name__)


class ShipperMetrics(Collector):
    """What a shipper's monitor knows."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterable[Metric]:
        """One scrape."""
        monitor, counts = self._monitor, self._monitor.counts
        records = CounterMetricFamily("vaultbrix_audit_records", "Log lines stored.", labels=["kind"])
        for kind, number in sorted(counts.records.items()):
            records.add_metric([kind], number)
        yield records
        for name, text, number in (
            ("batches", "Batches sealed and stored.", counts.batches),
            ("gaps", "Places where the record is known to miss something.", counts.gaps),
            ("quarantined_lines", "Lines of the log that could not be read.", counts.quarantined),
            ("forged_lines", "Lines that a session made up to look like an audit record.", counts.records["forged"]),
            ("store_errors", "Times that the store was out of reach or refused.", counts.store_errors),
        ):
            yield CounterMetricFamily(f"vaultbrix_audit_{name}", text, value=number)
        flow = monitor.flow()
        problems = GaugeMetricFamily("vaultbrix_audit_problem", "Problems that stand.", labels=["reason"])
        for reason in sorted({problem.reason for problem in flow.problems}):
            problems.add_metric([reason], 1)
        yield problems
        free, size = monitor.disk() or (None, None)
        for name, text, value in (
            ("late_seconds", "All that was logged so long ago is stored.", flow.late_seconds),
            ("unread_bytes", "Bytes of the log that are not stored.", flow.unread_bytes),
            ("log_directory_free_bytes", "Free on the file system of PostgreSQL's log.", free),
            ("log_directory_size_bytes", "Size of the file system of PostgreSQL's log.", size),
            ("clock_seconds", "The shipper's clock, in seconds since 1970.", time.time()),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"vaultbrix_audit_{name}", text, value=value)


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
