"""NetworkPolicies by what they mean: who may connect to the server's Pods, judged by code that is not ours."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.network import MACHINE
from tests.harness.networkpolicy_oracle import Attempt, allowed
from tests.harness.shell import TOP, run, wait_for
from tests.harness.world import ECHO_PORT, EVE, JANE, PORT, World, in_seconds, rule

from vaultbrix.access.networkpolicy.render import base_network_policy, tenant_network_policy

POD = {"app": "postgresql", "tier": "database"}
OTHER_POD = {"app": "web"}


RESYNC = """
import asyncio
from vaultbrix.ddl.run import JobSettings
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.secrets import Secrets
from vaultbrix.operator.main import Options, register_subjects
from vaultbrix.operator.manager import Manager
from vaultbrix.postgres.admin import Admin
from vaultbrix.postgres.pool import Pool

async def main():
    kube, cache = await Kube.connect("vaultbrix-operator"), Cache()
    options = Options("none", JobSettings(namespace="none-jobs", image="none", pull_policy="Never"), "test", 0, 10)
    manager = Manager(kube, cache, register_subjects(kube, cache, Admin(Secrets(kube), Pool()), options))
    await manager.start()
    await manager.resync()
    await kube.close()

asyncio.run(main())
"""


class Cluster:
    """One PostgresServer whose Pods are in a namespace of their own, and what the policies there let through."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.server = f"policies-{number}"
        self.namespace = world.api.namespace(f"database-{number}")
        self.team = world.team()
        self.place()

    def place(self, **spec: object) -> None:
        """Apply the PostgresServer, with these fields of its spec changed, and wait until the operator has seen it."""
        self.world.server(self.server, **{"namespace": self.namespace, **spec})
        self.world.api.await_condition("pgs", self.server, "")

    def tenant(self) -> str:
        return self.world.tenant(self.team, serverRef={"name": self.server})

    def policies(self, namespace: str = "") -> list[dict[str, object]]:
        """Those that our operator made for this server, in all namespaces or in one."""
        where = ["-n", namespace] if namespace else ["-A"]
        said = self.world.api.kubectl(
            "get", "networkpolicies", *where, "-l", f"vaultbrix.com/server={self.server}", "-o", "json"
        )
        return list(json.loads(said)["items"])

    def admits(
        self, source: str, *, port: int = PORT, labels: dict[str, str] = POD, namespace: str = "", protocol: str = "TCP"
    ) -> bool:
        """Whether the address may connect, by all policies that the API server holds."""
        policies = json.loads(self.world.api.kubectl("get", "networkpolicies", "-A", "-o", "json"))["items"]
        (verdict,) = allowed(policies, [Attempt(source, port, namespace or self.namespace, labels, protocol)])
        return verdict

    def remove(self) -> None:
        """The PostgresServer, and whatever of its policies is left."""
        self.world.api.kubectl("delete", "accessrules", "--all", "-n", self.team)
        self.world.api.kubectl("delete", "tenants", "--all", "-n", self.team)
        self.world.api.delete("pgs", self.server)
        for policy in self.policies():
            meta = policy["metadata"]
            assert isinstance(meta, dict)
            self.world.api.delete("networkpolicy", meta["name"], meta["namespace"])


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def cluster(world: World, numbers: Iterator[int]) -> Iterator[Cluster]:
    made = Cluster(world, next(numbers))
    yield made
    made.remove()


@pytest.fixture
def resync(world: World) -> Callable[[], object]:
    """The operator's periodic comparison, now, by one that knows nothing of what was there before."""
    places = {"KUBECONFIG": str(world.api.kubeconfig), "PYTHONPATH": str(TOP / "operator")}
    return lambda: run(sys.executable, "-c", RESYNC, env=places)


def test_without_a_rule_only_trusted_sources_reach_the_server(cluster: Cluster) -> None:
    assert cluster.admits(MACHINE)
    for address in (JANE, EVE, "2001:db8::7", "172.31.250.3", "10.244.0.7"):
        assert not cluster.admits(address)


def test_a_trusted_source_reaches_the_servers_port_and_no_other(cluster: Cluster) -> None:
    assert not any(cluster.admits(MACHINE, port=port) for port in (5432, 22, 8081))
    assert not cluster.admits(MACHINE, protocol="UDP")


