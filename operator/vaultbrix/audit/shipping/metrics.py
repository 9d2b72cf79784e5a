"""The shipper's metrics for Prometheus, read off its monitor when they are asked for."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vaultbrix.audit.shipping.monitor import Monitor

log = structlog.get_logger(__name__)


class ShipperMetrics(Collector):
    """Collects, at each scrape, what a shipper's monitor knows."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterable[Metric]:
        """The metrics of one scrape."""
        monitor, counts = self._monitor, self._monitor.counts
        records = CounterMetricFamily("vaultbrix_audit_records", "Log lines stored.", labels=["kind"])
        for kind, number in sorted(counts.records.copy().items()):
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


@contextmanager
def serving(port: int, monitor: Monitor, address: str = "") -> Iterator[None]:
    """Answer /metrics while the context is open; port 0: not at all. A port that is taken stops nothing else.

    In a thread of its own, so that a scrape waits for no batch. Without an address: on all, of IPv6 where there is any.
    """
    registry = CollectorRegistry()
    registry.register(ShipperMetrics(monitor))
    ProcessCollector(registry=registry)
    server, why = None, ""
    for place in ([address] if address else ["::", "0.0.0.0"]) if port else []:  # noqa: S104 - for Prometheus
        try:
            server, _ = start_http_server(port, place, registry)
        except OSError as error:
            why = str(error)
        else:
            break
    if server is None and port:
        log.warning("no metrics", port=port, message=why)
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()
