"""The release's own Pods reach each other where an ipBlock matches no Pod, as the chart renders it.

Kubernetes calls ipBlock a rule for addresses outside the cluster (Network Policies), and some plugins are strict.
"""

from typing import Any

import pytest
from tests.harness.chart import DATA_API, JOBS, NAMESPACE, approvals_job, of, rendered
from tests.harness.networkpolicy_oracle import Attempt, allowed, blind_to_pods
from tests.harness.world import PORT

from vaultbrix.access.networkpolicy.render import base_network_policy
from vaultbrix.api.postgresserver import PostgresServer

POD_ADDRESS, STORE_PORT = "10.244.0.7", 5432


@pytest.fixture(scope="module")
def release() -> list[Any]:
    """Of somebody who trusts all Pods by their addresses."""
    return rendered(*DATA_API, "postgresql.trustedCIDRs={10.244.0.0/16}")


@pytest.fixture(scope="module")
def policies(release: list[Any]) -> list[Any]:
    """The chart's, and the one that the operator makes for its PostgresServer."""
    (document,) = of(release, "PostgresServer")
    server = PostgresServer.parse(document)
    assert server.trusted_networks == ["10.244.0.0/16"]
    base = base_network_policy(
        server=server.metadata.name, namespace=server.spec.namespace or "", pod_selector=server.spec.pod_selector,
        port=server.spec.port, trusted=server.trusted_networks, trusted_pods=server.spec.trusted.pods,
    )  # fmt: skip
    chart = of(release, "NetworkPolicy")
    for policy in chart:
        policy["metadata"].setdefault("namespace", NAMESPACE)
    return [*chart, base]


def labels(release: list[Any], component: str) -> dict[str, str]:
    """Those of the Pods of one of the chart's workloads."""
    (found,) = [
        document["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "StatefulSet", "Job")
        for document in of(release, kind)
        if document["spec"]["template"]["metadata"]["labels"].get("app.kubernetes.io/component") == component
    ]
    return dict(found)


def reaches(policies: list[Any], source: tuple[str, dict[str, str]], target: dict[str, str], port: int) -> bool:
    namespace, source_labels = source
    attempt = Attempt(POD_ADDRESS, port, NAMESPACE, target, source_namespace=namespace, source_labels=source_labels)
    (verdict,) = allowed(policies, [attempt])
    return verdict


@pytest.mark.parametrize("component", ["operator", "data-api"])
def test_those_that_work_on_postgresql_reach_it_by_their_labels(
    release: list[Any], policies: list[Any], component: str
) -> None:
    postgresql = labels(release, "postgresql")
    source = (NAMESPACE, labels(release, component))
    assert reaches(blind_to_pods(policies), source, postgresql, PORT)
    assert not reaches(blind_to_pods(policies), source, postgresql, 22)


def test_a_job_of_an_approval_reaches_postgresql_by_its_labels(release: list[Any], policies: list[Any]) -> None:
    template = approvals_job()["spec"]["template"]
    source = (JOBS, template["metadata"]["labels"])
    assert reaches(blind_to_pods(policies), source, labels(release, "postgresql"), PORT)
    elsewhere = ("team-acme", template["metadata"]["labels"])
    assert not reaches(blind_to_pods(policies), elsewhere, labels(release, "postgresql"), PORT)


@pytest.mark.parametrize("component", ["postgresql", "operator"])
def test_shipper_and_reader_reach_the_store_by_their_labels(
    release: list[Any], policies: list[Any], component: str
) -> None:
    source = (NAMESPACE, labels(release, component))
    assert reaches(blind_to_pods(policies), source, labels(release, "audit"), STORE_PORT)


def test_a_pod_that_is_trusted_by_its_address_alone_is_not_let_in_there(
    release: list[Any], policies: list[Any]
) -> None:
    postgresql, exporter = labels(release, "postgresql"), ("monitoring", {"app": "exporter"})
    assert reaches(policies, exporter, postgresql, PORT), "by the letter of the address"
    assert not reaches(blind_to_pods(policies), exporter, postgresql, PORT)
