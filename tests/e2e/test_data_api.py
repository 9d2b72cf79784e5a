"""The data API as the chart installs it: two replicas, each nginx and a gateway, and PostgREST behind sockets only."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.kube_http import Object
from tests.harness.kubectl import SYSTEM, TEAM, Cluster
from tests.harness.shell import run, wait_for

LABELS = "app.kubernetes.io/component=data-api"
HOST = "api.vaultbrix.example"


class Api:
    """The data API, asked through its Service or in one Pod; the CA of its certificate is in ``authority``."""

    def __init__(self, cluster: Cluster, authority: Path) -> None:
        self._cluster = cluster
        self._authority = authority

    def pods(self) -> list[Object]:
        """Its Pods that are ready."""
        return [
            pod
            for pod in self._cluster.items("pods", labels=LABELS)
            if "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
        ]

    def get(self, path: str, key: str, address: str, port: int) -> tuple[int, Any]:
        """Status and body of one request; (0, "") where nobody answers."""
        done = run(
            "curl", "-s", "--max-time", "20", "--cacert", self._authority, "--resolve", f"{HOST}:{port}:{address}",
            "-H", "@-", "-w", "\n%{http_code}", f"https://{HOST}:{port}{path}",
            check=False, input_text=f"apikey: {key}",
        )  # fmt: skip
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body) if body else ""

    def everywhere(self, path: str, key: str) -> list[tuple[int, Any]]:
        """The same request to each Pod."""
        return [self.get(path, key, pod["status"]["podIP"], 8443) for pod in self.pods()]

    def service(self, path: str, key: str) -> tuple[int, Any]:
        """One request to the Service."""
        address = self._cluster.get("service", "vaultbrix-data-api", SYSTEM)["spec"]["clusterIP"]
        return self.get(path, key, address, 443)


@pytest.fixture(scope="module")
def api(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """The release's data API."""
    authority = tmp_path_factory.mktemp("api") / "ca.crt"
    secret = cluster.get("secret", "api-certificate", SYSTEM)
    authority.write_bytes(base64.b64decode(secret["data"]["tls.crt"]))
    return Api(cluster, authority)


@pytest.fixture
def key(cluster: Cluster) -> Iterator[str]:
    """An APIKey of the demo's tenant; gives the key itself."""
    spec = {"tenantRef": {"name": "acme"}, "kind": "Secret", "reason": "e2e", "requestedBy": "jane@example.com"}
    body = {
        "apiVersion": "vaultbrix.com/v1alpha1",
        "kind": "APIKey",
        "metadata": {"name": "e2e", "namespace": TEAM},
        "spec": spec,
    }
    cluster.apply(body)
    yield current(cluster)
    cluster.delete("apikey", "e2e")


def current(cluster: Cluster, not_this: str = "") -> str:
    """The key in the APIKey's Secret once it is good and another than ``not_this``."""

    def text() -> str:
        secret = cluster.get("secret", "e2e-api-key")
        value = base64.b64decode(secret["data"]["key"]).decode() if secret else ""
        status = cluster.get("apikey", "e2e").get("status", {})
        return value if value != not_this and status.get("phase") == "Active" else ""

    return wait_for("the key is in its Secret", text, patience=60, pause=0.3)


def test_a_replaced_key_ends_in_both_replicas_at_once(cluster: Cluster, api: Api, key: str) -> None:
    wait_for("both replicas are ready", lambda: len(api.pods()) == 2, patience=120, pause=1)
    users = "/rest/v1/users?select=name&order=id&limit=1"
    wait_for("both replicas answer", lambda: api.everywhere(users, key) == [(200, [{"name": "Ada"}])] * 2, pause=0.5)
    cluster.kubectl("-n", TEAM, "patch", "apikey", "e2e", "--type=merge", "-p", '{"spec":{"rotateToken":"1"}}')
    new = current(cluster, not_this=key)
    assert [status for status, _ in api.everywhere(users, key)] == [401, 401]
    assert api.everywhere(users, new) == [(200, [{"name": "Ada"}])] * 2


def test_requests_are_answered_while_a_replica_is_killed_and_again_by_its_successor(
    cluster: Cluster, api: Api, key: str
) -> None:
    wait_for("both replicas are ready", lambda: len(api.pods()) == 2, patience=120, pause=1)
    users = "/rest/v1/users?select=name&order=id&limit=1"
    wait_for("the API answers", lambda: api.service(users, key)[0] == 200, pause=0.5)
    names = {pod["metadata"]["name"] for pod in api.pods()}
    victim = min(names)
    cluster.kubectl("-n", SYSTEM, "delete", "pod", victim, "--grace-period=0", "--force", check=False)

    def successor() -> bool:
        # Connections that the killed replica still gets are lost; whoever is answered gets the tenant's rows.
        status, body = api.service(users, key)
        assert (status, body) == (200, [{"name": "Ada"}]) or status in (0, 502, 503)
        return len({pod["metadata"]["name"] for pod in api.pods()} - names) == 1

    wait_for("a successor is ready", successor, patience=120, pause=0.3)
    wait_for("both answer", lambda: api.everywhere(users, key) == [(200, [{"name": "Ada"}])] * 2, pause=0.5)


def test_requests_are_answered_again_after_postgresql_was_restarted(cluster: Cluster, api: Api, key: str) -> None:
    users = "/rest/v1/users?select=name&order=id&limit=1"
    wait_for("the API answers", lambda: api.service(users, key)[0] == 200, pause=0.5)
    postgresql = ["exec", "vaultbrix-postgresql-0", "-c", "postgresql", "--"]
    cluster.kubectl("-n", SYSTEM, *postgresql, "sh", "-c", "kill -INT $(head -1 /data/pgdata/postmaster.pid)")
    end = time.monotonic() + 120
    while (answer := api.service(users, key)) != (200, [{"name": "Ada"}]) or time.monotonic() < end - 115:
        assert answer == (200, [{"name": "Ada"}]) or answer[0] >= 500, answer
        assert time.monotonic() < end, answer
        time.sleep(0.3)


def test_nothing_but_the_proxys_port_is_open_to_the_network(cluster: Cluster, api: Api, key: str) -> None:
    wait_for("both replicas are ready", lambda: len(api.pods()) == 2, patience=120, pause=1)
    wait_for("a PostgREST runs", lambda: api.service("/rest/v1/users?limit=1", key)[0] == 200, pause=0.5)
    for pod in api.pods():
        listening = cluster.kubectl(
            "-n", SYSTEM, "exec", pod["metadata"]["name"], "-c", "gateway", "--",
            "python3", "-c", LISTENING,
        ).split()  # fmt: skip
        assert set(listening) == {"8443", "8083"}


# Ports at which this network namespace listens to others than itself (proc(5), /proc/net/tcp: state 0A; an address is
# in the host's byte order).
LISTENING = """
for name in ("tcp", "tcp6"):
    for line in open(f"/proc/net/{name}").readlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == "0A" and not local.startswith("0100007F"):
            print(int(local.rpartition(":")[2], 16))
"""
