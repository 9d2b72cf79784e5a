"""The main job from start to end, as the demo shows it."""

import base64
import json

from tests.harness.demo import Demo
from tests.harness.kubectl import JOBS, SYSTEM, TEAM, Cluster

STEPS = [
    "1  Without a rule", "2  A Tenant", "3  An AccessRule", "4  DROP TABLE needs", "5  An admin approves",
    "6  The rule ends", "7  A second rule", "8  An application", "9  Every statement", "Measured in this run",
]  # fmt: skip


def test_the_demo_shows_every_step_and_measures(demo: Demo) -> None:
    assert demo.code == 0, demo.said
    for title in STEPS:
        assert title in demo.said


def secrets(cluster: Cluster) -> set[str]:
    """Every password of the release and of the tenant, and every API key."""
    found = set()
    for namespace in (SYSTEM, JOBS, TEAM):
        for secret in cluster.items("secrets", namespace):
            for key, value in (secret.get("data") or {}).items():
                if key in ("password", "key"):
                    found.add(base64.b64decode(value).decode())
    return found


def test_no_password_is_anywhere_but_in_its_secret(cluster: Cluster, demo: Demo) -> None:
    passwords = secrets(cluster)
    assert len(passwords) >= 4
    places = [demo.said]
    for kind in ("pods", "events", "jobs", "configmaps", "vaultbrix", "networkpolicies"):
        places.append(cluster.kubectl("get", kind, "-A", "-o", "yaml"))
    for pod in (*cluster.items("pods"), *cluster.items("pods", JOBS)):
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        places.append(cluster.kubectl("-n", namespace, "logs", name, "--all-containers", check=False))
    log = ["sh", "-c", "cat /data/log/*"]
    places.append(cluster.kubectl("-n", SYSTEM, "exec", "vaultbrix-postgresql-0", "-c", "postgresql", "--", *log))
    for secret in cluster.items("secrets"):
        if secret["type"].startswith("helm.sh/"):
            places.append(json.dumps(secret))
    verifiers = cluster.sql("SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL").splitlines()
    assert verifiers
    for place in places:
        for secret_text in (*passwords, *verifiers):
            assert secret_text not in place


def test_only_the_agent_has_a_capability_and_everybody_else_is_not_root(cluster: Cluster) -> None:
    for pod in (*cluster.items("pods"), *cluster.items("pods", JOBS)):
        spec = pod["spec"]
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]
            added = context["capabilities"].get("add", [])
            if container["name"] == "agent":
                assert sorted(added) == ["NET_ADMIN", "NET_RAW"]
            else:
                assert added == []
                assert context.get("runAsNonRoot", spec["securityContext"].get("runAsNonRoot")) is True


def test_the_operator_and_the_agent_may_do_what_they_need_and_no_more(cluster: Cluster) -> None:
    def may(who: str, verb: str, what: str, namespace: str) -> bool:
        what, _, subresource = what.partition("/")
        account = f"--as=system:serviceaccount:{SYSTEM}:vaultbrix-{who}"
        return cluster.kubectl(
            "-n", namespace, "auth", "can-i", verb, what, f"--subresource={subresource}", account, check=False
        ).startswith("yes")

    assert may("operator", "create", "secrets", TEAM)
    for namespace in ("default", "kube-system", SYSTEM):
        for verb in ("get", "list", "create"):
            assert not may("operator", verb, "secrets", namespace)
    assert not may("operator", "list", "secrets", TEAM)
    assert may("operator", "create", "jobs", JOBS)
    assert not may("operator", "create", "jobs", SYSTEM)
    assert not may("operator", "create", "pods", SYSTEM)
    assert not may("operator", "update", "accessrules", TEAM)
    assert may("agent", "watch", "accessrules", TEAM)
    assert may("agent", "patch", "accessrules/status", TEAM)
    assert not may("agent", "patch", "accessrules", TEAM)
    assert not may("agent", "get", "secrets", SYSTEM)


def test_only_pods_that_need_the_api_have_a_token(cluster: Cluster) -> None:
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    for pod in (*cluster.items("pods"), *cluster.items("pods", JOBS)):
        component = pod["metadata"]["labels"].get("app.kubernetes.io/component")
        for container in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]):
            mounted = any(m["mountPath"] == token for m in container.get("volumeMounts", []))
            assert mounted == (component in ("operator", "bootstrap") or container["name"] in ("agent", "gateway"))
