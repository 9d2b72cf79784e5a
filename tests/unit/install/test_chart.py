"""The chart as a whole: what values switch on, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import typer
from tests.harness import chart
from tests.harness.chart import DATA_API, approvals_job, helm, of, rendered

from vaultbrix.api.roles import USER_ROLES
from vaultbrix.audit.shipping.metrics import ShipperMetrics
from vaultbrix.audit.shipping.monitor import Monitor
from vaultbrix.cli.main import app
from vaultbrix.operator.metrics import ServerMetrics

PEOPLE = {role.name for role in USER_ROLES}

pytestmark = pytest.mark.skipif(not chart.available(), reason="needs helm; run: hack/cluster/build.sh")


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
    names |= {family.name for family in ServerMetrics(list).collect()}
    alerts = rules["spec"]["groups"][0]["rules"]
    for alert in alerts:
        asked = {word for word in _words(alert["expr"]) if word.startswith("vaultbrix_")}
        assert asked, alert
        assert asked <= names, alert["alert"]
    for topic in ("NotFlowing", "Late", "Gap", "Quarantine", "Forged", "LogDiskFilling", "Clock", "ShipperDown"):
        assert any(topic in alert["alert"] for alert in alerts)


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in text).split()


def test_each_server_whose_record_is_kept_gets_a_login_that_bootstrap_may_write() -> None:
    documents = rendered("audit.servers={db1,db2}")
    (job,) = of(documents, "Job")
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [arg for arg in args if arg.startswith("--server=")] == ["--server=main", "--server=db1", "--server=db2"]
    known = {name for p in typer.main.get_command(app).commands["bootstrap"].params for name in p.opts}  # type: ignore[attr-defined]
    assert {arg.partition("=")[0] for arg in args[1:]} <= known
    (role,) = [role for role in of(documents, "Role") if role["metadata"]["name"].endswith("-bootstrap")]
    names = {name for rule in role["rules"] for name in rule.get("resourceNames", [])}
    assert {name.partition("audit-shipper-")[2] for name in names if "audit-shipper-" in name} == {
        "db1",
        "db2",
    }
    assert helm("audit.servers={Db1}").returncode != 0


def test_the_policy_on_the_record_reaches_the_server() -> None:
    (server,) = of(rendered("postgresql.auditRequired=true", "postgresql.auditGrace=5m"), "PostgresServer")
    assert (server["spec"]["auditRequired"], server["spec"]["auditGrace"]) == (True, "5m")


def test_whether_access_needs_an_approval_reaches_the_server() -> None:
    (server,) = of(rendered(), "PostgresServer")
    assert server["spec"]["accessApproval"] == "None"
    assert "autoApproveUpTo" not in server["spec"]
    values = "postgresql.accessApproval=Required", "postgresql.autoApproveUpTo=1h"
    (server,) = of(rendered(*values), "PostgresServer")
    assert (server["spec"]["accessApproval"], server["spec"]["autoApproveUpTo"]) == ("Required", "1h")
    assert helm("postgresql.accessApproval=Sometimes").returncode != 0
    assert helm("postgresql.autoApproveUpTo=soon").returncode != 0


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
                if resource.startswith("apikeys") and process not in PEOPLE:
                    verbs.setdefault(f"{process} {resource}", set()).update(rule["verbs"])
    assert verbs == {
        "operator apikeys": {"get", "list", "watch"},
        "operator apikeys/status": {"patch"},
        "secrets apikeys/finalizers": {"update"},
    }


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
    assert verbs == {"get", "list", "watch", "patch", "report"}


@pytest.mark.parametrize("missing", ["dataAPI.url", "dataAPI.tls.secretName"])
def test_a_data_api_without_address_or_certificate_is_refused(missing: str) -> None:
    done = helm(*(value for value in DATA_API if not value.startswith(missing)))
    assert done.returncode != 0
    assert f"{missing} is needed" in done.stderr


def test_a_digest_takes_the_place_of_the_tag_for_containers_and_jobs() -> None:
    digest = f"sha256:{'0' * 64}"
    found = rendered(f"image.digest={digest}", f"postgresqlImage.digest={digest}", "image.tag=odd")
    pods = [d["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet", "Job") for d in of(found, kind)]
    containers = [c for pod in pods for c in (*pod.get("initContainers", []), *pod["containers"])]
    assert {c["image"].partition("@")[2] for c in containers} == {digest}
    (operator,) = [c for c in containers if c["name"] == "operator"]
    assert {"name": "VAULTBRIX_IMAGE", "value": operator["image"]} in operator["env"]
    assert helm("image.digest=sha256:1").returncode != 0


def test_jobs_reach_dns_and_postgresql_and_nobody_reaches_them() -> None:
    policies = of(rendered("operator.jobPorts={5433,5434}"), "NetworkPolicy")
    (jobs,) = [p for p in policies if p["metadata"]["name"].endswith("-jobs")]
    assert jobs["metadata"]["namespace"] == approvals_job()["metadata"]["namespace"]
    assert jobs["spec"]["podSelector"] == {}
    assert jobs["spec"]["ingress"] == []
    (egress,) = jobs["spec"]["egress"]
    assert sorted(port["port"] for port in egress["ports"]) == [53, 53, 5433, 5434]