def test_everybody_may_ask_under_which_address_he_comes(cluster: Cluster) -> None:
    cluster.place(publicEndpoint={"host": "db.example.com", "echoPort": ECHO_PORT})
    wait_for("the echo is open", lambda: cluster.admits(EVE, port=ECHO_PORT))
    assert not cluster.admits(EVE)
    cluster.place(publicEndpoint=None)
    wait_for("the echo is closed again", lambda: not cluster.admits(EVE, port=ECHO_PORT))


def test_pods_that_are_not_the_servers_are_left_as_open_as_they_were(cluster: Cluster) -> None:
    cluster.world.rule(cluster.team, cluster.tenant(), f"{JANE}/32")
    wait_for("jane is let in", lambda: cluster.admits(JANE))
    assert cluster.admits(EVE, port=80, labels=OTHER_POD)
    assert cluster.admits(EVE, labels=POD, namespace=cluster.team)


def test_an_open_rules_addresses_are_let_in_and_their_neighbours_are_not(cluster: Cluster) -> None:
    tenant = cluster.tenant()
    cluster.world.rule(cluster.team, tenant, "198.51.100.64/26", "203.0.113.7/32", "2001:db8:0:7::/64")
    wait_for("the policy is there", lambda: cluster.admits("203.0.113.7"))
    for inside in ("198.51.100.64", "198.51.100.100", "198.51.100.127", "2001:db8:0:7::", "2001:db8:0:7:ffff::1"):
        assert cluster.admits(inside)
        assert not cluster.admits(inside, port=5432)
    for outside in ("198.51.100.63", "198.51.100.128", "203.0.113.6", "203.0.113.8", "2001:db8:0:6:ffff::1", EVE):
        assert not cluster.admits(outside)
    assert cluster.admits(MACHINE), "trusted sources stay"


def test_nested_rules_end_one_by_one(cluster: Cluster) -> None:
    tenant = cluster.tenant()
    wide = cluster.world.rule(cluster.team, tenant, "198.51.100.0/24")
    narrow = cluster.world.rule(cluster.team, tenant, f"{EVE}/32")
    wait_for(
        "both are there", lambda: cluster.admits("198.51.100.200") and f"{EVE}/32" in json.dumps(cluster.policies())
    )
    cluster.world.api.delete("accessrule", wide, cluster.team)
    wait_for("the wide one has ended", lambda: not cluster.admits("198.51.100.200"))
    assert cluster.admits(EVE)
    cluster.world.api.delete("accessrule", narrow, cluster.team)
    wait_for("the narrow one has ended", lambda: not cluster.admits(EVE))


def test_an_ended_rule_lets_nobody_in(cluster: Cluster) -> None:
    tenant = cluster.tenant()
    cluster.world.rule(cluster.team, tenant, f"{JANE}/32", expiresAt=in_seconds(6))
    revoked = cluster.world.rule(cluster.team, tenant, "2001:db8::7/128")
    wait_for("both are let in", lambda: cluster.admits(JANE) and cluster.admits("2001:db8::7"))
    cluster.world.api.apply(rule(cluster.team, revoked, tenant, "2001:db8::7/128", revoked=True))
    wait_for("the revoked one is refused", lambda: not cluster.admits("2001:db8::7"))
    wait_for("the expired one is refused", lambda: not cluster.admits(JANE))


def test_a_rule_that_is_rejected_lets_nobody_in(cluster: Cluster) -> None:
    tenant = cluster.tenant()
    wide = cluster.world.rule(cluster.team, tenant, "203.0.0.0/16")
    cluster.world.rule(cluster.team, tenant, f"{EVE}/32")
    cluster.world.api.await_condition("accessrule", wide, cluster.team, status="False", reason="PrefixTooWide")
    wait_for("the other is let in", lambda: cluster.admits(EVE))
    assert not cluster.admits(JANE)


def test_two_tenants_are_let_in_together_and_end_apart(cluster: Cluster) -> None:
    first, second = cluster.tenant(), cluster.tenant()
    cluster.world.rule(cluster.team, first, f"{JANE}/32", "192.0.2.1/32")
    ending = cluster.world.rule(cluster.team, second, f"{EVE}/32", "192.0.2.1/32")
    wait_for("both are let in", lambda: cluster.admits(JANE) and cluster.admits(EVE))
    cluster.world.api.delete("accessrule", ending, cluster.team)
    wait_for("the second is refused", lambda: not cluster.admits(EVE))
    assert cluster.admits(JANE)
    assert cluster.admits("192.0.2.1"), "the first still gives it"


