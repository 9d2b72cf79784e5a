"""The policies of admission as the chart renders them."""

import re
from typing import Any

import pytest
import yaml
from tests.harness import chart
from tests.harness.chart import DATA_API, helm, of, rendered
from tests.harness.shell import TOP

from vaultbrix.admission.decisions import InstalledPolicy, fault_of, installed_policies, spec_sha256
from vaultbrix.api.accessrule import AccessPhase
from vaultbrix.api.audit_retention import ClassDays
from vaultbrix.api.conditions import ConditionType
from vaultbrix.api.ddlapproval import FINAL_PHASES
from vaultbrix.api.kinds import KINDS
from vaultbrix.api.roles import USER_ROLES
from vaultbrix.api.tenant import TenantSpec

pytestmark = pytest.mark.skipif(not chart.available(), reason="needs helm; run: make setup")

POLICY, BINDING = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"


def policies(documents: list[Any]) -> dict[str, Any]:
    """The policies by the last word of their name."""
    return {d["metadata"]["name"].rpartition("-")[2]: d["spec"] for d in of(documents, POLICY)}


def test_policies_are_there_by_default_deny_and_fail_closed() -> None:
    documents = rendered()
    found = policies(documents)
    assert set(found) == {"requests", "decisions", "tenants", "finalizers", "operator", "status"}
    assert {spec["failurePolicy"] for spec in found.values()} == {"Fail"}
    bound = {d["spec"]["policyName"]: d["spec"]["validationActions"] for d in of(documents, BINDING)}
    assert bound == {d["metadata"]["name"]: ["Deny"] for d in of(documents, POLICY)}
    # Bound without exception: neither namespaces nor objects are left out.
    assert not any({"matchResources", "paramRef"} & d["spec"].keys() for d in of(documents, BINDING))
    for spec in found.values():
        assert set(spec["matchConstraints"]) == {"resourceRules"}


def test_they_are_left_out_on_demand() -> None:
    documents = rendered("admission.enabled=false")
    assert not of(documents, POLICY)
    assert not of(documents, BINDING)


def compared(documents: list[Any]) -> tuple[InstalledPolicy, ...]:
    """What operator and agent are told to compare the policies with."""
    (names,) = [d for d in of(documents, "ConfigMap") if d["metadata"]["name"].endswith("-admission")]
    return installed_policies(names["data"])


def flags(documents: list[Any]) -> list[str]:
    """Where operator and agent are told to find it."""
    pods = [d["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet") for d in of(documents, kind)]
    containers = [c for pod in pods for c in (*pod["containers"], *pod.get("initContainers", []))]
    return [text for c in containers for text in c.get("args", []) if text.startswith("--admission-policies")]


def readable(documents: list[Any], kind: str = "ClusterRole") -> list[Any]:
    """The rules by which they read policies, or the ConfigMap."""
    roles = [d for d in of(documents, kind) if d["metadata"]["name"] == "x-vaultbrix-admission"]
    return [rule for role in roles for rule in role["rules"]]


@pytest.mark.parametrize("values", [(), ("admission.operators={vaultbrix:operator,a&b<c>}",)])
def test_operator_and_agent_know_each_policy_by_its_hash_and_may_read_it_and_nothing_else(
    values: tuple[str, ...],
) -> None:
    documents = rendered(*values)
    specs = {d["metadata"]["name"]: d["spec"] for d in of(documents, POLICY)}
    bindings = {d["metadata"]["name"]: d["spec"] for d in of(documents, BINDING)}
    assert {policy.name: policy.sha256 for policy in compared(documents)} == {
        name: spec_sha256(spec) for name, spec in specs.items()
    }
    for policy in compared(documents):
        assert fault_of(policy, specs[policy.name], bindings[policy.name]) is None
    assert flags(documents) == ["--admission-policies=default/x-vaultbrix-admission"] * 2
    (names,) = readable(documents, "Role")
    assert (names["verbs"], names["resourceNames"]) == (["get"], ["x-vaultbrix-admission"])
    for binding in ("ClusterRoleBinding", "RoleBinding"):
        (bound,) = [d for d in of(documents, binding) if d["metadata"]["name"] == "x-vaultbrix-admission"]
        assert {s["name"] for s in bound["subjects"]} == {"x-vaultbrix-operator", "x-vaultbrix-agent"}
    (rule,) = readable(documents)
    assert (rule["verbs"], sorted(rule["resourceNames"])) == (["get"], sorted(specs))
    assert len(rule["resources"]) == 2


