"""The release itself: generated files, values, restarts of its Pods."""

import sys

from tests.harness.kubectl import SYSTEM, TEAM, Cluster
from tests.harness.shell import TOP, run
from tests.harness.world import tenant


def test_the_committed_manifests_are_those_of_the_chart() -> None:
    done = run(sys.executable, TOP / "hack/generate", "--check", check=False)
    assert done.returncode == 0, done.stdout


def test_a_typo_in_the_values_is_refused_with_its_name(cluster: Cluster) -> None:
    chart = TOP / "charts/vaultbrix"
    for value, named in (
        ("postgresql.trustedCidrs={10.0.0.0/8}", "trustedCidrs"),
        ("operator.replicas=0", "replicas"),
        ("postgresql.storage.size=ten", "size"),
        ("rbac.tenantNamespaces={Team}", "tenantNamespaces"),
        ("postgresql.agent.firewall=pf", "firewall"),
    ):
        done = run("helm", "template", "x", chart, "--set", value, check=False)
        assert done.returncode != 0
        assert named in done.stderr


def test_tenants_are_served_again_after_the_operators_pod_is_killed(cluster: Cluster) -> None:
    operator = "app.kubernetes.io/component=operator"
    cluster.kubectl("-n", SYSTEM, "delete", "pod", "-l", operator, "--grace-period=0", "--force", check=False)
    cluster.apply(tenant(TEAM, "after-operator", deletionPolicy="Delete"))
    try:
        cluster.kubectl("-n", TEAM, "wait", "--for=condition=Ready", "tenant/after-operator", "--timeout=120s")
    finally:
        cluster.delete("tenant", "after-operator")


def test_data_and_gate_outlive_the_pod_of_postgresql(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE IF NOT EXISTS tenant_acme.lasting(id int)")
    cluster.kubectl("-n", SYSTEM, "delete", "pod", "vaultbrix-postgresql-0", "--timeout=120s")
    cluster.kubectl("-n", SYSTEM, "rollout", "status", "statefulset/vaultbrix-postgresql", "--timeout=180s")
    assert cluster.sql("SELECT to_regclass('tenant_acme.lasting') IS NOT NULL") == "t"
    triggers = "SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'vaultbrix%' AND evtenabled = 'A'"
    assert cluster.sql(triggers) == "3"
    rules = ["env", "XTABLES_LOCKFILE=/tmp/lock", "iptables-legacy", "-S", "INPUT"]
    first = cluster.kubectl("-n", SYSTEM, "exec", "vaultbrix-postgresql-0", "-c", "agent", "--", *rules).splitlines()[1]
    assert first.endswith("-j VAULTBRIX")


def test_a_cluster_that_runs_is_left_alone_by_another_up(cluster: Cluster) -> None:
    said = run(TOP / "hack/cluster/up").stdout
    assert "all components were running" in said