def test_a_server_outside_the_cluster_has_no_policy(cluster: Cluster) -> None:
    name = f"{cluster.server}-vm"
    cluster.world.server(name, namespace=None, podSelector=None)
    try:
        cluster.world.api.await_condition("pgs", name, "")
        tenant = cluster.world.tenant(cluster.team, serverRef={"name": name})
        opened = cluster.world.rule(cluster.team, tenant, f"{JANE}/32")
        cluster.world.api.await_condition("accessrule", opened, cluster.team, type_="NetworkPolicyApplied")
        said = cluster.world.api.kubectl("get", "networkpolicies", "-A", "-l", f"vaultbrix.com/server={name}")
        assert "No resources found" in said or not said.strip()
        assert not cluster.admits(JANE)
    finally:
        cluster.world.api.kubectl("delete", "accessrules,tenants", "--all", "-n", cluster.team)
        cluster.world.api.delete("pgs", name)


def test_the_policy_of_a_tenant_that_is_deleted_goes_with_it(cluster: Cluster) -> None:
    tenant = cluster.tenant()
    cluster.world.rule(cluster.team, tenant, f"{JANE}/32")
    wait_for("jane is let in", lambda: cluster.admits(JANE))
    cluster.world.api.delete("tenant", tenant, cluster.team)
    wait_for("jane is refused", lambda: not cluster.admits(JANE))
    assert len(cluster.policies()) == 1, "only the server's own is left"


def test_the_policy_of_a_tenant_that_vanished_unseen_is_pruned(cluster: Cluster, resync: Callable[[], object]) -> None:
    tenant = cluster.tenant()
    cluster.world.rule(cluster.team, tenant, f"{JANE}/32")
    wait_for("jane is let in", lambda: cluster.admits(JANE))
    vanish(cluster, tenant)
    try:
        assert cluster.admits(JANE)
        resync()
        assert not cluster.admits(JANE)
        assert cluster.admits(MACHINE)
    finally:
        cluster.world.operator.start()


def vanish(cluster: Cluster, tenant: str) -> None:
    """Take a Tenant out of the cluster while no operator runs, as a restored backup would."""
    cluster.world.operator.kill()
    cluster.world.api.delete("tenant", tenant, cluster.team, wait=False)
    cluster.world.api.patch("tenant", tenant, cluster.team, {"metadata": {"finalizers": None}})
    wait_for("it is gone", lambda: not cluster.world.api.get("tenant", tenant, cluster.team))


def test_a_policy_that_somebody_made_under_our_label_is_pruned_and_others_are_left(
    cluster: Cluster, resync: Callable[[], object]
) -> None:
    foreign = base_network_policy(
        server=cluster.server, namespace=cluster.namespace, pod_selector=POD, port=PORT, trusted=["0.0.0.0/0"]
    )
    foreign["metadata"]["name"] = "everybody"
    cluster.world.api.apply(foreign)
    theirs = {**foreign, "metadata": {"name": "theirs", "namespace": cluster.namespace}, "spec": {"podSelector": {}}}
    cluster.world.api.apply(theirs)
    assert cluster.admits(EVE)
    resync()
    assert not cluster.admits(EVE)
    assert cluster.world.api.get("networkpolicy", "theirs", cluster.namespace)


def test_no_policy_is_left_of_a_server_that_was_deleted_with_its_tenants(
    cluster: Cluster, resync: Callable[[], object]
) -> None:
    tenant = cluster.tenant()
    cluster.world.rule(cluster.team, tenant, f"{JANE}/32")
    wait_for("jane is let in", lambda: cluster.admits(JANE))
    cluster.world.api.kubectl("delete", "pgs", cluster.server, "--wait=false")
    cluster.world.api.kubectl("delete", "tenant", tenant, "-n", cluster.team)
    cluster.world.api.kubectl("wait", "pgs", cluster.server, "--for=delete", "--timeout=60s")
    wait_for("jane is refused", lambda: not cluster.admits(JANE) or not cluster.policies())
    resync()
    wait_for("no policy is left", lambda: not cluster.policies(), patience=10)


