"""The chart as Helm renders it: what values switch on, and what is refused."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests.harness.shell import TOP, binaries

from vaultbrix.audit.shipping.metrics import ShipperMetrics
from vaultbrix.audit.shipping.monitor import Monitor
from vaultbrix.cli.main import app

pytestmark = pytest.mark.skipif(
    not (binaries() / "helm").exists() and shutil.which("helm") is None, reason="needs helm; run: make setup"
)


def helm(*values: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("helm") or str(binaries() / "helm")
    options = [part for value in values for part in ("--set", value)]
    command = [program, "template", "x", str(TOP / "charts/vaultbrix"), "--kube-version", "1.34.0", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(*values: str) -> list[Any]:
    done = helm(*values)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of(documents: list[Any], kind: str) -> list[Any]:
    return [document for document in documents if document["kind"] == kind]


def test_nothing_of_the_prometheus_operator_is_asked_for_by_default() -> None:
    found = rendered()
    assert not of(found, "PodMonitor")
    assert not of(found, "PrometheusRule")


def test_retention_is_the_servers_and_its_login_is_the_operators() -> None:
    (found,) = of(rendered("audit.retention.days=90", "audit.retention.archiveFirst=true"), "PostgresServer")
    assert found["spec"]["auditRetention"] == {"days": 90, "archiveFirst": True}
    reference = found["spec"]["auditManagerSecretRef"]
    rules = [rule for role in of(rendered(), "Role") for rule in role["rules"] if "secrets" in rule["resources"]]
    # The operator reads it, and the bootstrap Job makes it.
    assert sum(reference["name"] in rule.get("resourceNames", []) for rule in rules) == 2
    (store,) = [c for c in of(rendered(), "ConfigMap") if c["metadata"]["name"].endswith("-audit")]
    assert "+audit_redact" in store["data"]["pg_hba.conf"]
    assert "+audit_manage" in store["data"]["pg_hba.conf"]
    for wrong in ("audit.retention.days=0", "audit.retention.dayz=1"):
        assert helm(wrong).returncode != 0


def test_monitors_find_ports_that_containers_have_and_carry_the_labels_asked_for() -> None:
    found = rendered("monitoring.enabled=true", "monitoring.labels.release=prometheus")
    pods = [d["spec"]["template"] for kind in ("Deployment", "StatefulSet") for d in of(found, kind)]
    for monitor in of(found, "PodMonitor"):
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (pod,) = [pod for pod in pods if wanted <= pod["metadata"]["labels"].items()]
        containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        ports = {port["name"] for container in containers for port in container.get("ports", [])}
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports
    assert len(of(found, "PodMonitor")) == 2


def test_alerts_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    (rules,) = of(rendered("monitoring.enabled=true"), "PrometheusRule")
    families = ShipperMetrics(Monitor("main", tmp_path)).collect()
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    names.add("vaultbrix_server_condition")
    alerts = rules["spec"]["groups"][0]["rules"]
    for alert in alerts:
        asked = {word for word in _words(alert["expr"]) if word.startswith("vaultbrix_")}
        assert asked, alert
        assert asked <= names, alert["alert"]
    for topic in ("NotFlowing", "Late", "Gap", "Quarantine", "Forged", "LogDiskFilling", "Clock", "ShipperDown"):
        assert any(topic in alert["alert"] for alert in alerts)


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in text).split()


def test_the_shipper_writes_the_file_that_the_agent_reads_and_the_agent_cannot_write_it() -> None:
    (pod,) = [
        d["spec"]["template"]["spec"] for d in of(rendered(), "StatefulSet") if "postgresql" in d["metadata"]["name"]
    ]
    agent, shipper = ({c["name"]: c for c in pod["initContainers"]}[name] for name in ("agent", "shipper"))
    assert "--flow-file=/data/flow/flow.json" in agent["args"]
    assert "--flow=/data/flow/flow.json" in shipper["args"]
    mounts = [{m["mountPath"]: m for m in c["volumeMounts"]}["/data/flow"] for c in (agent, shipper)]
    assert [mount.get("readOnly", False) for mount in mounts] == [True, False]


def test_the_policy_on_the_record_reaches_the_server() -> None:
    (server,) = of(rendered("postgresql.auditRequired=true", "postgresql.auditGrace=5m"), "PostgresServer")
    assert (server["spec"]["auditRequired"], server["spec"]["auditGrace"]) == (True, "5m")


@pytest.mark.parametrize(
    "value", ["monitoring.enable=true", "monitoring.interval=often", "postgresql.auditGrace=10", "monitoring.from=all"]
)
def test_a_wrong_value_is_refused_with_its_name(value: str) -> None:
    done = helm(value)
    assert done.returncode != 0
    assert value.partition("=")[0].rpartition(".")[2] in done.stderr


def test_the_operator_reads_keys_and_writes_their_status_and_an_agent_knows_of_none() -> None:
    verbs: dict[str, set[str]] = {}
    for role in of(rendered(), "ClusterRole"):
        process = role["metadata"]["name"].rpartition("-")[2]
        for rule in role["rules"]:
            for resource in rule["resources"]:
                if resource.startswith("apikeys"):
                    verbs.setdefault(f"{process} {resource}", set()).update(rule["verbs"])
    assert verbs == {
        "operator apikeys": {"get", "list", "watch"},
        "operator apikeys/status": {"patch"},
        "secrets apikeys/finalizers": {"update"},
    }


DATA_API = ("dataAPI.enabled=true", "dataAPI.url=https://api.example.com:8443", "dataAPI.tls.secretName=api-tls")


def test_the_data_api_is_there_when_it_is_asked_for_and_its_server_says_where() -> None:
    assert not any("data-api" in document["metadata"]["name"] for document in rendered())
    found = rendered(*DATA_API, "dataAPI.trustedProxies={10.0.0.0/8}")
    (server,) = of(found, "PostgresServer")
    assert server["spec"]["dataAPI"] == {"url": "https://api.example.com:8443"}
    (pod,) = [
        d["spec"]["template"]["spec"] for d in of(found, "Deployment") if d["metadata"]["name"].endswith("data-api")
    ]
    gateway, proxy = pod["containers"]
    assert "--domain=api.example.com" in gateway["args"]
    assert "--trusted-proxy=10.0.0.0/8" in proxy["args"]
    # What one writes, the other only reads, and none of it is on a disk.
    mounts = [{m["name"]: m.get("readOnly", False) for m in c["volumeMounts"]} for c in (gateway, proxy)]
    assert [(m["postgrest"], m["gateway"]) for m in mounts] == [(False, False), (True, True)]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["postgrest"]["emptyDir"] == volumes["gateway"]["emptyDir"] == {"medium": "Memory"}


def test_options_of_the_data_api_are_those_that_the_commands_have() -> None:
    (pod,) = [
        d["spec"]["template"]["spec"]
        for d in of(rendered(*DATA_API), "Deployment")
        if d["metadata"]["name"].endswith("data-api")
    ]
    program: Any = typer.main.get_command(app)
    for container in pod["containers"]:
        command, *options = container["args"]
        known = {name for p in program.commands[command].params for name in p.opts}
        assert {option.partition("=")[0] for option in options} <= known


def test_the_data_api_reads_no_secret_but_those_that_are_named() -> None:
    found = rendered(*DATA_API, "dataAPI.userSecretNames={users}", "rbac.tenantNamespaces={team-a}")
    roles = [d for kind in ("Role", "ClusterRole") for d in of(found, kind) if "data-api" in d["metadata"]["name"]]
    names = [rule["resourceNames"] for role in roles for rule in role["rules"] if "secrets" in rule["resources"]]
    assert sorted(names) == [["main-data-api"], ["users"]]
    verbs = {verb for role in roles for rule in role["rules"] for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch", "patch"}


@pytest.mark.parametrize("missing", ["dataAPI.url", "dataAPI.tls.secretName"])
def test_a_data_api_without_address_or_certificate_is_refused(missing: str) -> None:
    done = helm(*(value for value in DATA_API if not value.startswith(missing)))
    assert done.returncode != 0
    assert f"{missing} is needed" in done.stderr
