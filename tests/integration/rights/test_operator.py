"""The operator does all its work with the rights that the chart gives it, and says which one it lacks."""

import json
from collections.abc import Iterator

import pytest
from tests.harness import chart
from tests.harness.admission import POLICIES, POLICY_LIST, RIGHTS, install
from tests.harness.approvals import Approval, submit
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for
from tests.harness.world import FOR_SERVER, JANE, JOBS, SERVER_NAME, SYSTEM, World, secret, server

TEAM = "team-of-rights"
VALUES = (
    "postgresql.enabled=false",
    "rbac.serverSecrets={pg-admin,pg-ca,audit-reader}",
    f"dataAPI.servers={{{SERVER_NAME}}}",
)
MASTERS = "system:masters"


@pytest.fixture(scope="module", autouse=True)
def least(running: World) -> Iterator[None]:
    """The world with an operator that has a name and rights of its own, and the chart's policies."""
    running.heal()
    running.api.namespace(TEAM)
    # Where other tests have left Tenants it has the rights that it needs for them, too.
    there = running.api.request("GET", "/apis/vaultbrix.com/v1alpha1/tenants")["items"]
    teams = [tenant["metadata"]["namespace"] for tenant in there]
    release = chart.rendered(*VALUES, f"rbac.tenantNamespaces={{{','.join(sorted({TEAM, *teams}))}}}", namespace=SYSTEM)
    names = [d for d in chart.of(release, "ConfigMap") if d["metadata"]["name"] == POLICY_LIST]
    install(running.api, [*names, *(document for kind in (*RIGHTS, *POLICIES) for document in chart.of(release, kind))])
    (deployment,) = chart.of(release, "Deployment")
    options = [
        option
        for option in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        if option.startswith(("--admission-policies=", "--jobs-namespace="))
    ]
    operator, kubeconfig = running.operator, running.api.account(SYSTEM, "x-vaultbrix-operator")
    operator.stop()
    before, command = dict(operator.env), list(operator.command)
    operator.env["KUBECONFIG"] = str(kubeconfig)
    operator.command += options
    running.heal()
    yield
    operator.stop()
    operator.env.update(before)
    operator.command[:] = command
    for document in (*chart.of(release, POLICIES[1]), *chart.of(release, POLICIES[0])):
        running.api.kubectl("delete", document["kind"], document["metadata"]["name"])
    running.heal()


@pytest.fixture(scope="module")
def tenant(running: World) -> str:
    """A Tenant that the server serves."""
    running.api.patch("pgs", SERVER_NAME, "", {"spec": {"dataAPI": {"url": "https://api.example.test"}}})
    return running.tenant(TEAM, dataAPI={})


def refusals(world: World) -> list[str]:
    """What the operator has logged that it may not do."""
    return [line for line in world.operator.text().splitlines() if " cannot " in line and "forbidden" in line]


def test_a_server_is_ready_and_nothing_about_it_is_unknown_for_want_of_a_right(world: World, tenant: str) -> None:
    for condition in (
        "Ready",
        "GateInstalled",
        "AgentConnected",
        "AdmissionEnforced",
        "DefinitionsCurrent",
        "DataAPIReady",
        "AuditFlowing",
    ):
        world.api.await_condition("pgs", SERVER_NAME, "", type_=condition, patience=90)
    wait_for("orphans were looked for", lambda: world.api.condition("pgs", SERVER_NAME, "NoOrphans", "default"))
    conditions = world.api.get("pgs", SERVER_NAME)["status"]["conditions"]
    assert not [c for c in conditions if c["reason"] == "Forbidden"]
    policy = wait_for("its NetworkPolicy is there", lambda: world.api.get("netpol", f"vaultbrix-{SERVER_NAME}", SYSTEM))
    assert policy


def test_a_rule_opens_and_ends_with_its_login_and_its_receipt(world: World, tenant: str) -> None:
    rule = world.rule(TEAM, tenant, f"{JANE}/32", name="jane", login="PerRule")
    world.api.await_condition("accessrule", rule, TEAM)
    assert world.psql(JANE, TEAM, tenant, "SELECT 1", secret_name="jane-access").works()
    world.api.patch("accessrule", rule, TEAM, {"spec": {"revoked": True}})

    def receipt() -> Object:
        found: Object = world.api.get("accessrule", rule, TEAM)["status"].get("receipt", {})
        return found

    wait_for("the receipt is complete", lambda: receipt().get("complete"), patience=120, pause=1, tell=receipt)
    assert not world.api.get("secret", "jane-access", TEAM)
    world.api.delete("accessrule", rule, TEAM)


def decide(made: Approval) -> None:
    """Have boss approve it, by a request that says so."""
    sha256 = wait_for("it shows its hash", lambda: made.status.get("sha256"), tell=made.tell)
    body = {"spec": {"decision": {"verdict": "Approved", "by": "boss@example.com", "sha256": sha256}}}
    boss = ("--as=boss@example.com", f"--as-group={MASTERS}")
    patch = ("patch", "ddl", made.name, "--type=merge", "-p", json.dumps(body))
    made.world.api.kubectl("-n", made.team, *patch, *boss)


def test_an_approval_is_rehearsed_decided_and_run_by_a_job_in_the_jobs_namespace(world: World, tenant: str) -> None:
    made = submit(world, TEAM, "drops", tenant, "CREATE TABLE a(); DROP TABLE a")
    made.rehearsed()
    decide(made)
    job = made.await_job()
    assert job["metadata"]["namespace"] == JOBS
    assert not world.api.get("job", job["metadata"]["name"], SYSTEM)
    assert made.pod().run() == 0
    made.phase("Succeeded")
    wait_for("nothing is left of it", lambda: not made.left(), tell=made.left)


