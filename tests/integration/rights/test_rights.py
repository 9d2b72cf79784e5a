"""Everybody may do what they need and nothing else: the table of tests/harness/rights.py against a real API server."""

import asyncio
import base64
from collections.abc import Iterator

import pytest
from tests.harness.admission import (
    RBAC,
    SHA256,
    Answer,
    Caller,
    PolicedCluster,
    approval,
    bind,
    decision,
    rule,
    tenant,
)
from tests.harness.chart import approvals_job
from tests.harness.kube_http import Object
from tests.harness.rights import (
    DATA_API,
    JOBS,
    OPERATORS,
    PEOPLE,
    PROCESSES,
    RELEASE,
    SHUT,
    TEAM,
    UPGRADING,
    Identity,
    Need,
    Reviewer,
)
from tests.harness.shell import wait_for

from vaultbrix.install.bootstrap import sweep_jobs
from vaultbrix.kube.client import Kube

CORE = f"/api/v1/namespaces/{RELEASE}"
OURS = "/apis/vaultbrix.com/v1alpha1"


@pytest.fixture(scope="module")
def reviewer(cluster: PolicedCluster) -> Reviewer:
    return Reviewer(cluster.api)


@pytest.fixture(scope="module", autouse=True)
def sealed(cluster: PolicedCluster) -> None:
    """Secrets as bootstrap makes them, each with something in it."""
    for name in (*SHUT, *OPERATORS):
        cluster.api.apply({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": RELEASE},
            "stringData": {"password": "secret"},
        })  # fmt: skip


@pytest.mark.parametrize("who", [*PROCESSES.values(), *PEOPLE.values()], ids=[*PROCESSES, *PEOPLE])
def test_everybody_may_do_what_they_need_and_nothing_else(reviewer: Reviewer, who: Identity) -> None:
    assert reviewer.differences(who) == []


def test_an_upgrade_may_sweep_and_no_more(cluster: PolicedCluster, reviewer: Reviewer) -> None:
    cluster.install("Role", upgrade=True)
    try:
        wait_for("the API server knows", lambda: reviewer.allows(UPGRADING, ("batch", "jobs", "list", "", RELEASE)))
        assert reviewer.differences(UPGRADING) == []
    finally:
        cluster.install("Role")


def test_an_upgrade_sweeps_jobs_of_earlier_releases_with_their_secrets_and_nothing_else(
    cluster: PolicedCluster, reviewer: Reviewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str, labels: dict[str, str]) -> None:
        metadata = {"name": name, "namespace": RELEASE, "labels": labels}
        job = {"template": {"spec": pod("default")}}
        cluster.api.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job})
        cluster.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"a": "b"}})

    approvals = approvals_job()["metadata"]["labels"]
    make("ddl-1", approvals)
    # As the chart's own, and as somebody else's.
    make("x-vaultbrix-bootstrap-1", {"app.kubernetes.io/managed-by": "Helm"})
    make("theirs", {"app.kubernetes.io/managed-by": "vaultbrix"})
    cluster.install("Role", upgrade=True)
    try:
        wait_for("the API server knows", lambda: reviewer.allows(UPGRADING, ("batch", "jobs", "list", "", RELEASE)))
        monkeypatch.setenv("KUBECONFIG", str(cluster.api.account(RELEASE, "x-vaultbrix-bootstrap")))

        async def sweep() -> None:
            kube = await Kube.connect("vaultbrix-bootstrap")
            await sweep_jobs(kube, RELEASE)
            # Again, as after a crash.
            await sweep_jobs(kube, RELEASE)
            await kube.close()

        asyncio.run(sweep())
    finally:
        cluster.install("Role")
    left = {name: (cluster.api.get("job", name, RELEASE), cluster.api.get("secret", name, RELEASE))
            for name in ("ddl-1", "x-vaultbrix-bootstrap-1", "theirs")}  # fmt: skip
    assert left.pop("ddl-1") == ({}, {})
    assert all(job and secret for job, secret in left.values())


@pytest.fixture
def operator(cluster: PolicedCluster) -> Caller:
    return cluster.account(RELEASE, "x-vaultbrix-operator")


def refused(answer: Answer) -> bool:
    """Whether RBAC refused it."""
    return answer.code == 403 and "cannot" in str(answer.body["message"])


@pytest.mark.parametrize("name", SHUT)
def test_what_seals_the_record_is_out_of_the_operators_reach(operator: Caller, name: str) -> None:
    path = f"{CORE}/secrets/{name}"
    assert refused(operator.send("GET", path))
    assert refused(operator.send("GET", f"{CORE}/secrets?watch=true&fieldSelector=metadata.name={name}"))
    assert refused(operator.send("DELETE", path))
    for kind in ("application/merge-patch+json", "application/apply-patch+yaml"):
        assert refused(operator.send("PATCH", f"{path}?fieldManager=x", {"stringData": {"password": "x"}}, kind))


