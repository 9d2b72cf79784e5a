"""Whose rights the chart gives over what: the Jobs' namespace, Secrets by name, roles of users; and what it refuses."""

from typing import Any

import pytest
from tests.harness import chart
from tests.harness.chart import DATA_API, JOBS, NAMESPACE, approvals_job, helm, of, postgresql, rendered

from vaultbrix.api.crd import custom_resource_definition
from vaultbrix.api.kinds import KINDS
from vaultbrix.api.roles import USER_ROLES

pytestmark = pytest.mark.skipif(not chart.available(), reason="needs helm; run: make setup")

# What seals the record, what the store belongs to, and what certificates are signed with.
SHUT = ("x-vaultbrix-ca", "x-vaultbrix-audit-owner", "x-vaultbrix-audit-shipper", "x-vaultbrix-audit-tls")


def rules_for(documents: list[Any], account: str) -> dict[str, list[Any]]:
    """The rules that a ServiceAccount of the release has, by namespace; "" is everywhere."""
    roles = {(d["kind"], d["metadata"].get("namespace", ""), d["metadata"]["name"]): d["rules"] for d in documents
             if d["kind"] in ("Role", "ClusterRole")}  # fmt: skip
    found: dict[str, list[Any]] = {}
    for binding in (*of(documents, "RoleBinding"), *of(documents, "ClusterRoleBinding")):
        if any(subject["name"] == account for subject in binding["subjects"]):
            namespace, reference = binding["metadata"].get("namespace", ""), binding["roleRef"]
            home = namespace if reference["kind"] == "Role" else ""
            found.setdefault(namespace, []).extend(roles[reference["kind"], home, reference["name"]])
    return found


