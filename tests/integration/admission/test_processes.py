"""Operator and agent do all their work where the API server knows them apart, and people work beside them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import chart
from tests.harness.admission import EDIT, POLICIES, REMOTE_OPERATOR, agent_rights, install, let, on
from tests.harness.admission_team import MASTERS
from tests.harness.apiserver import ApiServer
from tests.harness.command_line import Person
from tests.harness.kube_http import Object
from tests.harness.shell import binaries, run, wait_for
from tests.harness.world import JANE, SERVER_NAME, SYSTEM, World, approval, rule, tenant

AGENT = "agent-1"


@pytest.fixture(scope="module")
def policed(running: World) -> Iterator[World]:
    """The world with the chart's policies, and an operator and an agent that have names and rights of their own."""
    api, processes = running.api, (running.operator, running.agent)
    before = [dict(process.env) for process in processes]
    policies = [
        document
        for kind in POLICIES
        for document in chart.of(chart.rendered(f"admission.operators={{{REMOTE_OPERATOR}}}"), kind)
    ]
    install(api, [*agent_rights(AGENT, SYSTEM), *policies])
    kubeconfigs = (api.user(REMOTE_OPERATOR, MASTERS), api.user(f"vaultbrix:agent:{AGENT}"))
    for process, kubeconfig in zip(processes, kubeconfigs, strict=True):
        process.stop()
        process.env["KUBECONFIG"] = str(kubeconfig)
    running.heal()
    yield running
    for document in policies:
        api.kubectl("delete", document["kind"], document["metadata"]["name"])
    for process, environment in zip(processes, before, strict=True):
        process.stop()
        process.env.update(environment)
    running.heal()


@pytest.fixture
def team(policed: World, world: World) -> str:
    """A namespace in which jane asks and pat decides."""
    namespace = world.team()
    let(world.api, "jane@example.com", namespace, EDIT)
    let(world.api, "pat@example.com", namespace, EDIT, on(["approve"], "ddlapprovals", "tenants"))
    jane = world.api.user("jane@example.com")
    wait_for("jane may edit", lambda: kubectl(world.api, jane, "-n", namespace, "get", "tenants") == 0)
    return namespace


def kubectl(api: ApiServer, kubeconfig: Path, *arguments: str, body: Object | None = None) -> int:
    command = [str(binaries() / "kubectl"), "--kubeconfig", str(kubeconfig), *arguments]
    return run(*command, check=False, input_text=json.dumps(body) if body else None).returncode


def asked(world: World, body: Object) -> str:
    """An object that jane makes; returns its name."""
    assert kubectl(world.api, world.api.user("jane@example.com"), "create", "-f", "-", body=body) == 0
    name: str = body["metadata"]["name"]
    return name


def test_a_rule_opens_is_ready_and_ends_with_what_the_agent_says_of_it(world: World, team: str) -> None:
    name = asked(world, tenant(team, f"a-{team}"))
    world.api.await_condition("tenant", name, team)
    made = asked(world, rule(team, "jane", name, f"{JANE}/32", login="PerRule"))
    world.api.await_condition("accessrule", made, team)
    status = world.api.get("accessrule", made, team)["status"]
    assert status["server"] == SERVER_NAME
    assert [(a["name"], a["hba"], a["kernel"]) for a in status["agents"]] == [(AGENT, True, True)]
    client = world.psql(JANE, team, name, "SELECT 1", secret_name="jane-access")
    assert client.works()
    shell = Person(world.api.user("jane@example.com"))
    shell.succeeds("revoke", made, "-n", team)
    (report,) = world.api.get("accessrule", made, team)["status"]["agents"]
    assert (report["hba"], report["kernel"]) == (False, False)
    assert not client.works()


def test_the_server_shows_its_agent(world: World, team: str) -> None:
    world.api.await_condition("pgs", SERVER_NAME, "", type_="AgentConnected")
    assert [a["name"] for a in world.api.get("pgs", SERVER_NAME)["status"]["agents"]] == [AGENT]


def test_an_approval_is_asked_for_decided_and_used(world: World, team: str) -> None:
    name = asked(world, tenant(team, f"a-{team}"))
    world.api.await_condition("tenant", name, team)
    opened = asked(world, rule(team, "jane", name, f"{JANE}/32"))
    world.api.await_condition("accessrule", opened, team)
    assert world.psql(JANE, team, name, "CREATE TABLE a()").works()
    drop = asked(world, approval(team, "drop", name, "DROP TABLE a", execution="Session"))
    jane, pat = (Person(world.api.user(f"{who}@example.com")) for who in ("jane", "pat"))
    jane.fails("ddl", "approve", drop, "-n", team, "--yes")
    pat.succeeds("ddl", "approve", drop, "-n", team, "--yes")
    world.api.await_condition("ddl", drop, team, type_="PassIssued")
    assert world.psql(JANE, team, name, "DROP TABLE a").works()
    wait_for("it is told", lambda: world.api.get("ddl", drop, team)["status"].get("phase") == "Succeeded")


def test_what_has_ended_goes_with_its_finalizers(world: World, team: str) -> None:
    name = asked(world, tenant(team, f"a-{team}"))
    world.api.await_condition("tenant", name, team)
    made = asked(world, rule(team, "jane", name, f"{JANE}/32", login="PerRule"))
    world.api.await_condition("accessrule", made, team)
    kinds = (("accessrule", made), ("tenant", name))
    for kind, known in kinds:
        assert world.api.get(kind, known, team)["metadata"]["finalizers"]
        assert kubectl(world.api, world.api.user("jane@example.com"), "-n", team, "delete", kind, known) == 0
        assert not world.api.get(kind, known, team)