def test_an_approval_that_fails_says_what_its_pod_said_and_one_that_is_withdrawn_takes_its_job_along(
    world: World, tenant: str
) -> None:
    failing = submit(world, TEAM, "fails", tenant, "DROP TABLE no_such_table")
    decide(failing)
    assert failing.pod().run() == 3
    assert failing.phase("Failed")["error"]["sqlstate"] == "42P01"
    withdrawn = submit(world, TEAM, "withdrawn", tenant, "CREATE TABLE b(); DROP TABLE b")
    decide(withdrawn)
    withdrawn.await_job()
    uid = withdrawn.uid
    withdrawn.delete()
    assert not world.api.get("job", f"ddl-{uid}", JOBS)
    assert not world.api.get("secret", f"ddl-{uid}", JOBS)


def test_a_tenant_is_served_has_keys_and_goes(world: World, tenant: str) -> None:
    world.api.await_condition("tenant", tenant, TEAM, type_="DataAPIReady")
    assert world.secret(JOBS, f"{SERVER_NAME}-data-api")["key"]
    assert not world.api.get("secret", f"{SERVER_NAME}-data-api", SYSTEM)
    key = world.api_key(TEAM, tenant)
    assert world.secret(TEAM, f"{key}-api-key")
    other = world.tenant(TEAM)
    world.api.delete("tenant", other, TEAM)


def test_what_nobody_explains_in_the_jobs_namespace_is_swept(world: World) -> None:
    name = "ddl-00000000-0000-4000-8000-000000000000"
    left = secret(JOBS, name, {"password": "x"})
    left["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "vaultbrix"}
    world.operator.stop()
    world.api.apply(left)
    world.operator.start()
    wait_for("it is gone", lambda: not world.api.get("secret", name, JOBS), patience=90)


def test_none_of_that_was_refused(world: World, tenant: str) -> None:
    assert refusals(world) == []


def test_a_servers_key_comes_along_from_where_an_earlier_release_kept_it(world: World, tenant: str) -> None:
    name = f"{SERVER_NAME}-data-api"
    world.api.await_condition("tenant", tenant, TEAM, type_="DataAPIReady")
    kept = world.api.get("secret", name, JOBS)
    world.operator.stop()
    world.api.delete("secret", name, JOBS)
    metadata = {"name": name, "namespace": SYSTEM, "ownerReferences": kept["metadata"]["ownerReferences"]}
    world.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": kept["data"]})
    world.operator.start()
    moved = wait_for("it is in the Jobs' namespace", lambda: world.api.get("secret", name, JOBS), patience=60)
    assert moved["data"] == kept["data"]
    world.api.delete("secret", name, SYSTEM)


def test_a_tenant_where_the_operator_may_write_no_secret_names_the_value_that_says_where(world: World) -> None:
    team = world.team()
    name = world.tenant(team, wait=False)
    said = world.api.await_condition("tenant", name, team, status="False", reason="Forbidden")
    assert said["message"].startswith(
        f"the operator may not write Secret {name}-db in namespace {team}: rbac.tenantNamespaces of the chart gives "
        f"that right, and should name {team} ("
    )
    world.api.delete("tenant", name, team)


def test_a_server_whose_secret_the_operator_may_not_read_names_it_and_the_value(world: World) -> None:
    hidden = secret(SYSTEM, "hidden", {"username": "postgres", "password": "x"}, for_servers="second")
    world.api.apply(hidden)
    world.api.apply(server("second", adminSecretRef={"name": "hidden", "namespace": SYSTEM}))
    said = world.api.await_condition("pgs", "second", "", status="False", reason="Forbidden")
    assert said["message"].startswith(
        f"spec.adminSecretRef: the operator may not read Secret {SYSTEM}/hidden; add hidden"
    )
    assert "rbac.serverSecrets of the chart" in said["message"]
    world.api.delete("pgs", "second", "")
    assert hidden["metadata"]["labels"] == {FOR_SERVER: "second"}


@pytest.mark.parametrize(
    ("namespace", "reason", "remedy"),
    [
        ("team-of-rights", "Forbidden", "jobs.namespace of the chart says where it has that right"),
        ("absent", "NamespaceNotFound", "namespace absent, where Jobs run, does not exist; create it"),
    ],
)
def test_an_approval_that_finds_no_place_for_its_job_says_so_and_runs_once_there_is_one(
    world: World, tenant: str, namespace: str, reason: str, remedy: str
) -> None:
    operator, made_before = world.operator, list(world.operator.command)
    operator.stop()
    operator.command.append(f"--jobs-namespace={namespace}")
    account = f"--serviceaccount={SYSTEM}:x-vaultbrix-operator"
    if reason == "NamespaceNotFound":
        # Who may everything learns that it is not there; everybody else that they may not.
        world.api.kubectl("create", "clusterrolebinding", "anywhere", "--clusterrole=cluster-admin", account)
    operator.start()
    try:
        made = submit(world, TEAM, f"nowhere-{reason.lower()}", tenant, "CREATE TABLE c(); DROP TABLE c")
        decide(made)
        said = wait_for(
            "it says why", lambda: c if (c := made.condition("Ready"))["reason"] == reason else None, tell=made.tell
        )
        assert remedy in said["message"]
    finally:
        operator.stop()
        world.api.kubectl("delete", "clusterrolebinding", "anywhere", "--ignore-not-found")
        operator.command[:] = made_before
        operator.start()
    wait_for("there is a Job", made.job, patience=120, tell=made.tell)
    assert made.pod().run() == 0
    made.phase("Succeeded")