def secrets(rules: list[Any]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Names and verbs of the rules on Secrets; no name is all."""
    return [(tuple(r.get("resourceNames", ())), tuple(r["verbs"])) for r in rules if "secrets" in r["resources"]]


def test_the_operator_reads_secrets_of_its_namespace_by_name_and_makes_none_there() -> None:
    rules = rules_for(rendered("rbac.serverSecrets={db1-admin,db1-ca}"), "x-vaultbrix-operator")
    given = secrets(rules[NAMESPACE])
    assert all(names and set(verbs) <= {"get", "watch"} for names, verbs in given)
    readable = {name for names, _ in given for name in names}
    assert {"x-vaultbrix-postgresql-admin", "x-vaultbrix-audit-reader", "db1-admin", "db1-ca"} <= readable
    assert not readable & set(SHUT)
    assert not secrets(rules[""])


def test_the_operator_reads_the_definitions_of_its_kinds_and_no_other() -> None:
    given = [r for r in rules_for(rendered(), "x-vaultbrix-operator")[""] if "apiextensions.k8s.io" in r["apiGroups"]]
    names = [custom_resource_definition(kind)["metadata"]["name"] for kind in KINDS]
    assert [(rule["verbs"], rule["resourceNames"]) for rule in given] == [(["get"], names)]


def test_it_has_pods_nowhere_but_in_the_jobs_namespace_where_nothing_else_is() -> None:
    documents = rendered()
    rules = rules_for(documents, "x-vaultbrix-operator")
    makers = {
        namespace
        for namespace, given in rules.items()
        for rule in given
        if {"create", "patch", "update"} & set(rule["verbs"])
        and {"pods", "jobs", "deployments", "statefulsets", "daemonsets"} & set(rule["resources"])
    }
    assert makers == {JOBS}
    (namespace,) = of(documents, "Namespace")
    assert namespace["metadata"]["name"] == JOBS
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    there = {d["kind"] for d in documents if d["metadata"].get("namespace") == JOBS}
    assert there == {"Role", "RoleBinding", "NetworkPolicy"}
    (operator,) = [d for d in of(documents, "Deployment") if d["metadata"]["name"].endswith("-operator")]
    assert f"--jobs-namespace={JOBS}" in operator["spec"]["template"]["spec"]["containers"][0]["args"]


def test_a_job_is_what_pod_security_restricted_takes_and_is_nobody() -> None:
    spec = approvals_job()["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["capabilities"]) == (False, {"drop": ["ALL"]})
    bound = [s for kind in ("RoleBinding", "ClusterRoleBinding") for d in of(rendered(), kind) for s in d["subjects"]]
    assert not [subject for subject in bound if subject["name"] == "default" or subject.get("namespace") == JOBS]


def test_the_namespace_has_another_name_where_that_is_asked_for() -> None:
    documents = rendered("jobs.namespace=runs", "jobs.createNamespace=false", *DATA_API)
    assert not of(documents, "Namespace")
    assert "runs" in rules_for(documents, "x-vaultbrix-operator")
    assert list(rules_for(documents, "x-vaultbrix-data-api")) == ["runs", ""]
    (server,) = of(documents, "PostgresServer")
    assert "runs" in {pods["namespace"] for pods in server["spec"]["trusted"]["pods"]}
    gateway = next(d for d in of(documents, "Deployment") if d["metadata"]["name"].endswith("data-api"))
    assert "--namespace=runs" in gateway["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"jobs.namespace={NAMESPACE}", "jobs.namespace is the release's own"),
        ("jobs.namespace=Jobs", "namespace"),
        (f"rbac.tenantNamespaces={{{NAMESPACE}}}", f"rbac.tenantNamespaces: {NAMESPACE} cannot be a Tenant's"),
        (f"rbac.tenantNamespaces={{{JOBS}}}", f"rbac.tenantNamespaces: {JOBS} cannot be a Tenant's"),
        ("rbac.tenantNamespaces={kube-system}", "rbac.tenantNamespaces: kube-system cannot be a Tenant's"),
        *((f"rbac.serverSecrets={{{name}}}", f"the operator must not read {name}") for name in SHUT),
        ("rbac.serverSecrets={x-vaultbrix-audit-shipper-db1}", "must not read x-vaultbrix-audit-shipper-db1"),
        ("rbac.serverSecrets={Admin}", "serverSecrets"),
        ("rbac.adminSecrets={a}", "adminSecrets"),
    ],
)
def test_a_value_that_would_give_too_much_is_refused_with_its_name(value: str, said: str) -> None:
    done = helm(value)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_release_with_a_long_name_of_its_namespace_says_what_to_set() -> None:
    done = helm(namespace="n" * 60)
    assert done.returncode != 0
    assert "jobs.namespace would be" in done.stderr


def test_only_an_upgrade_may_delete_what_earlier_releases_ran_in_the_releases_namespace() -> None:
    fresh, upgraded = (rules_for(rendered(upgrade=u), "x-vaultbrix-bootstrap")[NAMESPACE] for u in (False, True))
    assert [rule for rule in upgraded if rule not in fresh] == [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list", "delete"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["delete"]},
    ]
    for upgrade in (False, True):
        (job,) = of(rendered(upgrade=upgrade), "Job")
        assert ("--sweep-jobs" in job["spec"]["template"]["spec"]["containers"][0]["args"]) == upgrade


def test_who_seals_the_record_has_no_token_and_its_key_is_mounted_there_alone() -> None:
    documents = rendered(*DATA_API)
    pods = [d["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet", "Job") for d in of(documents, kind)]
    holders = {
        (container["name"], secret["secret"]["secretName"])
        for pod in pods
        for secret in pod.get("volumes", [])
        if secret.get("secret", {}).get("secretName") in SHUT
        for container in (*pod.get("initContainers", []), *pod["containers"])
        if any(mount["name"] == secret["name"] for mount in container["volumeMounts"])
    }
    assert holders == {
        ("shipper", "x-vaultbrix-audit-shipper"),
        ("initialise", "x-vaultbrix-audit-owner"),
        ("postgresql", "x-vaultbrix-audit-tls"),
    }
    pod = postgresql(documents)
    assert pod["automountServiceAccountToken"] is False
    (shipper,) = [c for c in pod["initContainers"] if c["name"] == "shipper"]
    assert "token" not in {mount["name"] for mount in shipper["volumeMounts"]}


def test_roles_of_users_become_part_of_those_of_kubernetes_but_for_who_decides() -> None:
    def parts(*values: str) -> dict[str, set[str]]:
        prefix = "rbac.authorization.k8s.io/aggregate-to-"
        return {
            d["metadata"]["name"].rpartition("-")[2]: {
                label.removeprefix(prefix) for label in d["metadata"]["labels"] if label.startswith(prefix)
            }
            for d in of(rendered(*values), "ClusterRole")
        }

    found = parts()
    assert {name: found[name] for name in ("view", "edit", "approve", "admin")} == {
        "view": {"view"}, "edit": {"edit", "admin"}, "approve": set(), "admin": set(),
    }  # fmt: skip
    assert not any(aggregated for name, aggregated in found.items() if name not in ("view", "edit"))
    assert not any(parts("rbac.aggregate=false").values())


def test_no_role_of_users_reads_secrets_or_writes_a_status_and_who_asks_does_not_decide() -> None:
    verbs = {role.name: {verb for right in role.rights for verb in right.verbs} for role in USER_ROLES}
    assert {name for name, given in verbs.items() if "approve" in given} == {"approve"}
    assert not any(given & {"request-for", "report", "*"} for given in verbs.values())
    documents = {d["metadata"]["name"]: d["rules"] for d in of(rendered(), "ClusterRole")}
    for role in USER_ROLES:
        for rule in documents[f"x-vaultbrix-{role.name}"]:
            assert rule["apiGroups"] == ["vaultbrix.com"]
            assert not [kind for kind in rule["resources"] if "/" in kind]
            assert "postgresservers" not in rule["resources"] or role.name == "admin" or set(rule["verbs"]) <= {
                "get", "list", "watch",
            }  # fmt: skip