def test_no_policy_is_left_of_a_server_that_was_taken_away_unseen(
    cluster: Cluster, resync: Callable[[], object]
) -> None:
    tenant = cluster.tenant()
    cluster.world.rule(cluster.team, tenant, f"{JANE}/32")
    wait_for("jane is let in", lambda: cluster.admits(JANE))
    cluster.world.operator.kill()
    without_finalizers = json.dumps({"metadata": {"finalizers": None}})
    cluster.world.api.kubectl("patch", "pgs", cluster.server, "--type=merge", "-p", without_finalizers)
    cluster.world.api.delete("pgs", cluster.server)
    resync()
    try:
        assert not cluster.policies()
    finally:
        cluster.world.operator.start()


def test_policies_follow_a_server_to_another_namespace(cluster: Cluster, resync: Callable[[], object]) -> None:
    tenant = cluster.tenant()
    cluster.world.rule(cluster.team, tenant, f"{JANE}/32")
    wait_for("jane is let in", lambda: cluster.admits(JANE))
    moved = cluster.world.api.namespace(f"{cluster.namespace}-moved")
    cluster.place(namespace=moved)
    wait_for(
        "jane is let in there", lambda: cluster.policies(moved) and cluster.admits(JANE, namespace=moved), patience=10
    )
    assert not cluster.admits(EVE, namespace=moved)
    resync()
    wait_for("nothing is left behind", lambda: not cluster.policies(cluster.namespace), patience=10)


def test_no_policy_is_left_of_a_server_that_moved_out_of_the_cluster(
    cluster: Cluster, resync: Callable[[], object]
) -> None:
    cluster.place(namespace=None, podSelector=None)
    resync()
    wait_for("no policy is left", lambda: not cluster.policies(), patience=10)


def test_tenants_policies_follow_the_servers_selector_and_port(cluster: Cluster) -> None:
    tenant = cluster.tenant()
    cluster.world.rule(cluster.team, tenant, f"{JANE}/32")
    wait_for("jane is let in", lambda: cluster.admits(JANE))
    replacement = {"app": "postgresql-16"}
    cluster.place(podSelector=replacement)
    wait_for("the server's own has followed", lambda: cluster.admits(MACHINE, labels=replacement))
    wait_for("jane is let in there", lambda: cluster.admits(JANE, labels=replacement), patience=10)
    assert not cluster.admits(EVE, labels=replacement)


ADDRESSES = st.one_of(
    st.integers(0, 2**12 - 1).map(lambda n: str(ip_address((198 << 24) + n))),
    st.integers(0, 2**12 - 1).map(lambda n: str(ip_address((0x20010DB8 << 96) + n))),
)
# Few addresses and many prefixes over them, so that they nest and touch.
CIDRS = st.tuples(ADDRESSES, st.integers(20, 32)).map(
    lambda pair: str(ip_network(f"{pair[0]}/{pair[1] + (96 if ':' in pair[0] else 0)}", strict=False))
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    trusted=st.lists(CIDRS, max_size=3, unique=True),
    tenants=st.lists(st.lists(CIDRS, max_size=4, unique=True), max_size=3),
    sources=st.lists(ADDRESSES, min_size=8, max_size=8),
)
def test_exactly_the_union_of_trusted_and_open_addresses_is_let_in(
    trusted: list[str], tenants: list[list[str]], sources: list[str]
) -> None:
    where = {"server": "main", "namespace": "database", "pod_selector": {"app": "postgresql"}, "port": PORT}
    policies = [base_network_policy(**where, trusted=trusted)]
    policies += [
        tenant_network_policy(**where, tenant=f"team/t{n}", role=f"tenant_t{n}", cidrs=cidrs)
        for n, cidrs in enumerate(tenants)
    ]
    everything = [ip_network(cidr) for cidrs in (trusted, *tenants) for cidr in cidrs]
    wanted = [any(ip_address(source) in network for network in everything) for source in sources]
    assert allowed(policies, [Attempt(source, PORT, "database", POD) for source in sources]) == wanted
    assert not any(allowed(policies, [Attempt(source, 5432, "database", POD) for source in sources]))
