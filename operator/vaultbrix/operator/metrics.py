"""The operator's metrics for Prometheus, computed from cached objects with each scrape."""

from collections import Counter
from collections.abc import Callable, Iterable

from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vaultbrix.api.orphan import OrphanKind
from vaultbrix.api.postgresserver import PostgresServer


class ServerMetrics(Collector):
    """Conditions and orphans of PostgresServers as an operator last saw them; one that does not lead sees none."""

    def __init__(self, servers: Callable[[], Iterable[PostgresServer]]) -> None:
        self._servers = servers

    def collect(self) -> Iterable[Metric]:
        """The metrics of one scrape."""
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
        yield self._orphans()

    def _orphans(self) -> Metric:
        family = GaugeMetricFamily(
            "vaultbrix_server_orphans",
            "What a PostgresServer lists that no object explains, by kind.",
            labels=["server", "kind"],
        )
        for server in self._servers():
            counts = Counter(orphan.kind for orphan in server.status.orphans)
            for kind in OrphanKind:
                family.add_metric([server.metadata.name, kind], float(counts[kind]))
        return family


def handler(collector: Collector) -> Handler:
    """Answers /metrics, with the process's own beside the collector's."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    return make_aiohttp_handler(registry)