@pytest.mark.parametrize("name", OPERATORS)
def test_it_reads_and_watches_what_servers_name(operator: Caller, name: str) -> None:
    answer = operator.send("GET", f"{CORE}/secrets/{name}")
    assert base64.b64decode(answer.body["data"]["password"]) == b"secret"
    assert refused(operator.send("DELETE", f"{CORE}/secrets/{name}"))


@pytest.mark.parametrize(
    "query", ["", "?watch=true", "?fieldSelector=metadata.name!=x", f"?fieldSelector=metadata.namespace={RELEASE}"]
)
def test_it_lists_no_secrets_of_the_release_in_any_way(operator: Caller, query: str) -> None:
    assert refused(operator.send("GET", f"{CORE}/secrets{query}"))
    assert refused(operator.send("GET", f"/api/v1/secrets{query}"))
    assert refused(operator.send("DELETE", f"{CORE}/secrets{query}"))


def token_secret(name: str, of: str) -> Object:
    """A Secret that the cluster would fill with a token of that ServiceAccount."""
    annotations = {"kubernetes.io/service-account.name": of}
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": name, "annotations": annotations},
    }  # fmt: skip


def pod(account: str) -> Object:
    return {"serviceAccountName": account, "restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}


def test_it_cannot_become_who_may_more(operator: Caller) -> None:
    account = "x-vaultbrix-bootstrap"
    # By a token, whatever it is called: also under a name that it reads.
    for name in ("x", DATA_API, OPERATORS[0]):
        assert refused(operator.send("POST", f"{CORE}/secrets", token_secret(name, account)))
    assert refused(operator.send("POST", f"{CORE}/serviceaccounts/{account}/token", {"spec": {}}))
    # By a Pod.
    metadata = {"metadata": {"name": "x"}}
    assert refused(operator.send("POST", f"{CORE}/pods", {**metadata, "spec": pod(account)}))
    job = {**metadata, "spec": {"template": {"spec": pod(account)}}}
    assert refused(operator.send("POST", f"/apis/batch/v1/namespaces/{RELEASE}/jobs", job))
    assert refused(operator.send("POST", f"{CORE}/pods/x-vaultbrix-postgresql-0/exec?command=id"))
    # By a right, and by saying so.
    reference = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"kind": "ServiceAccount", "name": "x-vaultbrix-operator", "namespace": RELEASE}
    binding = {**metadata, "roleRef": reference, "subjects": [subject]}
    assert refused(operator.send("POST", f"/apis/{RBAC}/v1/namespaces/{RELEASE}/rolebindings", binding))
    other = operator.acting_as(f"system:serviceaccount:{RELEASE}:{account}")
    assert refused(other.send("GET", f"{CORE}/secrets/{SHUT[0]}"))


def test_a_job_that_is_more_than_a_job_does_not_run(operator: Caller) -> None:
    spec = {**pod("default"), "hostNetwork": True, "hostPID": True}
    body = {"metadata": {"name": "grabs"}, "spec": {"template": {"spec": spec}}}
    answer = operator.send("POST", f"/apis/batch/v1/namespaces/{JOBS}/jobs?dryRun=All", body)
    # Jobs are taken and their Pods refused, and the Pods are made by a controller.
    assert answer.allowed
    maker = operator.send("POST", f"/api/v1/namespaces/{JOBS}/pods", {"metadata": {"name": "x"}, "spec": spec})
    assert refused(maker)


def test_pods_that_are_not_restricted_are_refused_in_the_jobs_namespace(cluster: PolicedCluster) -> None:
    body = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "grabs", "namespace": JOBS}, "spec": pod("default"),
    }  # fmt: skip
    assert 'violates PodSecurity "restricted' in cluster.api.refusal(body)


@pytest.mark.parametrize("account", ["x-vaultbrix-agent", "x-vaultbrix-bootstrap", "x-vaultbrix-data-api", "default"])
def test_nobody_else_lists_secrets_or_reads_those_that_are_not_theirs(cluster: PolicedCluster, account: str) -> None:
    caller = cluster.account(RELEASE, account) if account != "default" else job_account(cluster)
    for namespace in (RELEASE, JOBS, TEAM):
        assert refused(caller.send("GET", f"/api/v1/namespaces/{namespace}/secrets"))
    if account != "x-vaultbrix-bootstrap":
        for name in (*SHUT, *OPERATORS):
            assert refused(caller.send("GET", f"{CORE}/secrets/{name}"))


def job_account(cluster: PolicedCluster) -> Caller:
    """Whom a Job's Pod would be, if it had a token."""
    metadata = {"name": "default", "namespace": JOBS}
    cluster.api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    return cluster.account(JOBS, "default")


