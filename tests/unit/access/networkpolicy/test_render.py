import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vaultbrix.access.networkpolicy.render import base_network_policy, policy_name, tenant_network_policy
from vaultbrix.api.postgresserver import TrustedPods
from vaultbrix.ddl.job.manifest import ddl_job

HOSTILE = [
    'a"\n  evil: true',
    "{{ 7 * 7 }}",
    "a: b",
    "- x",
    "*alias",
    "!!python/object:os.system",
    "---",
    "'",
    "yes",
    "0x10",
    "~",
    "# comment",
    "</script>&",
    "a\\",
]

# Kubernetes hands us UTF-8; characters beyond the BMP are in none of these values.
TEXTS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), min_size=1, max_size=30)
SLUGS = st.from_regex(r"\A[a-z][a-z0-9_]{0,54}\Z")
SERVERS = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?\Z")


def job(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "ddl-uid",
        "namespace": "system",
        "uid": "uid",
        "approval": "team/drop",
        "deadline_seconds": 1200,
        "image": "registry/vaultbrix:1",
        "pull_policy": "IfNotPresent",
        "pull_secrets": (),
        "secret": "ddl-uid",
    }
    return ddl_job(**{**values, **changes})


def policy(**changes: Any) -> dict[str, Any]:
    values = {
        "server": "main",
        "tenant": "team/acme",
        "role": "tenant_acme",
        "namespace": "db",
        "pod_selector": {"app": "postgres"},
        "port": 5433,
        "cidrs": ["203.0.113.7/32", "2001:db8::/64"],
    }
    return tenant_network_policy(**{**values, **changes})