def test_left_out_they_are_nothing_to_compare_or_read() -> None:
    documents = rendered("admission.enabled=false")
    assert not [d for d in of(documents, "ConfigMap") if d["metadata"]["name"].endswith("-admission")]
    assert not flags(documents)
    assert not readable(documents)
    assert not readable(documents, "Role")


def test_the_manifest_for_those_without_helm_has_them() -> None:
    documents = [d for d in yaml.safe_load_all((TOP / "manifests/install.yaml").read_text()) if d]
    assert len(of(documents, POLICY)) == len(of(documents, BINDING)) == 6


def test_the_operator_is_known_by_its_service_account_and_by_other_names_that_are_given() -> None:
    documents = rendered("admission.operators={vaultbrix:operator}")
    accounts = {d["metadata"]["name"] for d in of(documents, "ServiceAccount")}
    assert "x-vaultbrix-operator" in accounts
    operators = '["system:serviceaccount:default:x-vaultbrix-operator","vaultbrix:operator"]'
    for name in ("requests", "finalizers", "status"):
        conditions = {c["name"]: c["expression"] for c in policies(documents)[name]["matchConditions"]}
        assert conditions["not-the-operator"] == f"!(request.userInfo.username in {operators})"
    (known,) = policies(documents)["operator"]["matchConditions"]
    assert known["expression"] == f"request.userInfo.username in {operators}"
    # Decisions and guards are no business of the operator's.
    for name in ("decisions", "tenants"):
        assert "vaultbrix:operator" not in str(policies(documents)[name])


@pytest.mark.parametrize("value", ["admission.enable=true", "admission.operators={a b}", "admission.enabled=often"])
def test_a_wrong_value_is_refused_with_its_name(value: str) -> None:
    done = helm(value)
    assert done.returncode != 0
    assert "admission" in done.stderr


def test_every_denial_says_what_and_is_no_error_of_the_request() -> None:
    for name, spec in policies(rendered()).items():
        for validation in spec["validations"]:
            assert validation["reason"] == "Forbidden", name
            assert validation["message"], name
            assert "\n" not in validation["message"], name


def test_no_expression_asks_more_often_than_its_cost_allows() -> None:
    for spec in policies(rendered()).values():
        for validation in spec["validations"]:
            assert validation["expression"].count(".allowed()") <= 2


def test_what_is_named_in_expressions_is_what_the_kinds_have() -> None:
    found = policies(rendered())
    asking = {m.crd.plural for m in KINDS if "requestedBy" in str(m.model_json_schema(by_alias=True))}  # type: ignore[attr-defined]
    assert set(found["requests"]["matchConstraints"]["resourceRules"][0]["resources"]) == asking
    (final,) = (v["expression"] for v in found["decisions"]["variables"] if v["name"] == "final")
    of_rules, of_texts = re.findall(r"\[([^\]]+)\]", final)
    assert set(re.findall(r"\w+", of_texts)) == {str(phase) for phase in FINAL_PHASES}
    assert set(re.findall(r"\w+", of_rules)) == {AccessPhase.EXPIRED, AccessPhase.REVOKED}
    tenants = str(found["tenants"]).replace("\\'", "'")
    (classes,) = re.findall(r"\[('', [^\]]+)\]\.exists", tenants)
    assert re.findall(r"\w+", classes) == [field.alias for field in ClassDays.model_fields.values()]
    fields = {field.alias for field in TenantSpec.model_fields.values()}
    assert {"ddlPolicy", "auditRetention", "adopt", "deletionPolicy", "suspended"} <= fields
    assert f"'{ConditionType.ENFORCED}'" in str(found["status"]).replace("\\'", "'")


def test_who_reports_has_the_verb_for_its_own_alone() -> None:
    documents = rendered(*DATA_API, "postgresql.serverName=db")
    reports = {
        (role["metadata"]["name"], *rule["resources"], *rule.get("resourceNames", []))
        for role in of(documents, "ClusterRole")
        for rule in role["rules"]
        if "report" in rule["verbs"]
    }
    assert reports == {
        ("x-vaultbrix-agent-report", "agents", "x-vaultbrix-postgresql-0"),
        ("x-vaultbrix-agent-report", "postgresservers", "db"),
        ("x-vaultbrix-data-api", "apikeys"),
    }
    roles = [d for kind in ("Role", "ClusterRole") for d in of(documents, kind)]
    people = {f"x-vaultbrix-{role.name}" for role in USER_ROLES}
    verbs = {verb for d in roles if d["metadata"]["name"] not in people for r in d["rules"] for verb in r["verbs"]}
    # Nobody of the release decides or asks for others.
    assert not verbs & {"approve", "request-for", "*"}