@pytest.fixture(scope="module")
def asked(cluster: PolicedCluster) -> Iterator[tuple[Object, Object]]:
    """A rule and a request of the editor's, as the operator shows them."""
    editor, made = cluster.person("edit@example.com"), []
    for body in (rule(TEAM, editor.name), approval(TEAM, editor.name)):
        assert editor.create(body).allowed
        status = {"status": {"phase": "Pending", "sha256": SHA256}}
        by = cluster.account(RELEASE, "x-vaultbrix-operator")
        assert by.apply(body, status, "status", manager="vaultbrix-operator").allowed
        made.append(body)
    yield made[0], made[1]
    for body in made:
        assert editor.send("DELETE", editor.path(body)).allowed


def test_who_edits_asks_and_does_not_decide(cluster: PolicedCluster, asked: tuple[Object, Object]) -> None:
    editor, admin = cluster.person("edit@example.com"), cluster.person("admin@example.com")
    for body in asked:
        assert not editor.merge(body, {"spec": {"decision": decision(editor.name)}}).allowed
        assert "takes verb approve" in admin.merge(body, {"spec": {"decision": decision(admin.name)}}).denial
        for who in (editor, admin):
            assert refused(who.merge(body, {"status": {"phase": "Open"}}, "status"))
    held = tenant(TEAM, "held")
    assert editor.create(held).allowed
    assert editor.merge(held, {"spec": {"deletionPolicy": "Delete"}}).denial
    assert editor.send("DELETE", editor.path(held)).allowed
    assert refused(editor.create(server_named("theirs")))


def server_named(name: str) -> Object:
    return {
        "apiVersion": "vaultbrix.com/v1alpha1", "kind": "PostgresServer", "metadata": {"name": name},
        "spec": {"host": "evil.example.com", "tls": {"mode": "require"},
                 "adminSecretRef": {"name": OPERATORS[0], "namespace": RELEASE}},
    }  # fmt: skip


def test_who_approves_decides_and_asks_for_nothing(cluster: PolicedCluster, asked: tuple[Object, Object]) -> None:
    approver = cluster.person("approve@example.com")
    opened, dropped = asked
    assert refused(approver.create(rule(TEAM, approver.name, "own")))
    assert approver.merge(opened, {"spec": {"cidrs": ["198.51.100.9/32"]}}).denial
    assert refused(approver.send("DELETE", approver.path(opened)))
    assert refused(approver.send("GET", f"/api/v1/namespaces/{TEAM}/secrets"))
    for body in (opened, dropped):
        assert approver.merge(body, {"spec": {"decision": decision(approver.name)}}).allowed
    elsewhere = f"{OURS}/namespaces/stranger/accessrules"
    assert refused(approver.send("GET", elsewhere))


def test_an_agent_writes_of_its_own_server_alone(cluster: PolicedCluster) -> None:
    of_main, of_other = cluster.account(RELEASE, "x-vaultbrix-agent"), cluster.person("vaultbrix:agent:db2")
    for caller, own, other, name in (
        (of_main, "main", "other", "x-vaultbrix-postgresql-0"),
        (of_other, "other", "main", "db2"),
    ):
        entry = {"status": {"agents": [{"name": name, "namespace": RELEASE, "at": "2026-01-01T00:00:00Z"}]}}
        servers = {s: {"kind": "PostgresServer", "metadata": {"name": s}} for s in (own, other)}
        assert caller.apply(servers[own], entry, "status", manager=f"vaultbrix-agent-{name}").allowed
        assert caller.apply(servers[other], entry, "status", manager=f"vaultbrix-agent-{name}").denial
        assert refused(caller.merge(servers[own], {"spec": {"host": "evil.example.com"}}))


def test_roles_of_kubernetes_have_view_and_edit_and_decide_nothing(cluster: PolicedCluster, reviewer: Reviewer) -> None:
    for role in ("view", "edit", "admin"):
        bind(cluster.api, f"built-in-{role}@example.com", role, TEAM)
    ours = {"view": PEOPLE["view"], "edit": PEOPLE["edit"], "admin": PEOPLE["edit"]}
    with cluster.api.aggregating():
        for role, like in ours.items():
            who = Identity(f"built-in-{role}@example.com", like.needs)
            attempt = ("vaultbrix.com", "accessrules", "get" if role == "view" else "create", "", TEAM)
            wait_for(f"{role} has ours", lambda who=who, a=attempt: reviewer.allows(who, a), patience=60)  # type: ignore[misc]
            found = [d for d in reviewer.differences(who) if "'vaultbrix.com'" in d]
            assert found == [], role
            reads = reviewer.allows(who, ("", "secrets", "get", "acme-db", TEAM))
            assert reads == (role != "view")


def test_the_table_finds_what_is_too_much_and_what_is_missing(cluster: PolicedCluster, reviewer: Reviewer) -> None:
    needs = Need("vaultbrix.com", ("tenants",), ("get",), (TEAM,))
    assert reviewer.differences(Identity("view@example.com", (needs,)))
    assert reviewer.differences(Identity("stranger@example.com", (needs,))) == [
        f"may not ('vaultbrix.com', 'tenants', 'get', '', '{TEAM}')"
    ]