class TestNetworkPolicy:
    def test_a_tenants_policy_lets_its_open_addresses_reach_the_port_and_nothing_else(self) -> None:
        found = policy()
        assert found["spec"] == {
            "podSelector": {"matchLabels": {"app": "postgres"}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "ports": [{"port": 5433, "protocol": "TCP"}],
                    "from": [{"ipBlock": {"cidr": "203.0.113.7/32"}}, {"ipBlock": {"cidr": "2001:db8::/64"}}],
                }
            ],
        }
        assert (found["apiVersion"], found["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
        assert found["metadata"]["namespace"] == "db"
        assert found["metadata"]["annotations"] == {"vaultbrix.com/tenant": "team/acme"}

    def test_without_addresses_it_lets_nobody_in_rather_than_everybody(self) -> None:
        assert policy(cidrs=[])["spec"]["ingress"] == []

    def test_the_base_policy_lets_only_trusted_sources_in(self) -> None:
        found = base_network_policy(
            server="main", namespace="db", pod_selector={"app": "pg"}, port=5433, trusted=["10.0.0.0/16"]
        )
        assert found["metadata"]["name"] == "vaultbrix-main"
        assert found["spec"]["ingress"][0]["from"] == [{"ipBlock": {"cidr": "10.0.0.0/16"}}]
        assert "annotations" not in found["metadata"]

    @pytest.mark.parametrize("trusted", [["10.0.0.0/16"], []])
    def test_trusted_pods_are_let_in_by_namespace_and_labels(self, trusted: list[str]) -> None:
        found = base_network_policy(
            server="main",
            namespace="db",
            pod_selector={"app": "pg"},
            port=5433,
            trusted=trusted,
            trusted_pods=[TrustedPods(namespace="monitoring", selector={"app": "exporter"})],
        )
        (ingress,) = found["spec"]["ingress"]
        assert ingress["ports"] == [{"port": 5433, "protocol": "TCP"}]
        assert ingress["from"] == [
            *({"ipBlock": {"cidr": cidr}} for cidr in trusted),
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
                "podSelector": {"matchLabels": {"app": "exporter"}},
            },
        ]

    @pytest.mark.parametrize("trusted", [["10.0.0.0/16"], []])
    def test_the_echo_is_open_to_everybody_and_opens_nothing_else(self, trusted: list[str]) -> None:
        values: dict[str, Any] = {"server": "main", "namespace": "db", "pod_selector": {"app": "pg"}, "port": 5433}
        without = base_network_policy(**values, trusted=trusted)["spec"]["ingress"]
        found = base_network_policy(**values, trusted=trusted, echo_port=5434)["spec"]["ingress"]
        assert found == [*without, {"ports": [{"port": 5434, "protocol": "TCP"}]}]

    def test_all_policies_of_a_server_are_found_by_its_label(self) -> None:
        base = base_network_policy(server="main", namespace="db", pod_selector={}, port=1, trusted=[])
        expected = {"app.kubernetes.io/managed-by": "vaultbrix", "vaultbrix.com/server": "main"}
        assert base["metadata"]["labels"] == policy()["metadata"]["labels"] == expected

    @given(SERVERS, SLUGS)
    def test_every_role_makes_a_name_that_kubernetes_takes(self, server: str, slug: str) -> None:
        name = policy_name(server, f"tenant_{slug}")
        assert len(name) <= 253
        assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", part) for part in name.split("."))

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (("main", "tenant_a"), ("main", "tenant_b")),
            (("main", "tenant_a_"), ("main", "tenant_a__")),
            (("a", "tenant_x_tenant_y"), ("a-tenant-x", "tenant_y")),
        ],
    )
    def test_no_two_tenants_share_a_policy(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        assert policy_name(*one) != policy_name(*other)

    @given(SERVERS, SERVERS, SLUGS)
    def test_no_tenants_policy_is_the_base_policy_of_any_server(self, one: str, other: str, slug: str) -> None:
        assert policy_name(one, f"tenant_{slug}") != f"vaultbrix-{other}"

    @pytest.mark.parametrize("value", HOSTILE)
    def test_hostile_values_stay_values(self, value: str) -> None:
        found = policy(tenant=value, server=value, namespace=value, pod_selector={value: value}, cidrs=[value])
        assert found["metadata"]["annotations"] == {"vaultbrix.com/tenant": value}
        assert found["metadata"]["labels"]["vaultbrix.com/server"] == value
        assert found["metadata"]["namespace"] == value
        assert found["spec"]["podSelector"] == {"matchLabels": {value: value}}
        assert found["spec"]["ingress"][0]["from"] == [{"ipBlock": {"cidr": value}}]
        assert set(found) == {"apiVersion", "kind", "metadata", "spec"}


class TestJob:
    def test_it_runs_the_entry_point_with_its_secret_and_nothing_more(self) -> None:
        found = job()
        pod = found["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["args"] == ["ddl", "run", "--directory", "/etc/vaultbrix/ddl"]
        assert container["image"] == "registry/vaultbrix:1"
        assert "env" not in container
        assert pod["volumes"] == [{"name": "ddl", "secret": {"secretName": "ddl-uid", "defaultMode": 0o440}}]
        assert container["volumeMounts"] == [{"name": "ddl", "mountPath": "/etc/vaultbrix/ddl", "readOnly": True}]

    def test_it_has_no_rights_that_it_does_not_need(self) -> None:
        pod = job()["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }

    def test_what_postgresql_refused_is_not_tried_again_and_what_failed_otherwise_is(self) -> None:
        spec = job()["spec"]
        (fail,) = spec["podFailurePolicy"]["rules"]
        assert fail == {
            "action": "FailJob",
            "onExitCodes": {"containerName": "ddl", "operator": "In", "values": [3]},
        }
        assert spec["template"]["spec"]["restartPolicy"] == "Never"
        assert spec["backoffLimit"] > 0
        assert spec["activeDeadlineSeconds"] == 1200

    def test_it_is_found_by_the_approvals_uid(self) -> None:
        found = job()["metadata"]
        assert found["labels"]["vaultbrix.com/ddlapproval-uid"] == "uid"
        assert found["annotations"] == {"vaultbrix.com/ddlapproval": "team/drop"}
        assert (found["name"], found["namespace"]) == ("ddl-uid", "system")

    def test_its_image_is_pulled_with_the_releases_secrets(self) -> None:
        assert "imagePullSecrets" not in job()["spec"]["template"]["spec"]
        found = job(pull_secrets=("registry", "mirror"))["spec"]["template"]["spec"]["imagePullSecrets"]
        assert found == [{"name": "registry"}, {"name": "mirror"}]

    @settings(max_examples=25)
    @given(TEXTS)
    def test_hostile_values_stay_values(self, value: str) -> None:
        found = job(
            name=value, namespace=value, uid=value, approval=value, image=value, pull_policy=value, secret=value
        )
        plain = job()
        pod, expected = found["spec"]["template"]["spec"], plain["spec"]["template"]["spec"]
        assert found["metadata"]["name"] == found["metadata"]["namespace"] == value
        assert found["metadata"]["annotations"] == {"vaultbrix.com/ddlapproval": value}
        assert pod["containers"][0]["image"] == pod["volumes"][0]["secret"]["secretName"] == value
        assert pod["securityContext"] == expected["securityContext"]
        assert pod["containers"][0].keys() == expected["containers"][0].keys()
        assert yaml.safe_load(yaml.safe_dump(found)) == found
