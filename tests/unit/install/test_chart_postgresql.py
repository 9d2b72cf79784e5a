"""The chart's PostgreSQL with agent and shipper: volumes, certificates, who is let in."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.harness import chart
from tests.harness.chart import DATA_API, JOBS, NAMESPACE, approvals_job, configuration, helm, of, postgresql, rendered
from tests.harness.log_follower import FIRST, SECOND, THIRD, Follower, append

pytestmark = pytest.mark.skipif(not chart.available(), reason="needs helm; run: hack/cluster/build.sh")


def test_the_shipper_writes_the_file_that_the_agent_reads_and_the_agent_cannot_write_it() -> None:
    pod = postgresql(rendered())
    agent, shipper = ({c["name"]: c for c in pod["initContainers"]}[name] for name in ("agent", "shipper"))
    assert "--flow-file=/data/flow/flow.json" in agent["args"]
    assert "--flow=/data/flow/flow.json" in shipper["args"]
    mounts = [{m["mountPath"]: m for m in c["volumeMounts"]}["/data/flow"] for c in (agent, shipper)]
    assert [mount.get("readOnly", False) for mount in mounts] == [True, False]


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ([], None),
        (
            ["rbac.tenantNamespaces={team-a,team-b}"],
            {
                "from": "Selector",
                "selector": {
                    "matchExpressions": [
                        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team-a", "team-b"]}
                    ]
                },
            },
        ),
        (["rbac.tenantNamespaces={team-a}", "postgresql.allowedNamespaces.from=All"], {"from": "All"}),
        (
            [
                "postgresql.allowedNamespaces.from=Selector",
                "postgresql.allowedNamespaces.selector.matchLabels.tenants=yes",
            ],
            {"from": "Selector", "selector": {"matchLabels": {"tenants": "yes"}}},
        ),
    ],
)
def test_tenants_are_let_in_from_the_namespaces_that_are_named_and_from_no_other(
    values: list[str], allowed: dict[str, Any] | None
) -> None:
    (server,) = of(rendered(*values), "PostgresServer")
    assert server["spec"].get("allowedNamespaces") == allowed


def test_what_tenants_left_behind_goes_to_whom_the_values_name() -> None:
    adoption = "postgresql.adoptions[0]"
    to = {"namespace": "team-a", "name": "app", "uid": "uid-2"}
    (server,) = of(
        rendered(f"{adoption}.from=uid-1", *(f"{adoption}.to.{key}={value}" for key, value in to.items())),
        "PostgresServer",
    )
    assert server["spec"]["adoptions"] == [{"from": "uid-1", "to": to}]


def test_log_and_state_are_on_another_volume_than_the_data() -> None:
    documents = rendered("postgresql.logStorage.size=3Gi", "postgresql.logStorage.className=fast")
    pod = postgresql(documents)
    containers = {c["name"]: c for c in (*pod["initContainers"], *pod["containers"])}
    for name, paths in (("agent", ("state", "flow")), ("shipper", ("log", "state", "flow")), ("postgresql", ("log",))):
        mounts = {mount["mountPath"]: mount for mount in containers[name]["volumeMounts"]}
        for path in paths:
            assert (mounts[f"/data/{path}"]["name"], mounts[f"/data/{path}"]["subPath"]) == ("log", path)
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "log"]
    (claim,) = of(documents, "PersistentVolumeClaim")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_statefulset_that_is_there_can_be_upgraded() -> None:
    """Kubernetes refuses any change of these fields."""
    for found in of(rendered(), "StatefulSet"):
        assert [claim["metadata"]["name"] for claim in found["spec"]["volumeClaimTemplates"]] == ["data"]


def postgres_of(folder: Path, major: int) -> dict[str, str]:
    """An environment in which ``postgres`` says that it is of that version."""
    folder.mkdir()
    program = folder / "postgres"
    program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {major}.6 (Debian {major}.6-0+deb13u1)'\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


@pytest.mark.parametrize("part", ["postgresql", "audit"])
@pytest.mark.parametrize(("holds", "starts"), [("17", True), ("15", False), ("9.6", False)])
def test_data_of_another_major_version_is_not_touched(tmp_path: Path, part: str, holds: str, starts: bool) -> None:
    (script,) = (
        found["data"]["initialise"]
        for found in of(rendered(), "ConfigMap")
        if found["metadata"]["name"].endswith(part) and "initialise" in found["data"]
    )
    check = script[script.index("holds=") :]
    check = check[: check.index("\nfi\n") + len("\nfi\n")].replace("/data/", f"{tmp_path}/")
    (tmp_path / "pgdata").mkdir()
    (tmp_path / "pgdata/PG_VERSION").write_text(f"{holds}\n")
    done = subprocess.run(
        ["sh", "-c", check], check=False, capture_output=True, text=True, env=postgres_of(tmp_path / "programs", 17)
    )
    assert (done.returncode == 0) is starts
    if not starts:
        assert f"the data is of PostgreSQL {holds} and this image runs 17" in done.stderr


def test_an_upgrade_takes_log_and_state_along_whenever_it_is_interrupted(tmp_path: Path) -> None:
    script = re.sub(r"(?<![\w/.])/(data|log|etc)/", rf"{tmp_path}/\1/", configuration(rendered())["initialise"])
    folders = ("data/pgdata", "data/log", "data/state", "data/flow", "log")
    for name in (*folders, "etc/vaultbrix/hba", "etc/vaultbrix/config"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/pgdata/PG_VERSION").write_text("17\n")
    environment = postgres_of(tmp_path / "programs", 17)
    for name in ("pg_hba.conf", "pg_ident.conf"):
        (tmp_path / "etc/vaultbrix/config" / name).touch()
    for name, text in (("grants.json", "grants"), ("grants.journal", "journal")):
        (tmp_path / "data/state" / name).write_text(text)
    follower = Follower(tmp_path / "data/log")
    append(follower.directory, FIRST, b"one\n")
    append(follower.directory, SECOND, b"two\n")
    follower.poll()
    append(follower.directory, SECOND, b"unread\n")
    # Killed after every command; `trap` runs before each.
    for count in range(60):
        killed = f"n=0; trap 'n=$((n + 1)); [ $n -le {count} ] || kill -KILL $$' DEBUG\n"
        subprocess.run(["bash", "-c", killed + script], check=False, env=environment)
    subprocess.run(["sh", "-c", script], check=True, env=environment)
    follower.directory = tmp_path / "log/log"
    follower.restart()
    follower.poll()
    append(follower.directory, THIRD, b"three\n")
    follower.poll()
    assert follower.texts() == [b"one", b"two", b"unread", b"three"]
    assert (follower.gaps, follower.torn) == ([], [])
    assert {path.name: path.read_text() for path in (tmp_path / "log/state").glob("grants.*")} == {
        "grants.json": "grants",
        "grants.journal": "journal",
    }
    assert list((tmp_path / "data/log").iterdir()) == []


def server_names(documents: list[Any]) -> list[str]:
    (job,) = of(documents, "Job")
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return [argument.partition("=")[2] for argument in arguments if argument.startswith("--server-name=")]


ENDPOINTS = (
    "postgresql.publicEndpoint.host=db.example.com",
    "postgresql.service.externalIPs={203.0.113.5}",
    "postgresql.tls.names={2001:db8::5}",
)
SERVICE = ["x-vaultbrix-postgresql.default.svc", "x-vaultbrix-postgresql"]


def test_the_certificate_is_good_for_every_name_and_address_that_clients_use() -> None:
    assert server_names(rendered()) == SERVICE
    assert server_names(rendered(*ENDPOINTS)) == [*SERVICE, "db.example.com", "203.0.113.5", "2001:db8::5"]


def test_cert_manager_issues_it_where_an_issuer_is_named() -> None:
    assert not of(rendered(), "Certificate")
    issuer = ("postgresql.tls.certManager.issuerRef.name=ca", "postgresql.tls.certManager.issuerRef.kind=ClusterIssuer")
    found = rendered(*ENDPOINTS, *issuer)
    assert server_names(found) == [], "bootstrap issues none"
    (certificate,) = of(found, "Certificate")
    spec = certificate["spec"]
    assert spec["issuerRef"] == {"name": "ca", "kind": "ClusterIssuer"}
    assert spec["dnsNames"] == [*SERVICE, "db.example.com"]
    assert spec["ipAddresses"] == ["203.0.113.5", "2001:db8::5"]
    volumes = postgresql(found)["volumes"]
    mounted = {v["secret"]["secretName"] for v in volumes if v["name"] in ("tls", "certificate")}
    (server,) = of(found, "PostgresServer")
    assert mounted == {spec["secretName"], server["spec"]["tls"]["caSecretRef"]["name"]}
    (server,) = of(rendered(*issuer, "postgresql.tls.caSecretName=letsencrypt"), "PostgresServer")
    assert server["spec"]["tls"]["caSecretRef"]["name"] == "letsencrypt"
    # Issuers that write the CA write it where it is read; whoever names another Secret labels that one.
    assert spec["secretTemplate"]["labels"] == {"vaultbrix.com/for-postgresserver": server["metadata"]["name"]}
    assert helm("postgresql.tls.certManager.issuer=ca").returncode != 0


def test_the_agent_sees_the_certificate_that_postgresql_serves_and_not_its_key() -> None:
    pod = postgresql(rendered())
    (agent,) = [c for c in pod["initContainers"] if c["name"] == "agent"]
    (mount,) = [m for m in agent["volumeMounts"] if m["name"] == "certificate"]
    assert f"--certificate-file={mount['mountPath']}/tls.crt" in agent["args"]
    volumes = {
        volume["name"]: volume["secret"] for volume in pod["volumes"] if volume["name"] in ("tls", "certificate")
    }
    assert volumes["certificate"]["items"] == [{"key": "tls.crt", "path": "tls.crt"}]
    assert volumes["certificate"]["secretName"] == volumes["tls"]["secretName"]
    assert "tls" not in {m["name"] for m in agent["volumeMounts"]}


def test_nobody_is_trusted_by_default_but_what_the_release_itself_runs() -> None:
    (server,) = of(rendered(), "PostgresServer")
    assert "trustedCIDRs" not in server["spec"]
    assert "addresses" not in server["spec"]["trusted"]
    components = {pods["selector"]["app.kubernetes.io/component"] for pods in server["spec"]["trusted"]["pods"]}
    assert components == {"operator", "ddl"}
    (server,) = of(rendered(*DATA_API), "PostgresServer")
    components = {pods["selector"]["app.kubernetes.io/component"] for pods in server["spec"]["trusted"]["pods"]}
    assert components == {"operator", "ddl", "data-api"}


def test_trusted_selectors_fit_the_pods_that_need_to_get_in() -> None:
    found = rendered(*DATA_API)
    (server,) = of(found, "PostgresServer")
    job = approvals_job()
    templates = [d["spec"]["template"]["metadata"]["labels"] for d in [*of(found, "Deployment"), job]]
    for pods in server["spec"]["trusted"]["pods"]:
        jobs = pods["selector"]["app.kubernetes.io/component"] == "ddl"
        assert pods["namespace"] == (JOBS if jobs else NAMESPACE)
        assert sum(pods["selector"].items() <= labels.items() for labels in templates) == 1, pods


def test_the_agent_may_watch_pods_where_trusted_ones_are_and_nowhere_else() -> None:
    more = ("postgresql.trusted.pods[0].namespace=monitoring", "postgresql.trusted.pods[0].selector.app=exporter")
    found = rendered(*more)
    (server,) = of(found, "PostgresServer")
    assert {"namespace": "monitoring", "selector": {"app": "exporter"}} in server["spec"]["trusted"]["pods"]
    roles = [role for role in of(found, "Role") if role["metadata"]["name"].endswith("-agent-pods")]
    assert [role["metadata"]["namespace"] for role in roles] == [NAMESPACE, JOBS, "monitoring"]
    assert all(
        role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}] for role in roles
    )
    (everywhere,) = [r for r in of(found, "ClusterRole") if r["metadata"]["name"].endswith("-agent")]
    assert not any("pods" in rule["resources"] for rule in everywhere["rules"])


def test_a_trusted_range_is_warned_of_and_the_static_pg_hba_conf_lets_nobody_in_over_tcp() -> None:
    (server,) = of(rendered("postgresql.trustedCIDRs={10.244.0.0/16}"), "PostgresServer")
    assert server["spec"]["trustedCIDRs"] == ["10.244.0.0/16"]
    lines = [
        line.split()[0] for line in configuration(rendered())["pg_hba.conf"].splitlines() if line[:1] not in ("#", "")
    ]
    assert set(lines) == {"local"}


def test_who_does_not_log_in_does_not_hold_a_connection_and_one_address_does_not_hold_them_all() -> None:
    found = rendered("postgresql.agent.mostConnections=7")
    assert "\nauthentication_timeout = 10s\n" in configuration(found)["postgresql.conf"]
    (agent,) = [c for c in postgresql(found)["initContainers"] if c["name"] == "agent"]
    assert "--most-connections=7" in agent["args"]


def test_the_admin_needs_a_client_certificate_whose_key_only_the_operator_reads() -> None:
    found = rendered()
    pod = postgresql(found)
    (agent,) = [c for c in pod["initContainers"] if c["name"] == "agent"]
    assert {"--admin=postgres", "--admin-certificate"} <= set(agent["args"])
    volumes = {v["name"]: v["secret"]["items"] for v in pod["volumes"] if v["name"] in ("admin", "client-ca")}
    assert volumes == {
        "admin": [{"key": "password", "path": "password"}],
        "client-ca": [{"key": "client-ca.crt", "path": "ca.crt"}],
    }
    (server,) = pod["containers"]
    (mount,) = [m for m in server["volumeMounts"] if m["name"] == "client-ca"]
    assert f"\nssl_ca_file = '{mount['mountPath']}/ca.crt'\n" in configuration(found)["postgresql.conf"]
